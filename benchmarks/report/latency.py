"""Report sections of what was timed: scenarios, stages and batches (`rar-bench latency`, `retrieve`), `rank`, power."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .charts import bars, lines, number
from .document import Block, Chart, Section, Table, Text

Result = Mapping[str, Any]


def latency(result: Result) -> list[Section]:
    """Scenarios, ratios and targets, stages, percentiles, throughput by batch, power."""
    rows: Sequence[Result] = result["results"]
    blocks: list[Block] = [_scenarios(rows)]
    if ratios := result.get("ratios"):
        head = ("ratio", "against", "times", "quartiles", "target", "")
        told = [
            (
                f"{row['path']}: {row['figure']}",
                row["against"],
                number(row["ratio"]["median"]),
                _quartiles(row["ratio"]),
                "-" if row.get("target") is None else number(row["target"]),
                {True: "reached", False: "missed", None: "-"}[row.get("reached")],
            )
            for row in ratios
        ]
        blocks.append(Table(head, told))
    sections = [Section("Latency and throughput", blocks)]
    if stages := [_stages(row) for row in rows if row.get("stages") and row["scenario"] == "single stream"]:
        sections.append(Section("Where the time goes: single stream, by stage", stages))
    charts = [*_percentiles(rows), *_by_batch(rows)]
    if charts:
        sections.append(Section("Percentiles and batches", charts))
    return [*sections, *power(result)]


def retrieve(result: Result) -> list[Section]:
    """Throughput by batch and stages of the retrieval path against the plain PyTorch stack."""
    rows: Sequence[Result] = result["results"]
    series: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        series.setdefault(row["stack"], []).append((row["batch"], row["pictures_per_second"]["median"]))
    table = Table(
        ("stack", "batch", "pictures/s", "quartiles", "times plain"),
        [
            (
                row["stack"],
                str(row["batch"]),
                number(row["pictures_per_second"]["median"]),
                _quartiles(row["pictures_per_second"]),
                f"{row['speedup']:.2f}",
            )
            for row in rows
        ],
    )
    title = "Throughput of retrieval by batch"
    stages = [_stages({**row, "path": f"batch {row['batch']}", "stages": row["stages_ms"]}) for row in rows]
    chart = Chart(title, _batches(series), table)
    return [Section(title, [chart]), Section("Stages of retrieval, a picture", stages), *power(result)]


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
    """Watts and joules of the rows that were metered, or why there are none."""
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


def _scenarios(rows: Sequence[Result]) -> Table:
    told = []
    for row in rows:
        figures = row["figures"] or {"": None}
        for figure, spread in figures.items():
            shown = ("-", "-", "-")
            if spread is not None:
                shown = (_unit(figure, spread["median"]), _quartiles(spread), str(spread["count"]))
            told.append((row["stack"], row["path"], row["scenario"], figure, *shown, _reason(row, figure)))
    head = ("stack", "path", "scenario", "figure", "median", "quartiles", "samples", "why not, or note")
    return Table(head, told)


def _reason(row: Result, figure: str) -> str:
    """What a row says of one figure, and of all of them."""
    others = tuple(f"{name}:" for name in row["figures"] if name != figure)
    parts = [part for part in (row.get("reason") or "").split("; ") if not part.startswith(others)]
    return "; ".join(part.removeprefix(f"{figure}: ") for part in parts)


def _stages(row: Result) -> Chart:
    """A waterfall: stages follow each other."""
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
    return [Chart("pictures a second by batch", _batches(series), table)]


def _batches(series: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    sizes = sorted({size for line in series.values() for size, _ in line})
    ticks = [(size, f"{size:g}") for size in sizes]
    return lines(series, "pictures a batch", "pictures/s", log_x=True, x_ticks=ticks, y_from=0.0)


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
