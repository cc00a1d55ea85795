"""Parts of a batch side by side, a thread each, where that is faster than one run by all threads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from ..session import Session
from ..session.protocol import Array

# Waits for what was begun, and gives its outputs by name.
Begun: TypeAlias = Callable[[], dict[str, Array]]


class SideBySide:
    """Runs a graph on parts of a batch, each by one thread.

    Threads that share a run wait for each other after each operator, and where one of them decodes a picture meanwhile,
    all others wait for it. Threads with runs of their own do not. What is begun while they are busy follows at once.

    Args:
        session: The graph, opened for one thread.
        threads: How many parts run at once.
    """

    def __init__(self, session: Session, threads: int) -> None:
        self.threads = threads
        self._session = session
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="rar-embed")

    def begin(self, pixels: npt.NDArray[np.float32], outputs: Sequence[str]) -> Begun:
        """Begins to run float32 [N, 3, S, S].

        Args:
            pixels: The batch.
            outputs: Names of the outputs to fetch.

        Returns:
            Gives the outputs, and raises what `Session.run` raised.

        Raises:
            RuntimeError: It is closed.
        """
        parts = [part for part in np.array_split(pixels, self.threads) if len(part)]
        runs = [self._pool.submit(self._session.run, {"pixel_values": part}, outputs) for part in parts]

        def outcome() -> dict[str, Array]:
            found = [run.result() for run in runs]
            return {name: np.concatenate([one[name] for one in found]) for name in outputs}

        return outcome

    def close(self) -> None:
        """Lets what has begun end, and begins nothing more."""
        self._pool.shutdown(cancel_futures=True)
