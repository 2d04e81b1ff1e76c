"""How long the engine takes to get ready, in a process of its own: prints {"import": …, "hold": …} in seconds.

To load real weights comes on top; what is compiled is kept where TORCHINDUCTOR_CACHE_DIR says.
"""

import json
import sys
import time

from harness.report import machine  # noqa: F401 - so that only torch and its company are timed
from worker.engines.torch_environment import set_torch_environment

begun = time.perf_counter()
set_torch_environment()

import torch

from bench.svd_ways import Kinora
from harness.random_svd import Case, build_pipeline
from worker.engines.svd.speedups import COMPILED, EVERYWHERE, ON_GPU
from worker.engines.svd.weights import quieten_libraries


def main() -> None:
    quieten_libraries()
    imported = time.perf_counter() - begun
    case, compiled = Case(**json.loads(sys.argv[1])), sys.argv[2] == "compiled"
    device = "cuda" if torch.cuda.is_available() else "cpu"
    pipeline = build_pipeline(device, reduced=device == "cpu")
    way = Kinora(pipeline, case, ON_GPU + COMPILED if compiled else EVERYWHERE)
    print(json.dumps({"import": imported, "hold": way.hold_seconds}))


if __name__ == "__main__":
    main()
