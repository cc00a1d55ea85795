"""CPU time of a process and of all that it started, as Linux tells of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# What the command line of the child says that recognises for an actor (`rar.serving.isolated`).
RECOGNISES = b"rar.serving.isolated"


@dataclass(frozen=True)
class Used:
    """Seconds of CPU time.

    Attributes:
        all: Of all processes.
        recognising: Of the children that recognise, alone.
    """

    all: float
    recognising: float

    @property
    def own(self) -> float:
        """Of all others: what the engine takes for itself."""
        return self.all - self.recognising

    def __sub__(self, before: Used) -> Used:
        return Used(self.all - before.all, self.recognising - before.recognising)


def used(root: int | None = None) -> Used:
    """What a process and its descendants have used so far, those that ended and were waited for too.

    Args:
        root: The process; this one by default.
    """
    tick = os.sysconf("SC_CLK_TCK")
    everything = recognising = 0
    for process, ticks in _family(root or os.getpid()):
        everything += ticks
        if RECOGNISES in _read(process, "cmdline"):
            recognising += ticks
    return Used(everything / tick, recognising / tick)


def _family(root: int) -> Iterator[tuple[int, int]]:
    """Each descendant that lives, itself included, and its ticks."""
    parents, ticks = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (stat := _read(int(entry.name), "stat")):
            fields = stat.rpartition(b")")[2].split()  # a name may hold anything
            parents[int(entry.name)] = int(fields[1])
            ticks[int(entry.name)] = sum(map(int, fields[11:15]))  # its own, and of those it waited for
    for process in ticks:
        above = process
        while above not in (root, 0):
            above = parents.get(above, 0)
        if above == root:
            yield process, ticks[process]


def _read(process: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{process}/{name}").read_bytes()
    except OSError:  # it has ended
        return b""
