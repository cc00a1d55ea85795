"""What a memory was made of, class by class, with what to mend."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from rar.runtime.cli.printable import printable
from rar.runtime.memory import MODALITIES, Memory

# Rows of the table; classes with warnings come first, the rest is counted.
_ROWS = 20
_WIDTH = 40


def table(memory: Memory, described: Collection[str] | None) -> str:
    """Classes, counts and warnings as lines for a terminal.

    Args:
        memory: As it was built.
        described: The classes with descriptions; None where no class has any.
    """
    counts = {name: memory.parts[name].counts.tolist() for name in MODALITIES if name in memory.parts}
    rows = [
        (
            printable(label),
            [count[place] for count in counts.values()],
            ", ".join(_warnings(counts.get("pictures", [None] * len(memory.labels))[place], label, described)),
        )
        for place, label in enumerate(memory.labels)
    ]
    warned = sum(bool(warnings) for _, _, warnings in rows)
    shown = sorted(rows, key=lambda row: not row[2])[:_ROWS]  # stable: else in the memory's order
    width = min(_WIDTH, max(len(name) for name, _, _ in (*shown, ("class", [], ""))))
    lines = [f"  {'class':<{width}}{''.join(f'  {name:>8}' for name in counts)}  {'warnings' if warned else ''}"]
    for name, numbers, warnings in shown:
        short = name if len(name) <= width else f"{name[: width - 3]}..."
        lines.append(f"  {short:<{width}}{''.join(f'  {number:>8}' for number in numbers)}  {warnings}")
    if len(rows) > len(shown):
        beyond = max(warned - len(shown), 0)
        lines.append(f"  ... and {len(rows) - len(shown)} more classes, {beyond or 'none'} of them with a warning")
    return "\n".join(line.rstrip() for line in lines)


def _warnings(pictures: int | None, label: str, described: Collection[str] | None) -> Iterator[str]:
    """Of one class; `pictures` is None where the memory has none at all."""
    if pictures == 0:
        yield "no picture: found by its name alone"
    elif pictures == 1:
        yield "one picture: add more"
    if described is not None and label not in described:
        yield "no description"
