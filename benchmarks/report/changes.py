"""Lists what got better and worse between two result files by more than their noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import hypot
from typing import Any

from rar.export.page.document import Block, Chart, Section, Table, Text
from rar.runtime.errors import InputError

from ..compare import compare
from .charts import Bar, around_zero, number

# A difference between shares counts as real from so many standard errors on: a level of 5 %.
_ERRORS = 1.96


def changes(name: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Section:
    """Compares a result file with an older one.

    Shares of pictures are compared by their standard errors, everything else by its ratio to the baseline of the same
    run, as `rar-bench compare` does: absolute times of two runs would compare the machines.

    Args:
        name: The newer file's name.
        old: The older file, from `record.read`.
        new: The newer file, of the same benchmark.

    Raises:
        InputError: The files hold nothing that can be compared.
    """
    if new["benchmark"] in ("accuracy", "ranking"):
        return Section(f"Changes ({name})", _shares(old["results"], new["results"]))
    delta = compare(old, new)
    ordered = sorted(delta.changes, key=lambda change: (not change.real, change.share))
    rows = [
        (
            change.name,
            "same" if not change.real else "better" if change.share > 0 else "worse",
            f"{change.share:+.1%}",
            *(f"{number(one.median)} ({number(one.q25)} - {number(one.q75)})" for one in (change.old, change.new)),
        )
        for change in ordered
    ]
    marks = [
        Bar(
            change.name,
            100 * change.share,
            100 * (change.new.q25 / change.old.q75 - 1),
            100 * (change.new.q75 / change.old.q25 - 1),
        )
        for change in ordered
    ]
    blocks: list[Block] = [
        Text("Ratios to the baseline of the same run; a change is real where the quartiles of both do not touch."),
        Chart(
            "Change of each ratio, above zero better",
            around_zero(marks, "%"),
            Table(("ratio", "", "change", "before", "now"), rows),
        ),
    ]
    blocks += [
        Text(f"{word}: {', '.join(names)}") for word, names in (("gone", delta.gone), ("new", delta.added)) if names
    ]
    return Section(f"Changes ({name})", blocks)


def _shares(old: Mapping[str, Any], new: Mapping[str, Any]) -> Sequence[Block]:
    both = [name for name in new if name in old]
    if not both:
        raise InputError("the files have no row in common; measure the same rankers and candidates")
    rows, marks = [], []
    for name in both:
        before, now = (row.get("fused", row["top1"]) for row in (old[name], new[name]))
        gain = now["percent"] - before["percent"]
        noise = _ERRORS * hypot(before["standard_error"], now["standard_error"])
        word = "same" if abs(gain) <= noise else "better" if gain > 0 else "worse"
        marks.append(Bar(name, gain, gain - noise, gain + noise))
        rows.append((name, word, f"{gain:+.1f}", f"{noise:.1f}", f"{before['percent']:.1f}", f"{now['percent']:.1f}"))
    return [
        Text(
            "Final top-1 in percent; a change is real where it is more than 1.96 standard errors of the difference, "
            "the files' pictures taken for different ones."
        ),
        Chart(
            "Change of top-1",
            around_zero(marks, "points"),
            Table(("row", "", "points", "noise", "before", "now"), rows),
        ),
    ]
