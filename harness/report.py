"""What every benchmark shares: the machine it ran on, the table it prints, the file it leaves."""

import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median, quantiles
from typing import Any

RESULTS = Path(__file__).parent.parent / "bench" / "results"


def machine(*packages: str) -> dict[str, Any]:
    """What figures depend on: processor, memory (GiB), GPU, what else ran (harness/quiet.py; None: nobody looked), and
    the versions of Python and of `packages`.

    The GPU is looked for only where the benchmark has imported torch: others need not wait for that.
    """
    described: dict[str, Any] = {
        "cpu": cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1),
        "system": platform.platform(),
        "busy_percent_before": float(os.environ["BUSY_PERCENT"]) if "BUSY_PERCENT" in os.environ else None,
        "gpu": None,
        "python": platform.python_version(),
    }
    for package in packages:
        try:
            described[package] = version(package)
        except PackageNotFoundError:
            described[package] = None
    return described | gpu()


def cpu_name() -> str:
    """As Linux names it; platform.processor() is empty there."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def gpu() -> dict[str, Any]:
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return {}
    properties = torch.cuda.get_device_properties(0)
    return {
        "gpu": properties.name,
        "gpu_memory_gib": round(properties.total_memory / 2**30, 1),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
    }


def write(name: str, results: Mapping[str, Any], folder: Path = RESULTS) -> Path:
    """Puts `results` with the moment (UTC) into `folder`/`name`.json, over an earlier run's."""
    path = folder / f"{name}.json"
    folder.mkdir(parents=True, exist_ok=True)
    moment = {"measured_at": datetime.now(UTC).isoformat(timespec="seconds")}
    path.write_text(json.dumps({**moment, **results}, indent=2, ensure_ascii=False) + "\n")
    return path


def spread(values: list[float]) -> dict[str, float]:
    return {"p50": median(values), "p95": quantiles(values, n=20)[-1]}


def print_table(rows: Sequence[Mapping[str, object]]) -> None:
    """`rows` share their keys, which head the columns; the first column stands to the left, the others to the right."""
    lines = [list(rows[0]), *([cell(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for first, *others in lines:
        padded = [text.rjust(width) for text, width in zip(others, widths[1:], strict=True)]
        print("  ".join([first.ljust(widths[0]), *padded]))


def cell(value: object) -> str:
    """At least three digits of a float, so that 0.0123 and 1234.5 both say something; None is a dash."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"
    return str(value)
