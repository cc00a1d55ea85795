"""`rar-bench cold`: scoring of a query's candidates whose vectors are on the disk, against reading row after row."""

from __future__ import annotations

import argparse
import mmap
import os
import resource
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from rar.runtime import _native
from rar.runtime.errors import InputError
from rar.runtime.memory.files import NpyWriter

from . import record

_DIM = 768
_ROWS = 50  # that a search scores again, by default
_BATCH = 10_000
Score = Callable[[npt.NDArray[Any], npt.NDArray[np.int64]], object]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    parser.add_argument("--entries", type=int, default=200_000, help="vectors in the file (default: %(default)s)")
    parser.add_argument("--searches", type=int, default=200, help="default: %(default)s")
    parser.add_argument("--work", metavar="DIR", help="where the file is made for the time; on a disk")
    parser.add_argument("--out", metavar="FILE", help="result file (.json)")


def run(args: argparse.Namespace) -> int:
    """Runs, prints and writes."""
    if not 1000 <= args.entries <= 10**8 or not 1 <= args.searches <= 10**5:
        raise InputError(f"--entries {args.entries} --searches {args.searches}; give 1000 to 10^8, and up to 10^5")
    with tempfile.TemporaryDirectory(prefix="rar-cold-", dir=args.work) as folder:
        result = measure(Path(folder) / "vectors.npy", args.entries, args.searches)
    for name in ("cold_ms", "warm_us"):
        for way, one in result[name].items():
            print(f"{name:<8} {way:<15} p50 {one['p50']:.3g}, p99 {one['p99']:.3g}")
    print(f"cold     {result['ratio']['p50']:.1f} times better at p50, {result['ratio']['p99']:.1f} at p99")
    record.write({"environment": record.environment(1), "load": record.load(), **result}, args.out)
    return 0


def measure(path: Path, entries: int, searches: int) -> dict[str, Any]:
    """The milliseconds of cold scoring and the microseconds of warm one, of both ways in turn.

    Raises:
        InputError: The file system keeps files in memory.
    """
    chance = np.random.default_rng(0)
    with NpyWriter(path, np.float16, (_DIM,)) as writer:
        for at in range(0, entries, _BATCH):
            writer.append(chance.standard_normal((min(_BATCH, entries - at), _DIM), np.float32))
    query = chance.standard_normal((1, _DIM), np.float32)
    asked = [chance.integers(0, entries, (1, _ROWS)) for _ in range(searches)]
    ways: dict[str, Score] = {
        "row after row": lambda vectors, ids: vectors[ids[0]] @ query[0],
        "ours": lambda vectors, ids: _native.score(vectors, query, ids, 1),
    }
    mapped = np.load(path, mmap_mode="r")
    vectors = np.asarray(mapped)
    cold: dict[str, list[float]] = {name: [] for name in ways}
    warm: dict[str, list[float]] = {name: [] for name in ways}
    waited = dict.fromkeys(ways, 0)
    with path.open("rb") as file:
        os.fsync(file.fileno())  # what is not on the disk yet cannot be dropped
        for ids in tqdm(asked, desc="searches", disable=None):
            for name, score in ways.items():
                mapped._mmap.madvise(mmap.MADV_DONTNEED)  # what is mapped is not dropped
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                before = resource.getrusage(resource.RUSAGE_SELF).ru_majflt
                cold[name].append(1e3 * _seconds(score, vectors, ids))
                waited[name] += resource.getrusage(resource.RUSAGE_SELF).ru_majflt - before
                warm[name].append(1e6 * _seconds(score, vectors, ids))
    if waited["row after row"] < searches:
        raise InputError(f"{path.parent}: its files stay in memory; name a folder on a disk with --work")
    told = {name: {way: _percentiles(values) for way, values in one.items()} for name, one in
            (("cold_ms", cold), ("warm_us", warm))}  # fmt: skip
    slow, fast = told["cold_ms"]["row after row"], told["cold_ms"]["ours"]
    return {
        "entries": entries,
        "searches": searches,
        "rows": _ROWS,
        **told,
        "ratio": {name: slow[name] / fast[name] for name in slow},
        "pages_waited_for": {name: count / searches for name, count in waited.items()},
    }


def _seconds(score: Score, vectors: npt.NDArray[Any], ids: npt.NDArray[np.int64]) -> float:
    start = perf_counter()
    score(vectors, ids)
    return perf_counter() - start


def _percentiles(values: list[float]) -> dict[str, float]:
    p50, p99 = np.percentile(values, [50, 99]).tolist()
    return {"p50": p50, "p99": p99}
