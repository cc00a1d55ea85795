"""Recall against queries per second: each contender at each of its settings, and the comparison at equal recall."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any, TypeAlias

import numpy as np
from tqdm import tqdm

from .. import record
from ..process import in_a_process
from .data import DataSet, Floats, Ids, read_queries

BATCHES = (1, 32)
# Recall in percent at which contenders are compared.
LEVELS = (90.0, 95.0, 98.0, 99.0, 99.5)
# A pass over the queries ends after this time: exact search among a million would take ten minutes.
_SECONDS = 10.0
# Wider walks would gain almost nothing.
_ENOUGH = 99.95


@dataclass(frozen=True)
class Setting:
    """How a contender searches.

    Attributes:
        ef: Width of its walk.
        rescore: R, how many entries are scored again at full dimension; None for no re-scoring.
    """

    ef: int
    rescore: int | None = None


# float32 [N, d] -> int64 [N, 10], nearest first.
Search: TypeAlias = Callable[[Floats, Setting], Ids]


@dataclass(frozen=True)
class Contender:
    """One way to search a data set's entries.

    Attributes:
        name: The name of the result's rows.
        folder: The folder of its files, in the data set's; contenders with the same folder are built once.
        built: How it is built; for the reader, and to identify the build.
        build: Writes its files.
        open: Opens them, given the dimension of the vectors; searches are on one thread.
        sweep: Settings to measure; without re-scoring from the narrowest to the widest.
    """

    name: str
    folder: str
    built: Mapping[str, Any]
    build: Callable[[DataSet, Path], None]
    open: Callable[[Path, int], Search]
    sweep: tuple[Setting, ...]


def sweep(contenders: Sequence[Contender], root: Path, blocks: int) -> dict[str, list[dict[str, Any]]]:
    """Measures contenders, block by block in turns, so that a noisy machine slows all alike.

    Args:
        contenders: All built.
        root: The data set's folder.
        blocks: The number of blocks; each opens the contender in its own process.

    Returns:
        For each contender one row per setting.
    """
    answers: dict[tuple[str, Setting], list[dict[str, Any]]] = {}
    with tqdm(total=blocks * len(contenders), desc=f"{root.name} searches", disable=None) as bar:
        for _ in range(blocks):
            for contender in contenders:
                bar.set_postfix_str(contender.name)
                with in_a_process(partial(_open, contender, root)) as ask:
                    for setting in dict.fromkeys(contender.sweep):
                        answer = ask(setting)
                        if answer is not None:
                            answers.setdefault((contender.name, setting), []).append(answer)
                bar.update()
    rows: dict[str, list[dict[str, Any]]] = {contender.name: [] for contender in contenders}
    for (name, setting), samples in answers.items():
        rows[name].append(_row(setting, samples))
    return rows


def frontier(rows: Sequence[Mapping[str, Any]], batch: int) -> list[tuple[float, float]]:
    """The settings that no other beats in both: (recall in percent, queries a second), recall rising."""
    points = sorted(((row["recall"], row[f"queries_per_second_{batch}"]["median"]) for row in rows), reverse=True)
    best: list[tuple[float, float]] = []
    for recall, speed in points:
        if not best or speed > best[-1][1]:
            best.append((recall, speed))
    return best[::-1]


def speed_at(rows: Sequence[Mapping[str, Any]], recall: float, batch: int) -> float | None:
    """Queries per second at a recall or above it, interpolated between two settings in the logarithm.

    Args:
        rows: A contender's.
        recall: In percent.
        batch: Queries a call.

    Returns:
        None if no setting reaches that recall.
    """
    points = frontier(rows, batch)
    if not points or points[-1][0] < recall:
        return None
    recalls, speeds = zip(*points, strict=True)
    return float(np.exp(np.interp(recall, recalls, np.log(speeds))))


def _open(contender: Contender, root: Path) -> Callable[[Setting], dict[str, Any] | None]:
    queries = read_queries(root / "queries")
    search = contender.open(root / contender.folder, queries.warm.shape[1])
    _run(search, queries.warm, contender.sweep[-1], 1)
    reached = 0.0

    def measure(setting: Setting) -> dict[str, Any] | None:
        nonlocal reached
        if reached >= _ENOUGH and setting.rescore is None:
            return None
        speeds = {}
        for batch in BATCHES[::-1]:
            seconds, nearest = _run(search, queries.measured, setting, batch)
            speeds[f"queries_per_second_{batch}"] = len(nearest) / sum(seconds)
        # The results of the last pass, with single queries.
        reached = queries.recall(nearest)
        p50, p99 = (1e6 * float(value) for value in np.percentile(seconds, [50, 99]))
        return {"queries": len(nearest), "recall": reached, **speeds, "p50_us": p50, "p99_us": p99}

    return measure


def _run(search: Search, queries: Floats, setting: Setting, batch: int) -> tuple[list[float], Ids]:
    """The seconds of each call, and the results of the queries that fit into the time."""
    seconds, nearest = [], []
    until = perf_counter() + _SECONDS
    for start in range(0, len(queries), batch):
        began = perf_counter()
        nearest.append(search(queries[start : start + batch], setting))
        ended = perf_counter()
        seconds.append(ended - began)
        if ended > until:
            break
    return seconds, np.concatenate(nearest)


def _row(setting: Setting, answers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    measured = [name for name in answers[0] if name not in ("queries", "recall")]
    return {
        "ef": setting.ef,
        "rescore": setting.rescore,
        "queries": answers[0]["queries"],
        "recall": answers[0]["recall"],
        **{name: record.spread([answer[name] for answer in answers]) for name in measured},
    }
