"""Where the time of a call goes, for whoever asks; where nobody does, a stage costs next to nothing.

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
    """The stages so far, and those that are open, the innermost last; `since` when the clock was last read."""

    seconds: dict[str, float] = field(default_factory=dict)
    open: list[str] = field(default_factory=list)
    since: float = 0.0

    def settle(self) -> None:
        """Gives the time since the last reading to the innermost open stage."""
        now = perf_counter()
        if self.open:
            name = self.open[-1]
            self.seconds[name] = self.seconds.get(name, 0.0) + now - self.since
        self.since = now


_record: ContextVar[_Record | None] = ContextVar("rar_stages", default=None)


@contextmanager
def recorded() -> Iterator[dict[str, float]]:
    """Seconds of each stage that this thread goes through meanwhile.

    A stage's time is without that of the stages inside it, so their sum is never more than the time that passed,
    unless other threads worked ahead (`note`).
    """
    record = _Record()
    before = _record.set(record)
    try:
        yield record.seconds
    finally:
        _record.reset(before)


@contextmanager
def stage(name: str) -> Iterator[None]:
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
    """Adds stages that another thread went through for this one."""
    if (record := _record.get()) is not None:
        for name, own in seconds.items():
            record.seconds[name] = record.seconds.get(name, 0.0) + own
