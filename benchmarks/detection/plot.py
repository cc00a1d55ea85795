"""Draws what `rar-bench detection --sweep` measured: top-1 by crop scale, sharp and blurred, a panel a size.

Usage: python -m rar.benchmarks.detection.plot RESULT.json docs/detection-scale.svg

The form of the RAR paper's figure 11.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from .. import record

# Okabe and Ito's palette, told apart by the colour-blind.
_STYLES = {"sharp": ("#0072b2", "o"), "blurred": ("#d55e00", "s")}


def draw(result: Mapping[str, Any]) -> str:
    """An SVG of a result file that has a sweep; bars are standard errors."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    sweep: Sequence[Mapping[str, Any]] = result["sweep"]
    sizes = [size for size in sweep[0]["top1"] if size != "all"]
    figure = Figure(figsize=(3.2 * len(sizes), 2.9), layout="constrained")
    for panel, size in zip(figure.subplots(1, len(sizes), squeeze=False)[0], sizes, strict=True):
        for name, (colour, marker) in _STYLES.items():
            points = [point for point in sweep if (point["blur"] is None) == (name == "sharp")]
            panel.errorbar(
                [point["grow"] for point in points],
                [point["top1"][size]["percent"] for point in points],
                [point["top1"][size]["standard_error"] for point in points],
                color=colour, marker=marker, markersize=4, capsize=2, label=name,
            )  # fmt: skip
        panel.set_title(f"{size}, {sweep[0]['top1'][size]['count']} boxes", fontsize=10)
        panel.set_xlabel("crop scale")
        panel.grid(alpha=0.3)
        panel.set_ylim(bottom=0)
    first = figure.axes[0]
    first.set_ylabel("top-1 of retrieval, %")
    first.legend(frameon=False, fontsize=9)
    out = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "rar"}):
        figure.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue()


def main(arguments: Sequence[str]) -> int:
    """Reads a result file, writes an SVG."""
    return record.plot(arguments, __doc__, draw)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
