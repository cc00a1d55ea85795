"""Report sections of the memory, of picture preparation, of the footprint, and of any other result."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import log10
from typing import Any

from rar.export.page.document import Block, Chart, Section, Table, Text

from ..memory.sweep import LEVELS, frontier, speed_at
from .charts import lines, number

Result = Mapping[str, Any]

# Recall approaches 100 % in ever smaller steps, so the axis shows the logarithm of the missed share.
_RECALLS = (50.0, 80.0, 90.0, 95.0, 98.0, 99.0, 99.5, 99.9)
_MOST_ROWS = 200


def memory(result: Result) -> list[Section]:
    """Recall against queries per second for each data set, and the targets."""
    sections = []
    for name, data in result["results"].items():
        contenders: Mapping[str, Result] = data["contenders"]
        # What was measured at one setting alone is in the table.
        series = {one: _frontier(told["sweep"]) for one, told in contenders.items() if len(told["sweep"]) > 1}
        entries = data["data"]["entries"]
        head = ("", *(f"{level:g} % recall, queries/s" for level in LEVELS), "index, bytes an entry", "build, CPU s")
        rows = [
            (
                one,
                *(_maybe(speed_at(told["sweep"], level, 1)) for level in LEVELS),
                number(told["index_bytes"] / entries),
                number(told["build"]["cpu_seconds"]),
            )
            for one, told in contenders.items()
        ]
        lowest = min((recall for points in series.values() for recall, _ in points), default=0.0)
        ticks = [(_missed(recall), f"{recall:g} %") for recall in _RECALLS if recall >= lowest - 5]
        chart = lines(
            {one: [(_missed(recall), speed) for recall, speed in points] for one, points in series.items()},
            "recall@10",
            "queries/s, one at a time",
            log_y=True,
            x_ticks=ticks,
        )
        title = f"{name}: {entries:,} entries of {data['dim']} dimensions, one thread"
        sections.append(Section(f"Memory: {name}", [Chart(title, chart, Table(head, rows))]))
    if targets := result.get("targets"):
        told = [(row["target"], row["measured"], "reached" if row["reached"] else "missed") for row in targets]
        sections.append(Section("Memory: targets", [Table(("target", "measured", ""), told)]))
    return sections


def preprocess(result: Result) -> list[Section]:
    """Milliseconds of each contender, in one table a task."""
    blocks: list[Block] = []
    for task, rows in result["tables"].items():
        if isinstance(rows, Sequence) and rows and all("milliseconds" in row and "contender" in row for row in rows):
            told = [
                (
                    str(row["contender"]),
                    number(row["milliseconds"]["median"]),
                    number(row["milliseconds"]["q25"]) + "-" + number(row["milliseconds"]["q75"]),
                    _maybe(row.get("times_faster_than_first")),
                    _maybe(row.get("difference_max")),
                )
                for row in rows
            ]
            head = (task, "ms", "quartiles", "times the first", "largest difference")
            blocks.append(Table(head, told))
    return [Section("Picture preparation", blocks)]


def footprint(result: Result) -> list[Section]:
    """Install size, time to open and memory."""
    rows = [("install, MB", number(result["install_total_bytes"] / 1e6), "-")]
    for name in ("import_seconds", "open_seconds", "first_picture_seconds", "peak_bytes", "resident_bytes"):
        scale, unit = (1e-6, "MB") if name.endswith("bytes") else (1.0, "s")
        spread = {key: scale * value for key, value in result[name].items()}
        label = name.rsplit("_", 1)[0].replace("_", " ")
        rows.append((f"{label}, {unit}", number(spread["median"]), f"{number(spread['q25'])}-{number(spread['q75'])}"))
    return [Section("Footprint", [Table(("", "median", "quartiles"), rows)])]


def parts(result: Result) -> list[Section]:
    """The outcome of each part of `rar-bench all`."""
    told = [(row["name"], row["state"], number(row["seconds"]), row["why"]) for row in result["parts"]]
    return [Section("Parts of the run", [Table(("part", "", "s", "why"), told)])]


def generic(name: str, result: Result) -> list[Section]:
    """All numbers of any other result, by their place in the file."""
    skipped = ("environment", "command", "memory", "encoder", "format", "benchmark", "mllm", "missing")
    leaves = list(_leaves({key: value for key, value in result.items() if key not in skipped}))
    blocks: list[Block] = [Table(("figure", "value"), leaves[:_MOST_ROWS])]
    if len(leaves) > _MOST_ROWS:
        blocks.append(Text(f"{len(leaves) - _MOST_ROWS} more are in the file."))
    return [Section(name.replace("-", " ").capitalize(), blocks)]


def _leaves(value: Any, place: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _leaves(item, f"{place}, {key}" if place else str(key))
    elif isinstance(value, list) and any(isinstance(item, (list, Mapping)) for item in value):
        for position, item in enumerate(value):
            yield from _leaves(item, f"{place} {position + 1}")
    elif isinstance(value, list):
        yield place, ", ".join(number(item) if isinstance(item, float) else str(item) for item in value)
    elif isinstance(value, float):
        yield place, number(value)
    elif value is not None:
        yield place, str(value)


def _frontier(rows: Sequence[Result]) -> list[tuple[float, float]]:
    # A recall of 100 % has no place on the logarithmic axis.
    return [(min(recall, 99.99), speed) for recall, speed in frontier(rows, 1)]


def _missed(recall: float) -> float:
    return -log10(100 - min(recall, 99.99))


def _maybe(value: float | None) -> str:
    return "-" if value is None else number(value)
