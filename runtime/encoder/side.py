"""Parts of a batch side by side, a thread each, where that is faster than one run by all threads."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from ..session import Session
from ..session.protocol import Array

# Waits for what was begun, and gives its outputs by name and the seconds from its beginning to its end.
Outcome: TypeAlias = Callable[[], "tuple[dict[str, Array], float]"]


class SideBySide:
    """Runs a graph on parts of a batch, each by one thread.

    Threads that share a run wait for each other after each operator, and where one of them decodes a picture meanwhile,
    all others wait for it. Threads with runs of their own do not. What is begun while they are busy follows at once.

    Args:
        session: The graph, opened for one thread.
        threads: How many parts run at once.
    """

    def __init__(self, session: Session, threads: int) -> None:
        self._session, self._threads, self._process = session, threads, os.getpid()
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="rar-embed")

    def begin(self, pixels: npt.NDArray[np.float32], outputs: Sequence[str]) -> Outcome:
        """Begins to run float32 [N, 3, S, S].

        Args:
            pixels: The batch.
            outputs: Names of the outputs to fetch.

        Returns:
            Waits for the outputs, and raises what `Session.run` raised.

        Raises:
            RuntimeError: It is closed.
        """

        def run(part: npt.NDArray[np.float32]) -> tuple[float, dict[str, Array], float]:
            start = perf_counter()
            return start, self._session.run({"pixel_values": part}, outputs), perf_counter()

        parts = [part for part in np.array_split(pixels, self._threads) if len(part)]
        runs = [self._pool.submit(run, part) for part in parts]

        def outcome() -> tuple[dict[str, Array], float]:
            starts, found, ends = zip(*(one.result() for one in runs), strict=True)
            return {name: np.concatenate([one[name] for one in found]) for name in outputs}, max(ends) - min(starts)

        return outcome

    def close(self) -> None:
        """Lets what has begun end, and begins nothing more. In a forked child there is nothing to end."""
        if os.getpid() == self._process:
            self._pool.shutdown()
