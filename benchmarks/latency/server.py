"""The server scenario: requests come at random times and wait; what is the highest rate at which few wait long?

Arrivals are a Poisson process, as in MLPerf's server scenario (arXiv 1911.02549): the times between them are
exponential, seeded. Requests that wait are answered together, and each one's time counts from its arrival.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Event, Thread
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt

# A run is given up when a request has waited so many times the bound: the queue only grows.
_HOPELESS = 20


@dataclass(frozen=True)
class Served:
    """Seconds that each request took from its arrival; `whole` is False where the run was given up."""

    rate: float
    seconds: list[float]
    whole: bool

    def p99(self) -> float:
        """Infinite where the run was given up."""
        return float(np.percentile(self.seconds, 99)) if self.whole else float("inf")


def arrivals(rate: float, requests: int, seed: int) -> npt.NDArray[np.float64]:
    """Seconds of each arrival of a Poisson process: float64 [requests], rising."""
    return np.cumsum(np.random.default_rng(seed).exponential(1 / rate, requests))


def serve(
    answer: Callable[[Sequence[Path], int], Any],
    pictures: Sequence[Path],
    rate: float,
    requests: int,
    most: int,
    bound: float,
    seed: int,
) -> Served:
    """Answers requests as they come.

    Args:
        answer: Answers pictures in batches of a size.
        pictures: Taken in turns.
        rate: Arrivals a second.
        requests: How many.
        most: Waiting requests that are answered together.
        bound: Seconds that a request may take.
        seed: Seed of the arrivals.
    """
    times = arrivals(rate, requests, seed)
    waiting: SimpleQueue[int] = SimpleQueue()
    over = Event()
    start = perf_counter()

    def arrive() -> None:
        for request, time in enumerate(times):
            if over.wait(max(0.0, start + time - perf_counter())):
                return
            waiting.put(request)

    clients = Thread(target=arrive, name="rar-clients", daemon=True)
    clients.start()
    seconds: list[float] = []
    try:
        while len(seconds) < requests:
            batch = [waiting.get()]
            while len(batch) < most:
                try:
                    batch.append(waiting.get_nowait())
                except Empty:
                    break
            answer([pictures[request % len(pictures)] for request in batch], len(batch))
            now = perf_counter() - start
            seconds += [now - float(times[request]) for request in batch]
            if max(seconds[-len(batch) :]) > _HOPELESS * bound:
                return Served(rate, seconds, whole=False)
    finally:
        over.set()
        clients.join()
    return Served(rate, seconds, whole=True)


def highest_rate(
    try_rate: Callable[[float], Served], top: float, bound: float, steps: int
) -> tuple[float, list[Served]]:
    """The highest rate tried that holds the bound, by halving the range below `top`.

    Args:
        try_rate: Serves at a rate.
        top: A rate that nothing can be above, such as the throughput where nobody waits.
        bound: Seconds that p99 may be.
        steps: Rates to try.

    Returns:
        The rate, 0 where none held, and all runs.
    """
    held, runs = 0.0, []
    for _ in range(steps):
        run = try_rate((held + top) / 2)
        runs.append(run)
        if run.p99() <= bound:
            held = run.rate
        else:
            top = run.rate
    return held, runs
