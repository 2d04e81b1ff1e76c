"""The chart of what `scripts/bench svd` measured: a bar for each way, its parts one after the other."""

from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

PARTS = {
    "encode": ("picture encoded", "#9aa5b1"),
    "denoise": ("denoised", "#3b6fd4"),
    "decode": ("decoded", "#7fb2ff"),
    "finalize": ("made an MP4", "#f0b35b"),
}


def draw(ways: dict[str, dict[str, float]], title: str, path: Path) -> None:
    """`ways` has the seconds of each part by the way's name, the first on top. Writes an SVG."""
    mpl.rcParams["svg.hashsalt"] = "kinora"  # else each run names its shapes anew
    figure = Figure(figsize=(9, 0.5 * len(ways) + 1.5), layout="constrained")
    axes = figure.subplots()
    names = list(ways)
    left = [0.0] * len(names)
    for part, (label, colour) in PARTS.items():
        seconds = [ways[name][part] for name in names]
        axes.barh(names, seconds, left=left, height=0.62, color=colour, label=label)
        left = [before + more for before, more in zip(left, seconds, strict=True)]
    for row, whole in enumerate(left):
        axes.text(whole + max(left) * 0.01, row, f"{whole:.2f} s", va="center", fontsize=10)
    axes.invert_yaxis()
    axes.set_xlim(0, max(left) * 1.1)
    axes.set_title(title, loc="left", fontsize=11)
    axes.set_xlabel("seconds")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(ncols=len(PARTS), loc="upper center", bbox_to_anchor=(0.5, -0.18), frameon=False)
    figure.patch.set_facecolor("white")  # on a dark page too
    figure.savefig(path, metadata={"Date": None})
