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


class Family:
    """This process and all that it starts, looked at again and again.

    What has ended counts as it was last seen.
    """

    def __init__(self) -> None:
        self._ticks: dict[int, int] = {}
        self._recognising: set[int] = set()

    def used(self) -> Used:
        """What they have used so far."""
        for process, ticks in _living(os.getpid()):
            # Asked each time: a child has its parent's command line until its own program begins.
            if process not in self._recognising and RECOGNISES in _read(process, "cmdline"):
                self._recognising.add(process)
            self._ticks[process] = ticks
        second = os.sysconf("SC_CLK_TCK")
        recognising = sum(self._ticks[process] for process in self._recognising)
        return Used(sum(self._ticks.values()) / second, recognising / second)


def _living(root: int) -> Iterator[tuple[int, int]]:
    """Each descendant that lives, itself included, and its ticks."""
    parents, ticks = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (stat := _read(int(entry.name), "stat")):
            fields = stat.rpartition(b")")[2].split()  # a name may hold anything
            parents[int(entry.name)] = int(fields[1])
            ticks[int(entry.name)] = int(fields[11]) + int(fields[12])
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
