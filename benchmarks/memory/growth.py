"""Two processes search a memory while a third changes and compacts it; every answer is judged.

The changes are a fixed sequence. So a reader that knows how many were completed before its search, and how many had
started before its answer, knows which answers are right.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from tempfile import NamedTemporaryFile
from time import perf_counter, sleep
from typing import Any

import numpy as np
import numpy.typing as npt

from rar.runtime.memory import Memory

from ..process import in_a_process

Floats = npt.NDArray[np.float32]

# Changes begun and changes completed, by the writer.
_PLACE = struct.Struct("qq")
_COMPACT_EVERY = 40
_ALIVE = 60


class History:
    """The sequence of changes, and the name of each grown class after each change; None if the class does not exist."""

    def __init__(self) -> None:
        self._names: list[list[tuple[int, str | None]]] = []
        self._changes: list[tuple[str, int]] = []
        self._alive: list[int] = []

    def change(self, number: int) -> tuple[str, int]:
        """The change of that number, from 1: `add`, `remove` or `rename`, and its grown class."""
        while len(self._changes) < number:
            self._make(len(self._changes) + 1)
        return self._changes[number - 1]

    def grown(self, number: int) -> int:
        """How many classes have been added after so many changes."""
        self.change(max(1, number))
        return sum(names[0][0] <= number for names in self._names)

    def name(self, grown: int, number: int) -> str | None:
        """A grown class's name after that number of changes."""
        self.change(max(1, number))
        called = [name for at, name in self._names[grown] if at <= number]
        return called[-1] if called else None

    def _make(self, number: int) -> None:
        kind = "rename" if number % 8 == 7 else "remove" if len(self._alive) > _ALIVE else "add"
        if kind == "add":
            grown = len(self._names)
            self._names.append([(number, f"grown {grown}")])
            self._alive.append(grown)
        elif kind == "remove":
            grown = self._alive.pop(number % len(self._alive))
            self._names[grown].append((number, None))
        else:
            grown = self._alive[-1]
            self._names[grown].append((number, f"renamed {grown} by {number}"))
        self._changes.append((kind, grown))


def vector_of(grown: int, dim: int) -> Floats:
    """float32 [1, d], unit: the one vector of a grown class; in many dimensions far from all others."""
    raw = np.random.default_rng([7, grown]).normal(size=(1, dim))
    return np.asarray(raw / np.linalg.norm(raw), np.float32)


def search_while_growing(root: Path, seconds: float, readers: int = 2) -> dict[str, Any]:
    """Changes a memory for some time, while other processes search it.

    Args:
        root: The bundle; its memory is grown by some classes.
        seconds: How long.
        readers: Processes that search.

    Returns:
        `changes` and `compactions` that were made; `searches`; `wrong`, answers that were right at no time of the
        search; `lost`, classes that were there all the time and not found; `slowest_ms` of the searches; and `example`,
        one of the wrong ones.
    """
    with NamedTemporaryFile() as file, ExitStack() as stack:
        file.write(_PLACE.pack(0, 0))
        file.flush()
        opener = partial(_open_reader, root, file.name)
        ask = [stack.enter_context(in_a_process(partial(opener, seed))) for seed in range(readers)]
        pool = stack.enter_context(ThreadPoolExecutor(readers))
        for one in ask:
            one(0.0)  # opens
        answers = [pool.submit(one, seconds) for one in ask]
        changes, compactions = _write(root, file.name, seconds)
        results: list[dict[str, Any]] = [answer.result() for answer in answers]
    return {
        "changes": changes,
        "compactions": compactions,
        **{key: sum(one[key] for one in results) for key in ("searches", "wrong", "lost")},
        "slowest_ms": max(one["slowest_ms"] for one in results),
        "example": next((one["example"] for one in results if one["example"]), None),
    }


def _write(root: Path, place: str, seconds: float) -> tuple[int, int]:
    history, memory, compactions, number = History(), Memory.open(root), 0, 0
    end = perf_counter() + seconds
    with _place(place) as shared:
        while perf_counter() < end:
            number += 1
            kind, grown = history.change(number)
            shared[:] = _PLACE.pack(number, number - 1)
            if kind == "add":
                memory.add(vector_of(grown, memory.dim), [f"grown {grown}"], sources=[f"source {grown}"])
            elif kind == "remove":
                memory.remove(history.name(grown, number - 1) or "")
            else:
                memory.relabel(history.name(grown, number - 1) or "", history.name(grown, number) or "")
            shared[:] = _PLACE.pack(number, number)
            if number % _COMPACT_EVERY == 0:
                memory.compact()
                compactions += 1
    memory.close()
    return number, compactions


def _open_reader(root: Path, place: str, seed: int) -> Callable[[float], dict[str, Any]]:
    memory, history, chance = Memory.open(root), History(), np.random.default_rng(seed)

    def read(seconds: float) -> dict[str, Any]:
        told: dict[str, Any] = {"searches": 0, "wrong": 0, "lost": 0, "slowest_ms": 0.0, "example": None}
        end = perf_counter() + seconds
        with _place(place) as shared:
            while perf_counter() < end:
                completed = _PLACE.unpack(shared[:])[1]
                count = history.grown(completed)
                if not count:
                    sleep(0.001)
                    continue
                # The latest ones most often: they are the ones that a search may miss.
                grown = max(0, count - 1 - int(chance.exponential(20)))
                began = perf_counter()
                best = memory.search(vector_of(grown, memory.dim), 1)[0][0]
                told["slowest_ms"] = max(told["slowest_ms"], 1e3 * (perf_counter() - began))
                begun = _PLACE.unpack(shared[:])[0]
                names = {history.name(grown, number) for number in range(completed, begun + 1)}
                told["searches"] += 1
                itself = best.similarity > 0.99 and best.entry is not None and best.entry.source == f"source {grown}"
                right = best.label in names if itself else None in names
                if not right:
                    told["wrong" if itself else "lost"] += 1
                    told["example"] = f"class {grown}, changes {completed} to {begun}: {best}, not {names}"
        return told

    return read


@contextmanager
def _place(file: str) -> Iterator[mmap.mmap]:
    with open(file, "r+b") as opened, mmap.mmap(opened.fileno(), _PLACE.size) as shared:
        yield shared
