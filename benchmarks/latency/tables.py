"""The tables that `rar-bench latency` prints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rar.runtime.cli.printable import printable

_UNITS = {"seconds": (1.0, "s"), "resident_bytes": (1e-6, "MB"), "peak_bytes": (1e-6, "MB")}


def show(result: Mapping[str, Any]) -> None:
    """Prints rows, stages, what peers chose, ratios and what is missing."""
    for row in result["results"]:
        figures = [_figure(name, figure) for name, figure in row["figures"].items() if figure is not None]
        told = "   ".join(figures)
        reason = f"   [{printable(row['reason'])}]" if row["reason"] else ""
        print(f"{row['stack']:<22} {row['path']:<12} {row['scenario']:<14} {told}{reason}")
        if row["stages"]:
            stages = "  ".join(f"{name} {one['median']:.2f}" for name, one in row["stages"].items())
            print(f"{'':<22} ms: {stages}   ({row['stages_share']['median']:.1%} of the whole)")
    for stack, batch, run in chosen(result):
        print(f"{stack:<22} batch {batch}: {run}")
    for row in result["ratios"]:
        ratio = row["ratio"]
        verdict = {True: "reached", False: "MISSED", None: "open"}[row["reached"]]
        print(
            f"{verdict:<8} {row['path']}, {row['figure']}: {ratio['median']:.2f} times "
            f"({ratio['q25']:.2f}-{ratio['q75']:.2f}) better than {row['against']}, to reach {row['target']:g}"
        )
    for one in result["missing"]:
        print(f"missing  {one['stack']}, {one['path']}, {one['scenario']}: {one['blocks']} blocks done")


def chosen(result: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Of peers that had several ways to run: the stack, the batch, and what its trial chose for it."""
    return [
        (stack, batch, f"{run['way']} {run['precision']}, {run['ms']:.1f} ms, cosine to fp32 {run['cosine']:.4f}")
        for stack, says in result.get("peers", {}).items()
        for batch, run in says.get("runs", {}).items()
    ]


def _figure(name: str, figure: Mapping[str, float]) -> str:
    scale, unit = _UNITS.get(name, (1.0, ""))
    label = name.removesuffix("_bytes").removesuffix("_ms")
    unit = "ms" if name.endswith("ms") else "/s" if name == "pictures_per_second" else unit
    label = "" if name in ("seconds", "pictures_per_second", "ms") else f"{label} "
    return f"{label}{scale * figure['median']:.4g} {unit} ({scale * figure['q25']:.4g}-{scale * figure['q75']:.4g})"
