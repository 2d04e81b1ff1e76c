"""Runs a worker that writes down when each render begins and ends:

    python -m bench.renders FILE --queue gpu

One line for each, both in seconds since the epoch. Steps are finalized beside the next one, as on a GPU.
"""

import runpy
import sys
import time
from pathlib import Path
from typing import Any

from harness.gate import work_as_on_a_gpu
from worker.engines import base


def note(renderer: base.LoadedModel, file: Path) -> base.LoadedModel:
    if not isinstance(renderer, base.Renderer):
        return renderer
    render = renderer.render

    def noted(*given: Any) -> base.Frames:
        begun = time.time()
        try:
            return render(*given)
        finally:
            with file.open("a") as lines:
                lines.write(f"{begun} {time.time()}\n")

    renderer.render = noted  # type: ignore[method-assign]  # that is what it is for
    return renderer


def main() -> None:
    file, create = Path(sys.argv[1]), base.create_engine
    base.create_engine = lambda *given: note(create(*given), file)
    work_as_on_a_gpu()
    sys.argv = ["worker", *sys.argv[2:]]
    runpy.run_module("worker", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
