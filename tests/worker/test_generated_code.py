"""What torch.compile writes for a GPU, read: whether its kernels walk over memory as they should.

Written for an H200 that is not there (bench/inductor.py), in a process of its own, for a block as wide as SVD-XT's at
its second resolution: 25 frames of 64×36, guided.
"""

import json
import os
import subprocess
import sys

import pytest

from harness.stack import ROOT
from worker.engines.torch_environment import set_torch_environment

pytest.importorskip("torch")
pytest.importorskip("triton")

CODE = """
import json
import torch
from torch import nn
from torch._inductor import config
from diffusers.models.resnet import SpatioTemporalResBlock
from bench.accesses import wasted
from bench.inductor import H200, Writer
from types import SimpleNamespace
from worker.engines.svd.compiling import use_channels_last
from worker.engines.svd.group_norm import use_channels_last_norms
from worker.engines.svd.temporal_convolution import use_conv2d

CHANNELS, PIXELS = 640, (36, 64)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.block = SpatioTemporalResBlock(CHANNELS, CHANNELS, 1280)
        self.norm, self.proj_in = nn.GroupNorm(32, CHANNELS, eps=1e-6), nn.Linear(CHANNELS, CHANNELS)

    def forward(self, hidden, time, image_only):  # as TransformerSpatioTemporalModel goes on
        normal = self.norm(self.block(hidden, time, image_only))
        return self.proj_in(normal.permute(0, 2, 3, 1).reshape(len(normal), -1, CHANNELS))


def written(norms):
    with torch.device("meta"):
        model = Block().half()
        pipeline = SimpleNamespace(unet=model, vae=SimpleNamespace(decoder=nn.Module()))
    for change in (use_conv2d, use_channels_last, *([use_channels_last_norms] if norms == "ours" else [])):
        change(pipeline)
    half = {"dtype": torch.float16, "device": "meta"}
    hidden = torch.empty(50, CHANNELS, *PIXELS, **half).to(memory_format=torch.channels_last)
    given = hidden, torch.empty(50, 1280, **half), torch.empty(2, 25, **half)
    program = writer.write(model, lambda weights, *given: torch.func.functional_call(model, weights, given), given)
    along_pixels = f"% {PIXELS[0] * PIXELS[1]}))"  # each channel anew, all pixels of a frame in steps of a pixel
    return [[name, wasted(kernel), along_pixels in kernel] for name, kernel in program.kernels.items()]


writer = Writer(H200)
found = {"switch": config.loop_reindexing_after_fusion}
for norms, reindexing in (("ours", False), ("torch's", False), ("torch's", True)):
    with config.patch(loop_reindexing_after_fusion=reindexing):
        found[f"{norms}, {'' if reindexing else 'not '}reindexed"] = written(norms)
print(json.dumps(found))
"""


Kernels = list[tuple[str, float, bool]]
"""For each kernel: its name, how many times the memory that it needs it fetches, and whether it has the walk that torch
2.13's loop reindexing makes."""


@pytest.fixture(scope="module")
def written() -> dict[str, Kernels]:
    """By whose norms there are, and by whether loops were reindexed; `switch` is what a worker's environment makes of
    that."""
    environment = os.environ | {"TORCHINDUCTOR_LOOP_REINDEXING_AFTER_FUSION": "0"}
    command = [sys.executable, "-W", "ignore", "-c", CODE]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found: dict[str, Kernels] = json.loads(done.stdout.splitlines()[-1])
    return found


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
        patch.setattr("platform.release", lambda: "6.6.87.2-microsoft-standard-WSL2")
        set_torch_environment()
        assert "PYTORCH_ALLOC_CONF" not in os.environ
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "max_split_size_mb:512")
    set_torch_environment()
    assert "PYTORCH_ALLOC_CONF" not in os.environ


def test_the_programs_that_we_run_fetch_no_memory_many_times(written: dict[str, Kernels]) -> None:
    kernels = written["ours, not reindexed"]
    assert len(kernels) > 5
    assert [each for each in kernels if each[1] > 4] == []


def test_torchs_own_norms_along_frames_fetch_each_sector_again_for_each_channel(written: dict[str, Kernels]) -> None:
    """Or ours would be needless: a newer torch that does better is to be had without them."""
    kernels = written["torch's, not reindexed"]
    assert [each for each in kernels if each[1] > 8] != []
    assert len(kernels) > len(written["ours, not reindexed"])


def test_loop_reindexing_is_still_as_bad_as_the_switch_against_it_believes(written: dict[str, Kernels]) -> None:
    """If it does no harm any more, the switch in worker/engines/torch_environment.py is needless; if the switch does
    not help any more, or has another name, another is needed."""
    assert written["switch"] is False
    assert any(walks for _, _, walks in written["torch's, reindexed"])
    assert not any(walks for _, _, walks in written["torch's, not reindexed"])
