"""What a reader wants to know first: how fast, how late, how much memory, how right; a bar a stack, with quartiles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rar.export.page.document import Block, Chart, Table, Text

from .charts import Bar, number, whiskers

Result = Mapping[str, Any]

# Scenario and figures of `rar-bench latency`, the next where the first is not there for two; what they answer, the
# unit, and what they are divided by.
_QUESTIONS = (
    ("offline", ("pictures_per_second",), "How fast: pictures a second, all at once", "/s", 1.0),
    ("single stream", ("p99_ms", "p90_ms"), "How late: {}, one picture at a time", "ms", 1.0),
    ("cold start", ("resident_bytes",), "How much memory: after the first picture", "MB", 1e6),
)
# Instruction sets that speed hangs on.
_SETS = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "amx_int8", "neon", "dotprod", "i8mm")


def glance(name: str, result: Result) -> list[Block]:
    """What a result file answers of the questions, below its machine; nothing where it answers none.

    Args:
        name: The file's.
        result: Its content.
    """
    charts = _latency(result) if result["benchmark"] == "latency" else _accuracy(result)
    return [Text(f"{name}: {machine(result)}"), *charts] if charts else []


def machine(result: Result) -> str:
    """The machine of a result file, and those of its instruction sets that speed hangs on."""
    environment = result["environment"]
    told = environment.get("instruction_sets")  # older files tell none
    sets = [name for name in _SETS if name in told] if isinstance(told, list) else []
    cores, cpu, date = (environment.get(name, "-") for name in ("cores", "cpu", "date"))
    return f"{cores} x {cpu}, {' '.join(sets) or 'instruction sets not told'}, {date}"


def _latency(result: Result) -> list[Block]:
    charts: list[Block] = []
    for scenario, figures, title, unit, scale in _QUESTIONS:
        for figure in figures:
            rows = [
                Bar(f"{row['stack']}, {row['path']}", *(spread[key] / scale for key in ("median", "q25", "q75")))
                for row in result["results"]
                if row["scenario"] == scenario and (spread := row["figures"].get(figure)) is not None
            ]
            if len(rows) > 1:
                charts.append(_chart(title.format(figure.removesuffix("_ms")), rows, unit))
                break
    return charts


def _accuracy(result: Result) -> list[Block]:
    if result["benchmark"] not in ("accuracy", "ranking"):
        return []
    rows = []
    for name, row in result["results"].items():
        for key in ("top1", "fused"):
            if (share := row.get(key)) is not None:
                top1, error = share["percent"], share["standard_error"]
                rows.append(Bar(f"{name}{', fused' if key == 'fused' else ''}", top1, top1 - error, top1 + error))
    return [_chart("How right: top-1, with its standard error", rows, "%")] if rows else []


def _chart(title: str, rows: Sequence[Bar], unit: str) -> Chart:
    figures = Table(
        ("", unit, "from", "to"), [(row.name, *(number(one) for one in (row.value, row.low, row.high))) for row in rows]
    )
    return Chart(title, whiskers(rows, unit), figures)
