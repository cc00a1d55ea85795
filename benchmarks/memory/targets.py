"""The conclusions of `rar-bench memory`: speed at equal recall, and whether the memory reaches its targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .ours import DEFAULT, NAMES, SMALLER
from .sweep import BATCHES, LEVELS, speed_at

_FULL, _FAISS = "usearch", "faiss HNSW"


def ratios(contenders: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The default memory's queries per second over each peer's, at equal recall.

    Args:
        contenders: Each with its `sweep`.

    Returns:
        `peer`, `batch`, `recall` and `ratio`, where both reach the recall.
    """
    rows = []
    for peer in (name for name in contenders if name not in NAMES):
        for batch in BATCHES:
            for level in LEVELS:
                speeds = [speed_at(contenders[name]["sweep"], level, batch) for name in (DEFAULT.name, peer)]
                if speeds[0] is not None and speeds[1] is not None:
                    rows.append({"peer": peer, "batch": batch, "recall": level, "ratio": speeds[0] / speeds[1]})
    return rows


def judge(results: Mapping[str, Mapping[str, Any]], grown: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """The memory's targets, and whether it reaches them.

    Args:
        results: The results of each data set; the targets of opening and building apply to the last one.
        grown: What readers beside a writer saw; None if they were not there.

    Returns:
        `target`, `measured` and `reached`.
    """
    told = []

    def add(target: str, measured: str, reached: bool) -> None:
        told.append({"target": target, "measured": measured, "reached": reached})

    for name, result in results.items():
        ours, full = result["contenders"][DEFAULT.name], result["contenders"][_FULL]
        recall, full_recall = (_at(one["sweep"], result["chosen"])["recall"] for one in (ours, full))
        add(
            f"{name}: recall@10 within 0.5 points of usearch at full dimension, both at ef {result['chosen']['ef']}",
            f"{recall:.2f} against {full_recall:.2f} %",
            recall >= full_recall - 0.5,
        )
        share = ours["index_bytes"] / full["index_bytes"]
        add(f"{name}: at most 1/4 of its index bytes", f"{share:.3f}", share <= 0.25)
        for peer, times in ((_FULL, 2.0), (_FAISS, 1.5)):
            least = {batch: _least(result["ratios"], peer, batch) for batch in BATCHES}
            add(
                f"{name}: at least {times:g} times the queries a second of {peer} at equal recall",
                ", ".join(f"{ratio:.2f} times in batches of {batch}" for batch, ratio in least.items()),
                least[1] >= times,
            )
    opening, walked = ours["opening"], _at(ours["sweep"], result["chosen"])
    resident = 100 * opening["resident_bytes"]["median"] / ours["files_bytes"]
    peak = ours["build"]["peak_bytes"] / 2**30
    for target, value, unit, limit in (
        ("opens", opening["milliseconds"]["median"], "ms", 10),
        ("resident growth at open, of the files", resident, "%", 2),
        ("single query p50, ten entries, warm", walked["p50_us"]["median"], "µs", 300),
        ("single query p99, ten entries, warm", walked["p99_us"]["median"], "µs", 1000),
        ("single query p50, five classes, warm", ours["searching"]["p50_us"]["median"], "µs", 300),
        ("single query p99, five classes, warm", ours["searching"]["p99_us"]["median"], "µs", 1000),
        ("memory of the build over mapped files", peak, "GiB", 1.5),
    ):
        shown = f"{value:.0f}" if value >= 100 else f"{value:.3g}"
        add(f"{name}: {target}, at most {limit} {unit}", f"{shown} {unit}", value <= limit)
    if grown is not None:
        add(
            f"{name}: no wrong and no lost answer to two readers beside a writer",
            f"{grown['wrong']} and {grown['lost']} of {grown['searches']} searches, {grown['compactions']} compactions",
            grown["wrong"] == grown["lost"] == 0 < grown["searches"],
        )
    return told


def _least(rows: Sequence[Mapping[str, Any]], peer: str, batch: int) -> float:
    """The least of the ratios over all recalls; 0 where there is no recall that both reach."""
    return min((row["ratio"] for row in rows if (row["peer"], row["batch"]) == (peer, batch)), default=0.0)


def _at(rows: Sequence[Mapping[str, Any]], chosen: Mapping[str, int]) -> Mapping[str, Any]:
    """The row of that walk, or of the widest narrower one that was measured: it missed next to nothing."""
    allowed = [row for row in rows if row["ef"] <= chosen["ef"] and row["rescore"] in (None, chosen["rescore"])]
    return max(allowed, key=lambda row: int(row["ef"]))


def show(name: str, result: Mapping[str, Any]) -> None:
    """Prints a data set's tables."""
    entries, contenders = result["data"]["entries"], result["contenders"]
    print(f"\n{name}: {entries} x {result['dim']}, {result['queries']} queries, one thread")
    print(f"{'queries/s at recall@10 of':<28}" + "".join(f"{level:>8g} %" for level in LEVELS) + "   batch 32, 99 %")
    for contender, told in contenders.items():
        if contender in (DEFAULT.name, SMALLER.name) or contender not in NAMES:
            speeds = [*(speed_at(told["sweep"], level, 1) for level in LEVELS), speed_at(told["sweep"], 99.0, 32)]
            print(f"{contender:<28}" + "".join(f"{'-' if speed is None else f'{speed:.0f}':>10}" for speed in speeds))
    at = f"at ef {result['chosen']['ef']}, R {result['chosen']['rescore']}"
    print(f"{at:<28}  recall  classes  queries/s  p50 µs  p99 µs   index B/entry  build CPU s")
    for contender, told in contenders.items():
        line = f"{contender:<28}"
        if contender in NAMES:
            row, searching = _at(told["sweep"], result["chosen"]), told["searching"]
            line += f"{row['recall']:>8.2f}{searching['classes_recall']:>9.2f}"
            line += f"{row['queries_per_second_1']['median']:>11.0f}"
            line += f"{searching['p50_us']['median']:>8.0f}{searching['p99_us']['median']:>8.0f}"
        print(f"{line:<72}{told['index_bytes'] / entries:>16.0f}{told['build']['cpu_seconds']:>13.1f}")
