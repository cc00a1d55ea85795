"""What a stream's caller holds, and the thread that works ahead of it."""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from queue import SimpleQueue
from threading import Thread
from types import TracebackType
from typing import Any, Generic, TypeVar
from weakref import WeakSet

from .intake import Intake

T = TypeVar("T")


class Stream(Iterator[T], Generic[T]):
    """Results, in the order of their pictures. Close it, or let it go, to leave it early.

    Example:
        >>> with rec.stream(camera(), batch_size=4, max_wait_ms=50, policy="latest") as results:
        ...     for result in results:
        ...         print(results.place, result.label, results.dropped)

    Attributes:
        place: The place in the source, from 0, of the picture whose result was given last; dropped ones count. -1
            before the first.
    """

    def __init__(self, results: Generator[tuple[int, T], None, None], intake: Intake[Any]) -> None:
        self.place = -1
        self._results = results
        self._intake = intake

    @property
    def dropped(self) -> int:
        """How many pictures were dropped so far because newer ones came; only `policy="latest"` drops any."""
        return self._intake.dropped

    def __next__(self) -> T:
        self.place, result = next(self._results)
        return result

    def close(self) -> None:
        """Ends the stream: no more results. Any thread may call it, and it does not wait for the source.

        A source cannot be stopped while it is being waited for. The thread that does is left behind: it ends when the
        source gives its next picture, or with the process, which waits for it half a second at most.
        """
        self._intake.close()
        with suppress(ValueError):  # another thread waits for a result; it gets the end
            self._results.close()

    def __enter__(self) -> Stream[T]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Worker(Generic[T]):
    """A thread that calls a function when it is asked to.

    It is a daemon, so that it does not hold up the end of the process while it waits for a source.
    """

    def __init__(self, intake: Intake[Any], following: Callable[[], T | None]) -> None:
        self.asked: SimpleQueue[bool] = SimpleQueue()
        self.made: SimpleQueue[tuple[T | None, BaseException | None]] = SimpleQueue()
        self.intake = intake
        self.thread = Thread(target=self._work, args=(following,), name="rar-prepare", daemon=True)
        self.thread.start()

    def _work(self, following: Callable[[], T | None]) -> None:
        while self.asked.get():
            try:
                self.made.put((following(), None))
            except BaseException as error:
                self.made.put((None, error))


_WORKERS: WeakSet[_Worker[Any]] = WeakSet()


def _end_workers() -> None:
    """At the end of the process: Python would end a daemon in the midst of native code, which does not survive that."""
    workers = list(_WORKERS)
    for worker in workers:
        worker.intake.close()
        worker.asked.put(False)
    for worker in workers:
        worker.thread.join()


atexit.register(_end_workers)
os.register_at_fork(after_in_child=_WORKERS.clear)  # they are the parent's


def ahead(intake: Intake[Any], following: Callable[[], T | None], *, early: bool = True) -> Iterator[T]:
    """What `following` returns, made by another thread, until it is None; what it raises is raised in its place.

    Args:
        intake: What `following` waits for; closing it must end that. It is closed when the iteration is left.
        following: Makes the next one.
        early: Whether the next one is made while the last one is used; else when it is asked for.
    """
    worker = _Worker(intake, following)
    _WORKERS.add(worker)
    try:
        worker.asked.put(True)
        while True:
            one, error = worker.made.get()
            if error is not None:
                raise error
            if one is None:
                return
            if early:
                worker.asked.put(True)
            yield one
            if not early:
                worker.asked.put(True)
    finally:
        intake.close()
        worker.asked.put(False)
