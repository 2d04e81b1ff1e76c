"""How a triton kernel that inductor wrote walks over memory: read from its source, by working out its indices.

A GPU fetches sectors of 32 bytes. A kernel's threads lie along x (or y), or along what it reduces (r0), as inductor
finds better. A load is as it should be if 32 neighbours in one of these directions share their sectors.
"""

import re

SECTOR = 32
"""Bytes: CUDA C++ Best Practices Guide, "Coalesced Access to Global Memory"."""
NEIGHBOURS = 32
AXES = ("xindex", "yindex", "r0_index")
SIZES = {"fp16": 2, "bf16": 2, "fp32": 4, "fp64": 8, "i1": 1, "i8": 1, "u8": 1, "i32": 4, "i64": 8}

LARGE = 100_000
"""Elements: what is smaller (scales, biases, a norm's sums) stays in the caches."""

LOAD = re.compile(r"tl\.load\((in_(?:out_)?ptr\d+) \+ (\(.*?\)), (?:None|r0_|[xy]|tmp)", re.MULTILINE)
POINTER = re.compile(r"'(in_(?:out_)?ptr\d+)': '\*(\w+)'")
NAME = re.compile(r"^\s+([xyz]\d+|r0_\d+) = (.*)$", re.MULTILINE)
EXTENT = re.compile(r"^\s+(xnumel|ynumel|r0_numel) = (\d+)$", re.MULTILINE)


def wasted(kernel: str) -> float:
    """Return how many times the kernel fetches the sectors that it needs, 1 at best: for the worst of its loads from
    large tensors."""
    sizes = {pointer: SIZES[kind] for pointer, kind in POINTER.findall(kernel)}
    extents = {name.replace("numel", "index"): int(extent) - 1 for name, extent in EXTENT.findall(kernel)}
    worst = 1.0
    for pointer, index in set(LOAD.findall(kernel)):
        if "tmp" in index:  # where to is read from memory too
            continue
        if worked_out(kernel, index, extents) >= LARGE:
            worst = max(worst, excess(kernel, index, sizes[pointer]))
    return worst


def excess(kernel: str, index: str, size: int) -> float:
    """Along the better axis. Where all neighbours read the same there is no excess."""
    touched = [sectors(kernel, index, size, axis) for axis in AXES]
    return max(1.0, min((each for each in touched if each > 1), default=1) * SECTOR / (NEIGHBOURS * size))


def sectors(kernel: str, index: str, size: int, axis: str) -> int:
    """Return how many 32 neighbours along `axis` touch, from the first on."""
    return len({worked_out(kernel, index, {axis: place}) * size // SECTOR for place in range(NEIGHBOURS)})


def worked_out(kernel: str, index: str, places: dict[str, int]) -> int:
    """Return the element that `index` means at `places` along the axes, at 0 along the others."""
    known = dict.fromkeys((*AXES, "zindex", "rindex"), 0) | places
    for name, expression in NAME.findall(kernel):
        known[name] = value_of(expression, known)
    return value_of(index, known)


def value_of(expression: str, known: dict[str, int]) -> int:
    plain = expression.replace(".to(tl.int64)", "")
    return int(eval(plain, {"__builtins__": {}}, known))  # noqa: S307 - inductor wrote it, from our own models
