"""The ways to answer a data set that are compared; each is measured while all of it works, in a process of its own."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from time import monotonic, process_time
from typing import Protocol

from rar.runtime import Recognizer
from rar.runtime.errors import RarError

from ..process import in_a_process
from .processes import Family, Used

# Rows of a block: small beside what is measured, large enough that Ray's own cost is what it is in a job.
BLOCK = 64
_STORE = 256 << 20


@dataclass(frozen=True)
class Measured:
    """What was answered while all workers were at work.

    Attributes:
        pictures: How many.
        seconds: In which time.
        used: CPU time of all processes meanwhile.
    """

    pictures: int
    seconds: float
    used: Used

    @property
    def rate(self) -> float:
        """Pictures a second."""
        return self.pictures / self.seconds

    @property
    def cpu_ms(self) -> float:
        """CPU time a picture."""
        return 1e3 * self.used.all / self.pictures

    @property
    def own_ms(self) -> float:
        """CPU time a picture of what does not recognise."""
        return 1e3 * self.used.own / self.pictures


class Engine(Protocol):
    """A way to answer a data set."""

    def measure(self, bundle: str, pictures: Sequence[str]) -> Measured:
        """Answers the pictures, and measures while all workers are at work."""
        ...


@dataclass(frozen=True)
class Stream:
    """`Recognizer.stream` in so many plain processes, each with its share of the pictures and nothing between them."""

    processes: int
    threads: int

    def measure(self, bundle: str, pictures: Sequence[str]) -> Measured:
        """See `Engine`."""
        opener = partial(_open, bundle, self.threads)
        with ExitStack() as stack, ThreadPoolExecutor(self.processes) as pool:
            asks = [stack.enter_context(in_a_process(opener)) for _ in range(self.processes)]
            shares = [list(pictures[i :: self.processes]) for i in range(self.processes)]
            # First a block that is not counted; then all at once.
            list(pool.map(_call, asks, [share[:BLOCK] for share in shares]))
            begin = monotonic()
            cpu = sum(pool.map(_call, asks, shares))
            return Measured(len(pictures), monotonic() - begin, Used(cpu, cpu))


@dataclass(frozen=True)
class RayData:
    """`Recognise` over Ray Data, on nodes of this machine that have the actors' CPUs and no more."""

    actors: int
    threads: int
    nodes: int = 1

    def measure(self, bundle: str, pictures: Sequence[str]) -> Measured:
        """See `Engine`."""
        opener = partial(_open_ray, self, bundle)
        with in_a_process(opener) as ask:
            measured: Measured = ask(list(pictures))
        return measured


def _call(ask: Callable[[list[str]], float], pictures: list[str]) -> float:
    return ask(pictures)


def _open(bundle: str, threads: int) -> Callable[[list[str]], float]:
    """A recognizer; it answers pictures with the CPU time that they took."""
    recognizer = Recognizer.open(bundle, threads=threads)

    def answer(pictures: list[str]) -> float:
        before = process_time()
        with recognizer.stream(pictures) as results:
            deque(results, maxlen=0)
        return process_time() - before

    return answer


def _open_ray(engine: RayData, bundle: str) -> Callable[[list[str]], Measured]:
    import pyarrow as pa
    import ray
    import ray.data
    from ray.cluster_utils import Cluster

    from rar.serving.ray.cluster import quiet

    from .worker import WORKER, Worker

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    node = {"num_cpus": engine.actors * engine.threads // engine.nodes, "object_store_memory": _STORE}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    for _ in range(engine.nodes - 1):
        cluster.add_node(**node)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="warning")
    quiet()

    def measure(pictures: list[str]) -> Measured:
        tables = [pa.table({"path": pictures[at : at + BLOCK]}) for at in range(0, len(pictures), BLOCK)]
        rows = ray.data.from_arrow(tables).map_batches(
            Worker,
            fn_constructor_kwargs={"bundle": bundle},
            batch_format="pyarrow",
            batch_size=None,
            num_cpus=engine.threads,
            compute=ray.data.ActorPoolStrategy(size=engine.actors),
        )
        family = Family()
        marks: list[tuple[int, float, Used]] = []
        seen: set[str] = set()
        first = 0
        for block in rows.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            count = len(block) + (marks[-1][0] if marks else 0)
            marks.append((count, monotonic(), family.used()))
            seen.update(block[WORKER].to_pylist())
            if len(seen) == engine.actors and not first:
                first = len(marks)
        ray.shutdown()
        cluster.shutdown()
        if not first:
            raise RarError(f"{len(seen)} of {engine.actors} workers answered all pictures; give more --count")
        # At the end an actor may have nothing to do.
        return _between(marks, first - 1, len(marks) - engine.actors)

    return measure


def _between(marks: Sequence[tuple[int, float, Used]], first: int, last: int) -> Measured:
    """What was measured from one mark to another.

    Raises:
        RarError: There is nothing between them.
    """
    if last <= first:
        raise RarError(f"{marks[-1][0] if marks else 0} pictures are too few for all workers; give more --count")
    (earlier, begin, before), (count, end, after) = marks[first], marks[last]
    return Measured(count - earlier, end - begin, after - before)
