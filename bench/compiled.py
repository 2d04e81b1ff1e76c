"""What Stable Video Diffusion's compiled programs take at full size, counted without a GPU: `scripts/bench compiled`.

torch.compile writes the UNet and the decoder for an H200 that is not there (bench/inductor.py); their code is run on
tensors without numbers (bench/program.py). By that, and by what kernels of each class reach on a card, comes a
roofline: as if nothing overlapped and nothing idled. A model, and never a measurement. It takes some minutes, each
program in a process of its own.
"""

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worker.engines.torch_environment import set_torch_environment

set_torch_environment()

import torch

from bench.accesses import wasted
from harness.random_svd import FULL_CASE
from harness.report import RESULTS, machine, print_table, write
from worker.engines.svd.memory import GB, PLANS

CASE = FULL_CASE
FRAMES = PLANS["24 GB"].decode_chunk_size
PROGRAMS = {
    "UNet, a guided step": ("unet", 2),
    "UNet, one sample": ("unet", 1),
    f"decoder, {FRAMES} frames": ("decoder", FRAMES),
    "decoder, 7 frames": ("decoder", 7),
}
WASTES = 8
"""Of how many times the memory that it needs a kernel fetches."""


@dataclass(frozen=True)
class Rates:
    """What kernels reach, not what data sheets promise: judged from published figures of such kernels."""

    product: float
    convolution: float
    attention: float
    """TFLOP/s of float16 with float32 sums."""
    memory: float
    """TB/s."""


CARDS = {
    "H200": Rates(620, 520, 400, 4.0),
    "H100": Rates(600, 500, 400, 2.7),
    "A100": Rates(240, 200, 170, 1.65),
    "RTX 4090": Rates(150, 130, 130, 0.90),
    "RTX 3060": Rates(24, 21, 20, 0.32),
}


def written(name: str, size: int) -> Any:
    """The program of the UNet for `size` samples, or of the decoder for `size` frames."""
    from bench.inductor import H200, Writer
    from bench.peak import build
    from worker.engines.svd.cross_attention import fold_in

    pipeline = build()
    half = {"dtype": torch.float16, "device": "meta"}
    latent = (CASE.height // 8, CASE.width // 8)
    if name == "decoder":
        model, given = pipeline.vae.decoder, (torch.empty(size, 4, *latent, **half), torch.empty(1, size, **half))

        def call(weights: Any, sample: torch.Tensor, image_only: torch.Tensor) -> Any:
            named = {"num_frames": size, "image_only_indicator": image_only}
            return torch.func.functional_call(model, weights, (sample,), named)
    else:
        model, given = (
            pipeline.unet,
            (
                torch.empty(size, CASE.num_frames, 8, *latent, **half),
                torch.empty((), device="meta"),
                torch.empty(size, 1, 1024, **half),
                torch.empty(size, 3, **half),
            ),
        )
        with torch.no_grad():
            fold_in(model, given[2])

        def call(weights: Any, *given: torch.Tensor) -> Any:
            return torch.func.functional_call(model, weights, given).sample

    return Writer(H200).write(model, call, given)


def count(name: str, size: int) -> dict[str, Any]:
    """Return what one call takes: calls and bytes moved, TFLOP by kind, the peak in bytes, seconds on each card, and
    what is taken and given back, for bench/allocator.py."""
    from bench.program import cost

    program = written(name, size)
    found = cost(program)
    seconds: dict[str, dict[str, float]] = {card: {} for card in CARDS}
    for card, rates in CARDS.items():
        for call in found.calls:
            by_memory = call.moved / (1e12 * rates.memory)
            by_sums = 0.0 if call.kind == "fused" else call.flop / (1e12 * getattr(rates, call.kind))
            seconds[card][call.kind] = seconds[card].get(call.kind, 0.0) + max(by_memory, by_sums)
    kinds = ("fused", "product", "convolution", "attention")
    return {
        "calls": {kind: found.count(kind) for kind in kinds},
        "moved_gb": {kind: found.moved(kind) / 1e9 for kind in kinds},
        "tflop": sum(call.flop for call in found.calls) / 1e12,
        "peak_bytes": found.peak.most if found.peak else 0,
        "wasteful_kernels": sum(wasted(kernel) > WASTES for kernel in program.kernels.values()),
        "seconds": seconds,
        "events": found.peak.events if found.peak else [],
    }


def counted(name: str, size: int) -> dict[str, Any]:
    """The same, in a process of its own, for inductor believes in the card until its end."""
    command = [sys.executable, "-W", "ignore", "-m", "bench.compiled", "--program", name, "--size", str(size)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def roofline(programs: dict[str, dict[str, Any]], card: str) -> dict[str, float]:
    """Seconds of the exact and the turbo clip, the native one, without the encoder."""
    guided, single, decoder = (sum(programs[name]["seconds"][card].values()) for name in list(PROGRAMS)[:3])
    decode = decoder * CASE.num_frames / FRAMES
    return {
        "a guided step, ms": 1e3 * guided,
        "exact, s": CASE.num_inference_steps * guided + decode,
        "turbo, s": 4 * single + decode,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", choices=("unet", "decoder"), help="only this one, as JSON")
    parser.add_argument("--size", type=int, default=2, help="its samples, or frames")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the figures (%(default)s)")
    given = parser.parse_args()
    if given.program:
        print(json.dumps(count(given.program, given.size)))
        return
    programs = {name: counted(*which) for name, which in PROGRAMS.items()}
    for program in programs.values():
        del program["events"]  # thousands, and the peak says what matters of them
    print("Programs for an H200, by count")
    print_table(
        [
            {
                "program": name,
                "fused kernels": found["calls"]["fused"],
                "GB that they move": found["moved_gb"]["fused"],
                "TFLOP": found["tflop"],
                "peak, GB": found["peak_bytes"] / GB,
                f"fetch more than {WASTES} ×": found["wasteful_kernels"],
            }
            for name, found in programs.items()
        ]
    )
    lines = {card: roofline(programs, card) for card in CARDS}
    print("\nThe roofline: a model, and never a measurement")
    print_table([{"card": card, **line} for card, line in lines.items()])
    print(
        write(
            "svd-compiled", {"machine": machine("torch", "triton"), "programs": programs, "roofline": lines}, given.out
        )
    )


if __name__ == "__main__":
    main()
