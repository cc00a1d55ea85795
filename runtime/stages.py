"""Measures where the time of a call goes; while nobody measures, a stage costs next to nothing.

Example:
    >>> with recorded() as seconds:
    ...     recognizer.recognize("cat.jpg")
    >>> seconds["embed"]
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from time import perf_counter


@dataclass
class _Record:
    """The finished stages and the open ones, innermost last; `since` is when the clock was last read."""

    seconds: dict[str, float] = field(default_factory=dict)
    open: list[str] = field(default_factory=list)
    since: float = 0.0

    def settle(self) -> None:
        """Adds the time since the last reading to the innermost open stage."""
        now = perf_counter()
        if self.open:
            name = self.open[-1]
            self.seconds[name] = self.seconds.get(name, 0.0) + now - self.since
        self.since = now


_record: ContextVar[_Record | None] = ContextVar("rar_stages", default=None)


@contextmanager
def recorded() -> Iterator[dict[str, float]]:
    """Seconds of each stage that this thread enters meanwhile.

    A stage's time excludes the stages inside it. So the sum never exceeds the time that passed, unless other threads
    worked ahead (`note`).
    """
    record = _Record()
    before = _record.set(record)
    try:
        yield record.seconds
    finally:
        _record.reset(before)


@contextmanager
def in_stage(name: str) -> Iterator[None]:
    """Marks what runs inside as a stage. Must not hold a `yield`: the time outside would count."""
    record = _record.get()
    if record is None:
        yield
        return
    record.settle()
    record.open.append(name)
    try:
        yield
    finally:
        record.settle()
        record.open.pop()


def note(seconds: Mapping[str, float]) -> None:
    """Adds the stages that another thread ran for this one."""
    if (record := _record.get()) is not None:
        for name, spent in seconds.items():
            record.seconds[name] = record.seconds.get(name, 0.0) + spent
