"""What torch.compile makes is kept beside the weights, for the next process."""

import os
import subprocess
import sys
from pathlib import Path

from harness.stack import ROOT

COMPILE = """
from worker.engines.torch_environment import set_torch_environment
set_torch_environment()
import torch
from torch._dynamo.utils import counters
from worker.engines.svd.compiling import compile_next, may_compile

class Model(torch.nn.Module):
    def forward(self, numbers):
        return (2 * numbers).sin() + 1

if may_compile():
    model = Model()
    compile_next(model)
    with torch.no_grad():
        model(torch.ones(4, 8))
    print(counters["inductor"]["fxgraph_cache_hit"])
"""


def test_what_was_compiled_lies_in_the_model_cache_and_survives_a_restart(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if "CACHE_DIR" not in name}
    environment |= {"HF_HOME": str(tmp_path)}
    said = []
    for disabled in ("0", "0", "1"):
        command = [sys.executable, "-W", "ignore", "-c", COMPILE]
        given = environment | {"TORCH_COMPILE_DISABLE": disabled}
        done = subprocess.run(command, cwd=ROOT, env=given, capture_output=True, text=True, check=True)
        said.append(done.stdout.split())
    assert said == [["0"], ["1"], []]
    assert any((tmp_path / "kinora-compiled" / "inductor").iterdir())
