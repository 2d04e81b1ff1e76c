"""What no test runs, as benches on a GPU, names nothing that is no longer there."""

import subprocess
import sys

from harness.stack import ROOT

FOLDERS = ("attack", "bench", "chaos", "fuzz", "harness", "mutate")
IMPORT = """
import importlib, sys

for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as missing:  # of another project, with which a bench compares, if none of these folders
        if str(missing.name).partition(".")[0] in FOLDERS:
            raise
"""


def test_every_module_of_the_tools_can_be_imported() -> None:
    files = [path.relative_to(ROOT) for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
    names = [".".join(file.with_suffix("").parts) for file in files if file.stem != "__main__"]
    assert len(names) > 50
    ours = {*FOLDERS, "app", "core", "keeper", "sandbox", "tests", "worker"}
    command = [sys.executable, "-c", IMPORT.replace("FOLDERS", repr(ours)), *names]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert told.returncode == 0, told.stderr
