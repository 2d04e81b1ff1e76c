"""What torch.compile writes for a GPU, read: whether its kernels walk over memory as they should.

Written for an H200 that is not there (bench/inductor.py), in a process of its own, for a block as wide as SVD-XT's at
its second resolution: 25 frames of 64×36, guided.
"""

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from harness.stack import ROOT
from worker.torch_environment import set_torch_environment

pytest.importorskip("torch")
pytest.importorskip("triton")

CODE = """
import json, sys
import torch
from torch import nn
from diffusers.models.resnet import SpatioTemporalResBlock
from bench.accesses import wasted
from bench.inductor import H200, Writer
from worker.svd.group_norm import ChannelsLastGroupNorm
from worker.svd.temporal_convolution import KERNEL, TemporalConvolution

CHANNELS, PIXELS = 640, (36, 64)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.block = SpatioTemporalResBlock(CHANNELS, CHANNELS, 1280)
        self.norm, self.proj_in = nn.GroupNorm(32, CHANNELS, eps=1e-6), nn.Linear(CHANNELS, CHANNELS)

    def forward(self, hidden, time, image_only):  # as TransformerSpatioTemporalModel goes on
        normal = self.norm(self.block(hidden, time, image_only))
        return self.proj_in(normal.permute(0, 2, 3, 1).reshape(len(normal), -1, CHANNELS))


with torch.device("meta"):
    model = Block().half()
for parent in list(model.modules()):
    for name, child in parent.named_children():
        if isinstance(child, nn.Conv3d) and child.kernel_size == KERNEL:
            setattr(parent, name, TemporalConvolution(child))
        elif isinstance(child, nn.GroupNorm) and sys.argv[1] == "ours":
            setattr(parent, name, ChannelsLastGroupNorm(child))
for weights in model.parameters():
    if weights.ndim == 4:
        weights.data = weights.data.contiguous(memory_format=torch.channels_last)
half = {"dtype": torch.float16, "device": "meta"}
hidden = torch.empty(50, CHANNELS, *PIXELS, **half).to(memory_format=torch.channels_last)
given = hidden, torch.empty(50, 1280, **half), torch.empty(2, 25, **half)
program = Writer(H200).write(model, lambda weights, *given: torch.func.functional_call(model, weights, given), given)
along_pixels = f"% {PIXELS[0] * PIXELS[1]}))"  # each channel anew, all pixels of a frame in steps of a pixel
print(json.dumps([[name, wasted(kernel), along_pixels in kernel] for name, kernel in program.kernels.items()]))
"""


@cache
def written(norms: str, reindexing: str | None) -> list[tuple[str, float, bool]]:
    """For each kernel: its name, how many times the memory that it needs it fetches, and whether it has the walk that
    torch 2.13's loop reindexing makes."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TORCHINDUCTOR")}
    environment |= {"TORCHINDUCTOR_LOOP_REINDEXING_AFTER_FUSION": reindexing} if reindexing else {}
    command = [sys.executable, "-W", "ignore", "-c", CODE, norms]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return [tuple(each) for each in json.loads(done.stdout.splitlines()[-1])]


def test_a_worker_sets_what_torch_reads_as_it_is_imported_and_leaves_what_is_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = ("TORCHINDUCTOR_LOOP_REINDEXING_AFTER_FUSION", "PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
    for name in (*names, "TRITON_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/mine")
    set_torch_environment()
    assert [os.environ.get(name) for name in names] == ["0", "expandable_segments:True", None]
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "/mine"
    assert os.environ["TRITON_CACHE_DIR"].endswith("kinora-compiled/triton")
    monkeypatch.delenv("PYTORCH_ALLOC_CONF")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_text", lambda _: "6.6.87.2-microsoft-standard-WSL2")
        set_torch_environment()
        assert "PYTORCH_ALLOC_CONF" not in os.environ
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "max_split_size_mb:512")
    set_torch_environment()
    assert "PYTORCH_ALLOC_CONF" not in os.environ


def test_the_programs_that_we_run_fetch_no_memory_many_times() -> None:
    """The switch is set as a worker sets it."""
    kernels = written("ours", "0")
    assert len(kernels) > 5
    assert [each for each in kernels if each[1] > 4] == []


def test_torchs_own_norms_along_frames_fetch_each_sector_again_for_each_channel() -> None:
    """Or ours would be needless: a newer torch that does better is to be had without them."""
    kernels = written("torch's", "0")
    assert [each for each in kernels if each[1] > 8] != []
    assert len(kernels) > len(written("ours", "0"))


@pytest.mark.parametrize("reindexing", [None, "0"])
def test_loop_reindexing_is_still_as_bad_as_the_switch_against_it_believes(reindexing: str | None) -> None:
    """On as torch comes. Where it does no harm any more, the switch in worker/torch_environment.py is needless; where
    the switch does not help any more, another is needed."""
    assert any(walks for _, _, walks in written("torch's", reindexing)) == (reindexing is None)
