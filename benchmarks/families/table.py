"""The result as the table of `docs/own-models.md`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from rar.export.pictures.rows import read_text
from rar.runtime.errors import InputError

from .measure import PRECISIONS

_HEAD = (
    "family",
    "shape of (no checkpoint loaded)",
    "million parameters",
    "graphs at fp32 / int8 / int4, MB",
    "a ranking at fp32 / int8 / int4, s",
    "export at fp32 / int8 / int4, s",
    "memory of the export, GB",
)
# What stands in a cell that could not be measured, and in one that was not.
_NONE, _NOT_RUN = "none", "not run"


def table(result: dict[str, Any]) -> str:
    """Markdown: a line for each family and size."""
    models: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for row in result["results"]:
        models.setdefault((row["family"], row["shape_of"] or "tiny"), {})[row["precision"]] = row
    lines = [_HEAD, ["---"] * len(_HEAD), *(_line(*name, rows) for name, rows in models.items())]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def put(document: Path, made: str) -> None:
    """Replaces the table with the same head in a Markdown file.

    Raises:
        InputError: It has none, or cannot be read.
    """
    text = read_text(document)
    head = made.split("\n", 1)[0]
    before, found, after = text.partition(head)
    if not found:
        raise InputError(f"{document}: has no table that begins with {head}")
    _, end, rest = after.partition("\n\n")
    document.write_text(before + made + end + rest, encoding="utf-8")


def _line(family: str, name: str, rows: dict[str, dict[str, Any]]) -> list[str]:
    measured = [row for row in rows.values() if row["why"] is None]

    def each(read: Callable[[dict[str, Any]], float]) -> str:
        found = [rows.get(precision) for precision in PRECISIONS]
        return " / ".join(_NOT_RUN if row is None else _NONE if row["why"] else _figure(read(row)) for row in found)

    return [
        f"`{family}`",
        name,
        _figure(measured[0]["parameters"] / 1e6) if measured else _NONE,
        each(lambda row: row["graph_bytes"]["all"] / 1e6),
        each(lambda row: row["rank"]["seconds"]["median"]),
        each(lambda row: row["export"]["seconds"]),
        _figure(max(row["export"]["peak_bytes"] for row in measured) / 1e9) if measured else _NONE,
    ]


def _figure(value: float) -> str:
    """Three digits."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
