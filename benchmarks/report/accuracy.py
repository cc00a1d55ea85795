"""Report sections on accuracy: top-1, shots, published figures, calibration, confusions, detection."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rar.export.page.document import Block, Chart, Section, Table, Text, Thumbnails
from rar.export.page.thumbnail import thumbnail

from .charts import lines, number

Result = Mapping[str, Any]


def accuracy(result: Result, pictures: Path | None) -> list[Section]:
    """Rows, curves, published figures, calibration, confusions.

    Args:
        result: The result of `rar-bench accuracy`, or of its predecessor `ranking`.
        pictures: Folder that the confused pictures' paths start from, to show them; None to leave them out.
    """
    told = f"{result['test']}: {result['pictures']} pictures" if "pictures" in result else str(result.get("test", ""))
    blocks: list[Block] = [Text(told), _rows(result["results"]), *_by_k(result["results"])]
    sections = [Section("Accuracy", blocks)]
    if result.get("shots"):
        sections.append(Section("Accuracy by pictures a class", _shots(result["shots"])))
    if result.get("published"):
        sections.append(Section("Beside the papers' own figures", _published(result["published"])))
    calibrated = {name: row["calibration"] for name, row in result["results"].items() if "calibration" in row}
    if calibrated:
        sections.append(Section("Calibration: how far a score is a probability", _calibration(calibrated)))
    if result.get("confusion") and result["confusion"]["pairs"]:
        sections.append(Section("Classes taken for each other", _confusion(result["confusion"], pictures)))
    return sections


def detection(result: Result) -> list[Section]:
    """Top-1 and AP of boxes, and crop scales."""
    rows: Mapping[str, Result] = result["results"]
    sizes = list(next(iter(rows.values()))["top1"])
    head = ("way", *(f"{size}, top-1" for size in sizes), "ms a box")
    told = [
        (name, *(_share(row["top1"].get(size)) for size in sizes), number(row["milliseconds"]))
        for name, row in rows.items()
    ]
    keys = list(dict.fromkeys(key for row in rows.values() for key in row["AP"]))
    precision = [(name, *(_percent(row["AP"].get(key)) for key in keys)) for name, row in rows.items()]
    blocks: list[Block] = [Table(head, told), Table(("way", *keys), precision)]
    if sweep := result.get("sweep"):
        series: dict[str, list[tuple[float, float]]] = {}
        for point in sweep:
            for size, share in point["top1"].items():
                name = f"{size}, {'sharp' if point['blur'] is None else 'blurred'}"
                series.setdefault(name, []).append((float(point["grow"]), share["percent"]))
        figures = Table(
            ("crop scale", *series),
            [
                (f"{scale:g}", *(_percent(dict(line).get(scale)) for line in series.values()))
                for scale in sorted({x for line in series.values() for x, _ in line})
            ],
        )
        by_size = {name: points for name, points in series.items() if not name.startswith("all,")}
        chart = lines(by_size, "crop scale", "top-1, %", y_from=0.0)
        blocks.append(Chart("top-1 of retrieval by crop scale and object size", chart, figures))
    return [Section("Detection", blocks)]


def _rows(rows: Mapping[str, Result]) -> Table:
    """One table of the columns that the rows fill."""
    columns: dict[str, Callable[[Result], str | None]] = {
        "top-1": lambda row: _share(row.get("top1")),
        "fused": lambda row: _share(row.get("fused")),
        "gated": lambda row: _share(row["gate"]["top1"]) if "gate" in row else None,
        "left out by the gate": lambda row: _percent(row["gate"]["skipped"]) if "gate" in row else None,
        "true class in k": lambda row: _share(row.get("recall")),
        "missed": lambda row: _percent(row.get("missed")),
        "misranked": lambda row: _percent(row.get("misranked")),
        "cACC": lambda row: _percent(row.get("cacc")),
        "sACC": lambda row: _percent(row.get("sacc")),
        "ms a picture": lambda row: number(row["milliseconds"]) if "milliseconds" in row else None,
        "ECE": lambda row: number(row["calibration"]["as_is"]["ece"]) if "calibration" in row else None,
    }
    cells = {column: [tell(row) for row in rows.values()] for column, tell in columns.items()}
    kept = {column: told for column, told in cells.items() if any(cell not in (None, "-") for cell in told)}
    return Table(("", *kept), [(name, *(told[i] or "-" for told in kept.values())) for i, name in enumerate(rows)])


def _by_k(rows: Mapping[str, Result]) -> list[Block]:
    """Top-1 of each ranker by the number of candidates, if several numbers were measured."""
    series: dict[str, list[tuple[float, float]]] = {}
    for name, row in rows.items():
        if match := re.fullmatch(r"k=(\d+): (.*)", name):
            series.setdefault(match[2], []).append((int(match[1]), row.get("fused", row["top1"])["percent"]))
            if match[2] == "none" and "missed" in row:
                series.setdefault("true class in k", []).append((int(match[1]), 100 - row["missed"]))
    series = {name: sorted(points) for name, points in series.items() if len(points) > 1}
    if not series:
        return []
    ks = sorted({x for points in series.values() for x, _ in points})
    figures = Table(("k", *series), [(f"{k:g}", *(_percent(dict(p).get(k)) for p in series.values())) for k in ks])
    ticks = [(k, f"{k:g}") for k in ks]
    return [Chart("top-1 by candidates", lines(series, "k", "%", x_ticks=ticks), figures)]


def _shots(table: Mapping[str, Mapping[str, Result]]) -> list[Block]:
    columns = list(dict.fromkeys(column for row in table.values() for column in row))
    figures = Table(
        ("memory", *columns),
        [(name, *(_pm(row[column]) if column in row else "-" for column in columns)) for name, row in table.items()],
    )
    series: dict[str, list[tuple[float, float]]] = {}
    for name, row in table.items():
        if (shots := name.split()[0]).isdecimal() and int(shots):
            for column in columns:
                if column in row and "gain" not in column:
                    series.setdefault(column, []).append((int(shots), row[column]["mean"]))
    blocks: list[Block] = [Text("Mean and standard deviation over the draws, in percent.")]
    if not any(len(points) > 1 for points in series.values()):
        return [*blocks, figures]
    ticks = [(x, f"{x:g}") for x in sorted({x for points in series.values() for x, _ in points})]
    chart = lines(series, "pictures a class", "%", log_x=True, x_ticks=ticks)
    return [*blocks, Chart("accuracy by pictures a class", chart, figures), figures]


def _published(rows: Sequence[Result]) -> list[Block]:
    blocks: list[Block] = []
    for source, number_, metric, protocol in dict.fromkeys(
        (row["source"], row["table"], row["metric"], row["protocol"]) for row in rows
    ):
        published = [row for row in rows if (row["source"], row["table"], row["metric"]) == (source, number_, metric)]
        blocks.append(Text(f"{source}, table {number_}, {metric}: {protocol}."))
        told = [
            (
                row["method"],
                f"{row['value']:.1f}",
                "-" if row["measured"] is None else f"{row['measured']:.1f}",
                "-" if row["difference"] is None else f"{row['difference']:+.1f}",
            )
            for row in published
        ]
        blocks.append(Table(("method", "published", "measured here", "difference"), told))
    return blocks


def _calibration(rows: Mapping[str, Result]) -> list[Block]:
    told = [
        (
            name,
            number(row["as_is"]["ece"]),
            "-" if row["fitted"] is None else number(row["fitted"]["ece"]),
            f"{row['as_is']['brier']:.3f}",
            "-" if row["fitted"] is None else f"{row['fitted']['brier']:.3f}",
            row["score"],
        )
        for name, row in rows.items()
    ]
    head = ("", "ECE", "ECE, rescaled", "Brier", "Brier, rescaled", "score")
    blocks: list[Block] = [
        Text(
            "ECE: mean gap between confidence and accuracy, in points. Rescaled: by one factor, fitted on the other "
            "half of the pictures."
        ),
        Table(head, told),
    ]
    series: dict[str, list[tuple[float, float]]] = {"perfect": [(0, 0), (100, 100)]}
    for name, row in rows.items():
        series[name] = [(one["confidence"], one["accuracy"]) for one in row["as_is"]["bins"]]
    figures = [
        (
            name,
            f"{one['low']:.0f}-{one['high']:.0f}",
            str(one["count"]),
            _percent(one["confidence"]),
            _percent(one["accuracy"]),
        )
        for name, row in rows.items()
        for one in row["as_is"]["bins"]
    ]
    table = Table(("", "bin", "pictures", "confidence", "accuracy"), figures)
    chart = lines(series, "confidence, %", "accuracy, %", y_from=0.0)
    return [*blocks, Chart("reliability of the scores as they are", chart, table)]


def _confusion(confusion: Result, pictures: Path | None) -> list[Block]:
    pairs: Sequence[Result] = confusion["pairs"]
    rows = [
        (row["true"], row["answered"], f"{row['wrong']} of {row['of']}", ", ".join(row["pictures"])) for row in pairs
    ]
    blocks: list[Block] = [
        Text(f"By the row {confusion['row']}."),
        Table(("class", "taken for", "pictures", "for example"), rows),
    ]
    if pictures is not None:
        for row in pairs:
            uris = [uri for name in row["pictures"] if (uri := thumbnail(pictures / name, pictures))]
            if uris:
                blocks.append(Thumbnails(f"{row['true']}, taken for {row['answered']}", uris))
    return blocks


def _share(share: Result | None) -> str:
    return "-" if share is None else f"{share['percent']:.1f} ± {share['standard_error']:.1f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _pm(row: Result) -> str:
    return f"{row['mean']:.1f}" + ("" if row["sd"] is None else f" ± {row['sd']:.1f}")
