"""The three graphs at the precision that was asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from .. import graph

Precision = Literal["fp32", "fp16", "int8", "int4"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8", "int4")


def convert(name: str, source: Path, target: Path, precision: Precision) -> str:
    """Writes a graph at another precision; inputs and outputs stay fp32.

    Returns:
        The scheme used.
    """
    return graph.convert(source, target, "fp32" if precision == "int4" else precision, ())
