"""Report sections on time and power: scenarios, stages and batches (`rar-bench latency`), `rank`, watts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rar.export.page.document import Block, Chart, Section, Table, Text

from ..latency.tables import chosen
from .charts import bars, lines, number

Result = Mapping[str, Any]

_QUERIES = ("single stream", "multi stream")
_LABELS = {
    "p50_ms": "p50 ms", "p90_ms": "p90 ms", "p99_ms": "p99 ms", "pictures_per_second": "pictures/s",
    "resident_bytes": "resident", "peak_bytes": "peak",
}  # fmt: skip


def latency(result: Result) -> list[Section]:
    """Scenarios, ratios and targets, stages, percentiles, throughput by batch, power."""
    rows: Sequence[Result] = result["results"]
    blocks = _scenarios(rows)
    if ratios := result.get("ratios"):
        head = ("ratio", "against", "times", "quartiles", "target", "")
        told = [
            (
                f"{row['path']}: {row['figure']}",
                row["against"],
                number(row["ratio"]["median"]),
                _quartiles(row["ratio"]),
                "-" if row.get("target") is None else number(row["target"]),
                {True: "reached", False: "missed", None: "open"}[row.get("reached")],
            )
            for row in ratios
        ]
        blocks.append(Table(head, told))
    if runs := chosen(result):
        blocks.append(Table(("stack", "batch", "what its trial chose, alone"), runs))
    sections = [Section("Latency and throughput", [*blocks, *_reasons(rows)])]
    if stages := [_stages(row) for row in rows if row.get("stages") and row["scenario"] == "single stream"]:
        sections.append(Section("Where the time goes: single stream, by stage", stages))
    charts = [*_percentiles(rows), *_by_batch(rows)]
    if charts:
        sections.append(Section("Percentiles and batches", charts))
    return [*sections, *power(result)]


def rank(result: Result) -> list[Section]:
    """Ways of ranking against `transformers.generate`."""
    rows: Sequence[Result] = result["results"]
    table = Table(
        ("way", "bundle", "batch", "ms a picture", "quartiles", "times the baseline"),
        [
            (
                row.get("way") or "-",
                row["bundle"] or "baseline",
                str(row["batch"]),
                number(row["ms"]["median"]),
                _quartiles(row["ms"]),
                number(row["ratio"]["median"]),
            )
            for row in rows
        ],
    )
    return [Section("Speed of ranking", [Text(f"Against {result['baseline']['what']}."), table])]


def power(result: Result) -> list[Section]:
    """Watts and joules of the measured rows, or why there are none."""
    rows = [row for row in result["results"] if row.get("power") and isinstance(row["power"], Mapping)]
    if not rows:
        told = result.get("power")
        return [Section("Power", [Text(told)])] if isinstance(told, str) else []
    head = ("row", "meter", "watts", "J a picture", "MHz", "°C", "peak memory, MB")
    told = [
        (
            _name(row),
            str(row["power"].get("meter", "-")),
            _median(row["power"].get("watts")),
            _of(row["power"].get("joules_per_picture")),
            _median(row["power"].get("clock_mhz")),
            _median(row["power"].get("celsius")),
            _of(row["power"].get("peak_memory_bytes"), 1e-6),
        )
        for row in rows
    ]
    watts = [(_name(row), row["power"]["watts"]["median"]) for row in rows if "watts" in row["power"]]
    table = Table(head, told)
    return [Section("Power", [Chart("watts", bars(watts, "W"), table) if watts else table])]


def _scenarios(rows: Sequence[Result]) -> list[Block]:
    """Tables with a row a stack and a column a figure: first the times of queries, then the rest."""
    stacks = list(dict.fromkeys((row["stack"], row["path"]) for row in rows))
    cells: dict[tuple[str, str], dict[tuple[str, str], str]] = {}
    for row in rows:
        for figure, spread in row["figures"].items():
            told = "-" if spread is None else _cell(figure, spread)
            cells.setdefault((row["scenario"], figure), {})[row["stack"], row["path"]] = told
    blocks: list[Block] = []
    for times in (True, False):
        columns = [name for name in cells if (name[0] in _QUERIES) == times]
        kept = [stack for stack in stacks if any(stack in cells[name] for name in columns)]
        if kept:
            head = ("stack", "path", *(f"{scenario}, {_LABELS.get(figure, figure)}" for scenario, figure in columns))
            blocks.append(Table(head, [(*stack, *(cells[name].get(stack, "-") for name in columns)) for stack in kept]))
    if blocks:
        blocks.append(Text("Each with its quartiles over the blocks, and the samples or blocks."))
    return blocks


def _reasons(rows: Sequence[Result]) -> list[Block]:
    told = [(row["stack"], row["path"], row["scenario"], row["reason"]) for row in rows if row.get("reason")]
    return [Table(("stack", "path", "scenario", "why there is no figure, or a note"), told)] if told else []


def _cell(figure: str, spread: Result) -> str:
    return f"{_unit(figure, spread['median'])} ({_quartiles(spread)}; {spread['count']})"


def _stages(row: Result) -> Chart:
    """A waterfall chart, because the stages follow each other."""
    stages = [(stage, float(spread["median"])) for stage, spread in row["stages"].items()]
    share = row.get("stages_share")
    told = "" if share is None else f"; the stages are {100 * share['median']:.1f} % of the end-to-end time"
    figures = Table(
        ("stage", "ms, median", "quartiles"),
        [(stage, number(spread["median"]), _quartiles(spread)) for stage, spread in row["stages"].items()],
    )
    return Chart(f"{_name(row)}: ms a picture{told}", bars(stages, "ms", waterfall=True), figures)


def _percentiles(rows: Sequence[Result]) -> list[Chart]:
    charts = []
    for scenario in dict.fromkeys(row["scenario"] for row in rows):
        series = {
            f"{row['stack']}, {row['path']}": sorted((float(p), float(ms)) for p, ms in row["percentiles_ms"].items())
            for row in rows
            if row["scenario"] == scenario and row.get("percentiles_ms")
        }
        if series:
            points = sorted({p for line in series.values() for p, _ in line})
            table = Table(
                ("percentile", *series),
                [(f"p{p:g}", *(_of(dict(line).get(p)) for line in series.values())) for p in points],
            )
            chart = lines(
                series, "percentile", "ms", log_y=True, x_ticks=[(p, f"{p:g}") for p in (1, 25, 50, 75, 90, 99)]
            )
            charts.append(Chart(f"{scenario}: percentiles", chart, table))
    return charts


def _by_batch(rows: Sequence[Result]) -> list[Chart]:
    series = {
        f"{row['stack']}, {row['path']}": sorted((float(size), float(speed)) for size, speed in row["by_batch"].items())
        for row in rows
        if row.get("by_batch")
    }
    if not series:
        return []
    sizes = sorted({size for line in series.values() for size, _ in line})
    table = Table(
        ("batch", *series), [(f"{size:g}", *(_of(dict(line).get(size)) for line in series.values())) for size in sizes]
    )
    ticks = [(size, f"{size:g}") for size in sizes]
    chart = lines(series, "pictures a batch", "pictures/s", log_x=True, x_ticks=ticks, y_from=0.0)
    return [Chart("pictures a second by batch", chart, table)]


def _name(row: Result) -> str:
    return ", ".join(str(row[key]) for key in ("stack", "path", "scenario") if key in row)


def _unit(figure: str, value: float) -> str:
    return f"{value / 1e6:,.0f} MB" if figure.endswith("bytes") else number(value)


def _quartiles(spread: Result) -> str:
    big = spread["median"] >= 1e6
    return " - ".join(f"{spread[q] / 1e6:,.0f} M" if big else number(spread[q]) for q in ("q25", "q75"))


def _median(spread: Result | None) -> str:
    return "-" if spread is None else number(spread["median"])


def _of(value: float | None, scale: float = 1.0) -> str:
    return "-" if value is None else number(scale * value)
