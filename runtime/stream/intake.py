"""Where pictures come in: a list, or a source that may be slow, endless, live, broken or stuck."""

from __future__ import annotations

import atexit
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from threading import Condition, Thread
from time import monotonic
from typing import Any, Generic, Literal, Protocol, TypeAlias, TypeVar, get_args
from weakref import WeakSet

from ..errors import InputError

T = TypeVar("T")
Policy: TypeAlias = Literal["every", "latest"]
POLICIES: tuple[Policy, ...] = get_args(Policy)
# Seconds that the end of the process waits for sources to give what they are asked for.
_GRACE = 0.5


@dataclass(frozen=True)
class Pace:
    """How a source is read.

    Attributes:
        most: Items that wait at most, and that a batch takes.
        wait: Seconds that the first item of a batch waits for others; None until there are `most`, or no more.
        policy: `every` reads when there is room; `latest` reads always, and drops the oldest where there is none.

    Raises:
        InputError: One is out of range.
    """

    most: int
    wait: float | None = None
    policy: Policy = "every"

    @classmethod
    def of(cls, batch_size: int, max_wait_ms: float | None, policy: Policy) -> Pace:
        """From what the caller gave.

        Raises:
            InputError: One is out of range.
        """
        if batch_size < 1:
            raise InputError(f"batch_size={batch_size}; give 1 or more")
        if max_wait_ms is not None and not max_wait_ms >= 0:
            raise InputError(f"max_wait_ms={max_wait_ms}; give 0 or more, or None to wait for whole batches")
        if policy not in POLICIES:
            raise InputError(f"policy {policy!r} is unknown; choose {', '.join(POLICIES)}")
        return cls(batch_size, None if max_wait_ms is None else max_wait_ms / 1e3, policy)


@dataclass(frozen=True)
class Taken(Generic[T]):
    """One item of a source.

    Attributes:
        item: The item.
        place: Its place in the source, from 0; dropped ones count.
        since: When it came, by `time.monotonic`.
    """

    item: T
    place: int
    since: float


class Intake(Protocol[T]):
    """What a stream takes its items from.

    Attributes:
        dropped: How many items were dropped, because newer ones came before they were taken.
        closed: Whether it was closed before its end.
    """

    dropped: int
    closed: bool

    def take(self, most: int, wait: float | None = None, until: float | None = None) -> list[Taken[T]]:
        """The next items.

        Args:
            most: Items to take at most.
            wait: Seconds from the first one's coming to wait for others; None until there are `most`, or no more.
            until: When to give up waiting for a first one, by `time.monotonic`; None for never.

        Returns:
            The items. None are left, or none came in time, or it was closed, if there is none.

        Raises:
            BaseException: What the source raised, after all items before it were taken.
        """
        ...

    @property
    def over(self) -> bool:
        """Whether there are no more items."""
        ...

    def close(self) -> None:
        """Ends it: who waits for an item gets none. Returns at once, also while the source does not."""
        ...


class Listed(Generic[T]):
    """Items that are there already: no thread is needed, and nothing is copied."""

    def __init__(self, items: Iterable[T], check: Callable[[T], T]) -> None:
        self.dropped = 0
        self.closed = False
        self._items = enumerate(items)
        self._check = check
        self._over = False
        self._error: Exception | None = None

    def take(self, most: int, wait: float | None = None, until: float | None = None) -> list[Taken[T]]:
        """See `Intake`."""
        taken: list[Taken[T]] = []
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        while len(taken) < most and not (self._over or self.closed):
            try:
                place, item = next(self._items)
                taken.append(Taken(self._check(item), place, monotonic()))
            except StopIteration:
                self._over = True
            except Exception as error:
                self._over = True
                if not taken:
                    raise
                self._error = error
        return taken

    @property
    def over(self) -> bool:
        """See `Intake`."""
        return (self._over and self._error is None) or self.closed

    def close(self) -> None:
        """See `Intake`."""
        self.closed = not self._over or self.closed


class Reader(Generic[T]):
    """Reads a source in a thread of its own, so that nobody else ever waits for it longer than they mean to.

    No call can be stopped that waits inside the source, such as a camera's. So the thread is a daemon, and `close`
    leaves it behind: it ends when the source next gives something, or with the process.

    Args:
        source: May be endless.
        own: Makes an item the library's own, before the source is asked for the next and may reuse its buffers. What
            it raises ends the source.
        pace: How to read.
    """

    def __init__(self, source: Iterator[Any], own: Callable[[Any], T], pace: Pace) -> None:
        self.dropped = 0
        self.closed = False
        self._source = source
        self._own = own
        self._pace = pace
        self._changed = Condition()
        self._waiting: deque[Taken[T]] = deque()
        self._wanted = 0  # how many items were asked for that are not there yet
        self._thread: Thread | None = None
        self._ended = False
        self._error: BaseException | None = None

    def take(self, most: int, wait: float | None = None, until: float | None = None) -> list[Taken[T]]:
        """See `Intake`."""
        with self._changed:
            if self._thread is None:
                self._thread = Thread(target=self._read, name="rar-read", daemon=True)
                self._thread.start()
                _READING.add(self._thread)
            self._wanted = most
            self._changed.notify_all()
            self._await(1, until)
            if self._waiting:
                self._await(most, None if wait is None else self._waiting[0].since + wait)
            taken = [self._waiting.popleft() for _ in range(min(most, len(self._waiting)))]
            self._wanted = most - len(taken)
            if not taken and self._error is not None:
                error, self._error = self._error, None
                raise error
            return taken

    @property
    def over(self) -> bool:
        """See `Intake`."""
        with self._changed:
            return self.closed or (self._ended and not self._waiting and self._error is None)

    def close(self) -> None:
        """See `Intake`."""
        with self._changed:
            self.closed = self.closed or not self._ended or bool(self._waiting)
            self._waiting.clear()
            self._error = None
            self._changed.notify_all()

    def _await(self, count: int, until: float | None) -> None:
        """Waits for so many items, the end or the time."""
        self._changed.wait_for(
            lambda: len(self._waiting) >= count or self._ended or self.closed,
            None if until is None else max(0.0, until - monotonic()),
        )

    def _read(self) -> None:
        place = 0
        error: BaseException | None = None
        try:
            while self._may_read():
                self._put(Taken(self._own(next(self._source)), place, monotonic()))
                place += 1
        except StopIteration:
            pass
        except BaseException as raised:  # the caller gets it, as if the source had been read there
            error = raised
        with self._changed:
            self._ended = True
            self._error = None if self.closed else error
            self._changed.notify_all()

    def _may_read(self) -> bool:
        """Waits until there is room; False when nobody wants any more."""
        with self._changed:
            if self._pace.policy == "every":
                self._changed.wait_for(lambda: len(self._waiting) < self._wanted or self.closed)
            return not self.closed

    def _put(self, taken: Taken[T]) -> None:
        with self._changed:
            if self.closed:
                return
            self._waiting.append(taken)
            if self._pace.policy == "latest" and len(self._waiting) > self._pace.most:
                self._waiting.popleft()
                self.dropped += 1
            self._changed.notify_all()


_READING: WeakSet[Thread] = WeakSet()


def _await_reading() -> None:
    """At the end of the process: a thread that comes back from a source once Python is gone crashes it.

    Streams were closed before this (`results`), so each thread ends with what it reads now. One whose source gives
    nothing is left behind.
    """
    end = monotonic() + _GRACE
    for thread in list(_READING):
        thread.join(max(0.0, end - monotonic()))


atexit.register(_await_reading)
os.register_at_fork(after_in_child=_READING.clear)  # they are the parent's


def intake(source: Iterable[Any], pace: Pace, own: Callable[[Any], T], check: Callable[[Any], T]) -> Intake[T]:
    """What reads a source.

    Args:
        source: What the caller gave.
        pace: How to read it.
        own: Makes an item of a source that goes on the library's own.
        check: Does for an item of a list, which stays as it is.
    """
    if isinstance(source, (list, tuple)) and pace.policy == "every":
        return Listed(source, check)
    return Reader(iter(source), own, pace)
