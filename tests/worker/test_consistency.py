"""The scheduler of `turbo` against the papers' formulas, worked out here in another way."""

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from worker.engines.svd.consistency import ConsistencyScheduler, noise_like

SHAPE = (1, 2, 4, 8, 8)
SIGMAS = {
    1: [700],
    4: [700, 128.5636972, 13.67844411, 0.4968784203],
    8: [700, 315.7373968, 128.5636972, 45.85072382, 13.67844411, 3.166610791, 0.4968784203, 0.03975369124],
}


def seeded(seed: int) -> Any:
    return torch.Generator("cpu").manual_seed(seed)


def sample(scheduler: ConsistencyScheduler, steps: int, model: Any, noise: Any, generator: Any) -> list[Any]:
    """As diffusers' pipeline does it: what comes of each step."""
    scheduler.set_timesteps(steps)
    latents, given = noise * scheduler.init_noise_sigma, []
    for timestep in scheduler.timesteps:
        predicted = model(scheduler.scale_model_input(latents, timestep), timestep)
        stepped = scheduler.step(predicted, timestep, latents, generator=generator)
        latents = stepped.prev_sample
        given.append(stepped)
    return given


@pytest.mark.parametrize("steps", SIGMAS)
def test_the_noise_falls_as_karras_has_it(steps: int) -> None:
    scheduler = ConsistencyScheduler()
    scheduler.set_timesteps(steps)
    assert scheduler.sigmas == pytest.approx([*SIGMAS[steps], 0])
    assert scheduler.timesteps.tolist() == pytest.approx((np.log(SIGMAS[steps]) / 4).tolist())
    assert scheduler.init_noise_sigma == pytest.approx(700.000714)


@pytest.mark.parametrize("steps", SIGMAS)
def test_each_step_is_that_of_algorithm_1(steps: int) -> None:
    """Of Song et al., with EDM's c_in, c_skip and c_out (table 1) for a sigma_data of 1, in float64."""
    noise = torch.randn(SHAPE, generator=seeded(1))
    given = sample(
        ConsistencyScheduler(), steps, lambda scaled, timestep: (3 * scaled + timestep).sin(), noise, seeded(2)
    )
    sigmas, random = np.array([*SIGMAS[steps], 0.0]), seeded(2)
    x = noise.double().numpy() * np.hypot(sigmas[0], 1)
    for step, stepped in enumerate(given):
        sigma = sigmas[step]
        c_in, c_skip, c_out = 1 / np.hypot(sigma, 1), 1 / (sigma**2 + 1), -sigma / np.hypot(sigma, 1)
        guess = c_skip * x + c_out * np.sin(3 * c_in * x + np.log(sigma) / 4)
        assert np.abs(stepped.pred_original_sample.numpy() - guess).max() < 1e-5
        x = guess
        if step + 1 < steps:
            x = x + sigmas[step + 1] * torch.randn(SHAPE, generator=random).numpy()
        assert np.abs(stepped.prev_sample.numpy() - x).max() < 1e-5 * max(1, sigmas[step + 1])
    assert torch.equal(random.get_state(), random_after(given))


def random_after(given: list[Any]) -> Any:
    """The state of a generator that drew noise for all steps but the last."""
    random = seeded(2)
    for _ in given[1:]:
        torch.randn(SHAPE, generator=random)
    return random.get_state()


@pytest.mark.parametrize("steps", range(1, 9))
def test_of_a_model_that_is_always_right_comes_the_clip_itself(steps: int) -> None:
    """v, what the model gives, is by its definition cos φ · noise - sin φ · clip, where tan φ is the noise's share."""
    clip, scheduler = torch.randn(SHAPE, generator=seeded(3)), ConsistencyScheduler()

    def model(scaled: Any, timestep: Any) -> Any:
        angle = torch.atan(torch.exp(4 * timestep))
        noise = (scaled - angle.cos() * clip) / angle.sin()
        return angle.cos() * noise - angle.sin() * clip

    for stepped in sample(scheduler, steps, model, torch.randn(SHAPE, generator=seeded(4)), seeded(5)):
        assert torch.allclose(stepped.pred_original_sample, clip, atol=1e-3)


def test_noise_is_the_seeds_and_new_in_each_step() -> None:
    like, seed = torch.zeros(SHAPE, dtype=torch.float16), seeded(6)
    first, second = noise_like(like, seed), noise_like(like, seed)
    assert (first.shape, first.dtype) == (like.shape, like.dtype)
    assert not torch.equal(first, second)
    assert torch.equal(first, noise_like(like, seeded(6)))


def test_in_half_precision_nothing_is_out_of_range() -> None:
    given = sample(
        ConsistencyScheduler(),
        8,
        lambda scaled, _: scaled.tanh(),
        torch.randn(SHAPE, generator=seeded(7)).half(),
        seeded(8),
    )
    assert all(stepped.prev_sample.dtype == torch.float16 for stepped in given)
    assert all(stepped.prev_sample.isfinite().all() for stepped in given)
