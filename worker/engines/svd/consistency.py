"""The scheduler of AnimateLCM-SVD, which diffusers does not have: multistep consistency sampling (Song et al. 2023,
algorithm 1), with the noise levels and the v-prediction of EDM (Karras et al. 2022) at a sigma_data of 1.

The UNet guesses the clip in every step, and all but the last guess get new noise, less each time.
"""

import math

import torch
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteSchedulerOutput

# What the UNet was distilled with.
SIGMA_MIN, SIGMA_MAX, RHO = 0.002, 700.0, 7
LEVELS = 40


class ConsistencyScheduler:
    """What diffusers' pipeline asks of a scheduler, no more. Its numbers are Python's: nobody waits for a device."""

    order = 1
    init_noise_sigma = math.sqrt(SIGMA_MAX**2 + 1)
    sigmas: list[float]
    timesteps: torch.Tensor

    def set_timesteps(self, num_inference_steps: int, device: torch.device | str | None = None) -> None:
        """1 to 40 steps."""
        apart = LEVELS // num_inference_steps
        levels = [sigma_of(apart * step) for step in range(num_inference_steps)]
        self.sigmas = [*levels, 0.0]
        self.timesteps = torch.tensor([0.25 * math.log(sigma) for sigma in levels], device=device)
        self._step = 0

    def scale_model_input(self, sample: torch.Tensor, _timestep: object) -> torch.Tensor:
        return sample / math.sqrt(self.sigmas[self._step] ** 2 + 1)

    def step(
        self,
        model_output: torch.Tensor,
        _timestep: object,
        sample: torch.Tensor,
        generator: torch.Generator | None = None,
    ) -> EulerDiscreteSchedulerOutput:
        """`generator` is one of the CPU's."""
        sigma, next_sigma = self.sigmas[self._step : self._step + 2]
        self._step += 1
        guess = sample / (sigma**2 + 1) - sigma / math.sqrt(sigma**2 + 1) * model_output
        after = guess + next_sigma * noise_like(guess, generator) if next_sigma else guess
        return EulerDiscreteSchedulerOutput(prev_sample=after, pred_original_sample=guess)


def sigma_of(level: int) -> float:
    """Karras et al., equation 5: from the most noise, at level 0, to the least."""
    most, least = SIGMA_MAX ** (1 / RHO), SIGMA_MIN ** (1 / RHO)
    sigma: float = (most + level / (LEVELS - 1) * (least - most)) ** RHO
    return sigma


def noise_like(latents: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
    """Drawn on the CPU, for the same everywhere, and pinned, so that Python does not wait until it is on the GPU."""
    noise = torch.randn(latents.shape, generator=generator, dtype=latents.dtype, pin_memory=latents.is_cuda)
    return noise.to(latents.device, non_blocking=True)
