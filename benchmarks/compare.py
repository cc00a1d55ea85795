"""`rar-bench compare`: two result files of one benchmark, by their ratios to the baseline of the same run.

Milliseconds of two runs tell of two machines; a ratio to a baseline that was measured in the same run tells of the
code. Compared is every `ratio` and `speedup` in the files: a number, or a median with quartiles; above 1 is better. Two
of them belong together where everything else that names their rows is equal. A change is real only where the spreads
that both files print do not touch.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rar.runtime.cli.printable import printable
from rar.runtime.errors import InputError

from .record import read

_RATIOS = ("ratio", "speedup")
# What a row says of its result, and not of what it is.
_TOLD = ("against", "target", "reached", "tokens", "count")


@dataclass(frozen=True)
class Spread:
    """A ratio and its quartiles, which are the ratio itself where the file has none; `against` what, if it says so."""

    median: float
    q25: float
    q75: float
    against: str = ""


@dataclass(frozen=True)
class Change:
    """One row of both files.

    Attributes:
        name: What it is.
        old: Its ratio before.
        new: Its ratio now.
    """

    name: str
    old: Spread
    new: Spread

    @property
    def share(self) -> float:
        """By what share of the old ratio the new one is better; negative where it is worse."""
        return self.new.median / self.old.median - 1

    @property
    def real(self) -> bool:
        """Whether the spreads do not touch."""
        return self.new.q25 > self.old.q75 or self.new.q75 < self.old.q25


@dataclass(frozen=True)
class Comparison:
    """What two files have to say together: the rows of both, and the names of those that one of them lacks."""

    changes: list[Change]
    gone: list[str]
    added: list[str]

    def worse(self, limit: float) -> list[Change]:
        """Real changes for the worse by more than a share."""
        return [change for change in self.changes if change.real and change.share < -limit]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    parser.add_argument("old", metavar="OLD", help="result file (.json)")
    parser.add_argument("new", metavar="NEW", help="a later one of the same benchmark")
    parser.add_argument("--fail-above", default="10%", metavar="SHARE", help="exit status 1 above it (default: 10%%)")


def run(args: argparse.Namespace) -> int:
    """Compares and prints; 1 where something got worse by more than the limit."""
    limit = _share(args.fail_above)
    old, new = read(args.old), read(args.new)
    comparison = compare(old, new)
    machines = sorted({str(one["environment"].get("cpu")) for one in (old, new)})
    if len(machines) > 1:
        print(f"of two machines: {printable(' and '.join(machines))}; a baseline may gain more from one than we do")
    for name, one in ((args.old, old), (args.new, new)):
        if one.get("missing"):
            print(f"{printable(name)}: of a run that was stopped; some of its rows are not there")
    for change in sorted(comparison.changes, key=lambda change: change.share):
        word = "same" if not change.real else "better" if change.share > 0 else "worse"
        spreads = " -> ".join(f"{one.median:.2f} ({one.q25:.2f}-{one.q75:.2f})" for one in (change.old, change.new))
        baselines = [change.old.against, change.new.against]
        other = f"; against {printable(' -> '.join(baselines))}" if len(set(baselines)) > 1 else ""
        print(f"{word:<7}{change.share:>+8.1%}  {printable(change.name)}: {spreads}{other}")
    for word, names in (("gone", comparison.gone), ("added", comparison.added)):
        for name in names:
            print(f"{word:<17}{printable(name)}")
    worse = comparison.worse(limit)
    if worse:
        print(f"{len(worse)} of {len(comparison.changes)} ratios are worse by more than {limit:.0%}", file=sys.stderr)
    return 1 if worse else 0


def compare(old: Mapping[str, Any], new: Mapping[str, Any]) -> Comparison:
    """Compares two result files' contents.

    Raises:
        InputError: They are of two benchmarks, have no ratio in common, or hold one twice.
    """
    if old["benchmark"] != new["benchmark"]:
        raise InputError(f"one file is of `rar-bench {old['benchmark']}`, the other of `rar-bench {new['benchmark']}`")
    before, now = _ratios(old), _ratios(new)
    both = [name for name in before if name in now]
    if not both:
        raise InputError(
            "the files have no ratio in common: "
            + ("they hold none; run them with a baseline" if not (before or now) else "their rows differ in all")
        )
    return Comparison(
        [Change(name, before[name], now[name]) for name in both],
        [name for name in before if name not in now],
        [name for name in now if name not in before],
    )


def _ratios(content: Mapping[str, Any]) -> dict[str, Spread]:
    ratios: dict[str, Spread] = {}
    for name, ratio in _find(content, ()):
        if name in ratios:
            raise InputError(f"two rows of a file cannot be told apart ({name})")
        ratios[name] = ratio
    return ratios


def _find(value: Any, way: tuple[str, ...]) -> Iterator[tuple[str, Spread]]:
    """All ratios below a value, each with a name made of the keys that lead to its row and of what the row says."""
    if isinstance(value, list):
        for item in value:
            yield from _find(item, way)
    elif isinstance(value, dict):
        labels = [f"{key} {item}" for key, item in value.items() if isinstance(item, (str, int)) and key not in _TOLD]
        for key, item in value.items():
            if key in _RATIOS and (ratio := _spread(item, str(value.get("against", "")))) is not None:
                yield ", ".join([*way, *labels] or [key]), ratio
            elif isinstance(item, (list, dict)):
                yield from _find(item, (*way, key) if isinstance(item, dict) else way)


def _spread(value: Any, against: str) -> Spread | None:
    """Reads a ratio; None if it is not a number above 0."""
    parts = [value.get(part) for part in ("median", "q25", "q75")] if isinstance(value, dict) else [value] * 3
    numbers = [float(part) for part in parts if isinstance(part, (int, float)) and part > 0]
    if len(numbers) != 3:
        return None
    median, low, high = numbers
    return Spread(median, low, high, against)


def _share(text: str) -> float:
    try:
        share = float(text.removesuffix("%")) / 100
    except ValueError:
        share = -1.0
    if not 0 <= share < 1:
        raise InputError(f"--fail-above {text}: give a percentage from 0 % to below 100 %, such as 10%")
    return share
