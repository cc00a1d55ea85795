"""The work of a stack in `rar-bench latency`, in the stack's own process: start, answer queries, answer all, serve."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from time import perf_counter
from typing import Any, Literal, Protocol, TypeAlias

from rar.runtime.errors import RarError
from rar.runtime.stages import recorded

from ..usage import memory
from .server import Served, serve

# The retrieval alone, by the bundle's encoder or by the same at fp32; with the ranking of its candidates, or with
# ranking only if the gate is unsure.
Way: TypeAlias = Literal["retrieve", "retrieve, fp32", "rank", "rank, gated"]

# Labels pictures in batches of a size: the best label of each, or None.
Labeller: TypeAlias = Callable[[Sequence[Path], int], Sequence[str | None]]

# Queries after the first that are recorded separately; fewer if each takes seconds.
_WARM, _WARM_SECONDS = 5, 3.0


@dataclass(frozen=True)
class Opened:
    """A stack that is ready.

    Attributes:
        answer: See `Labeller`.
        batches: Batch sizes to use when latency does not matter.
        compiles: Whether it compiles for each batch size, which is then not timed.
        says: Its own report after it has answered.
    """

    answer: Labeller
    batches: Sequence[int] = (1,)
    compiles: bool = False
    says: Callable[[], Mapping[str, Any]] = dict


@dataclass(frozen=True)
class Contender:
    """One stack on one way; `open` is pickled and run in its own process."""

    stack: str
    way: Way
    open: Callable[[], Opened]


class Work(Protocol):
    """A piece of work; it and its result are pickled."""

    def __call__(self, opened: Opened) -> Any:
        """Does the work."""
        ...


def open_worker(contender: Contender) -> Callable[[Work], Any]:
    """Opens a stack, for `process.in_a_process`; every error becomes a RarError.

    Raises:
        RarError: The stack failed; the message says how.
    """
    opened = told(contender.open)
    return lambda work: told(lambda: work(opened))


@dataclass(frozen=True)
class Started:
    """The cost of the first pictures.

    Attributes:
        warm: Seconds of the warm-up's queries.
        resident_bytes: Memory of the process after them.
        peak_bytes: Its peak memory.
        batches: See `Opened`.
        says: See `Opened`.
    """

    warm: list[float]
    resident_bytes: int
    peak_bytes: int
    batches: tuple[int, ...]
    says: dict[str, Any]


@dataclass(frozen=True)
class First:
    """Answers the very first picture."""

    picture: Path

    def __call__(self, opened: Opened) -> None:
        """See the class."""
        opened.answer([self.picture], 1)


@dataclass(frozen=True)
class WarmUp:
    """Answers some more, one by one, and reports the process's memory."""

    pictures: Sequence[Path]

    def __call__(self, opened: Opened) -> Started:
        """See the class."""
        warm: list[float] = []
        for picture in self.pictures[:_WARM]:
            warm.append(_seconds(opened, [picture]))
            if sum(warm) > _WARM_SECONDS:
                break
        held = memory()
        return Started(warm, held.resident, held.peak, tuple(opened.batches), dict(opened.says()))


@dataclass(frozen=True)
class Queried:
    """Seconds of each query, and of each of its stages."""

    seconds: list[float]
    stages: list[dict[str, float]]


@dataclass(frozen=True)
class Queries:
    """Answers queries one after the other.

    Attributes:
        pictures: Taken in turns.
        size: Pictures a query.
        seconds: How long at least.
        least: How many queries at least.
    """

    pictures: Sequence[Path]
    size: int
    seconds: float
    least: int

    def __call__(self, opened: Opened) -> Queried:
        """See the class."""
        queries = cycle(self.pictures)
        taken: list[float] = []
        stages: list[dict[str, float]] = []
        until = perf_counter() + self.seconds
        while len(taken) < self.least or perf_counter() < until:
            with recorded() as laps:
                taken.append(_seconds(opened, list(islice(queries, self.size))))
            stages.append(dict(laps))
        return Queried(taken, stages)


@dataclass(frozen=True)
class Offline:
    """Answers pictures as fast as it can; for each batch size how many pictures it took in how many seconds.

    Attributes:
        pictures: Taken in turns.
        seconds: How long in each batch size, at least.
        sizes: Batch sizes.
    """

    pictures: Sequence[Path]
    seconds: float
    sizes: Sequence[int]

    def __call__(self, opened: Opened) -> dict[int, tuple[int, float]]:
        """See the class."""
        return {size: self._run(opened, size) for size in self.sizes}

    def _run(self, opened: Opened, size: int) -> tuple[int, float]:
        queries = cycle(self.pictures)
        if opened.compiles:
            opened.answer(list(islice(queries, size)), size)
        done, batches, start = 0, 1, perf_counter()
        while (taken := perf_counter() - start) < self.seconds:
            some = list(islice(queries, size * batches))
            opened.answer(some, size)
            done += len(some)
            # More at a time, so that a stack that prepares a batch while it answers another can.
            batches = min(2 * batches, 16)
        return done, taken


@dataclass(frozen=True)
class Serve:
    """Answers requests that come at random times; see `server.serve`."""

    pictures: Sequence[Path]
    rate: float
    requests: int
    most: int
    bound: float
    seed: int

    def __call__(self, opened: Opened) -> Served:
        """See the class."""
        return serve(opened.answer, self.pictures, self.rate, self.requests, self.most, self.bound, self.seed)


def _seconds(opened: Opened, pictures: Sequence[Path]) -> float:
    start = perf_counter()
    opened.answer(pictures, len(pictures))
    return perf_counter() - start


def told(work: Callable[[], Any]) -> Any:
    """Does work; every error becomes a RarError, which a process that is asked passes on.

    Raises:
        RarError: The work failed; the message says how.
    """
    try:
        return work()
    except RarError:
        raise
    except Exception as error:  # whatever a peer raises
        raise RarError(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}") from error
