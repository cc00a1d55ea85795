"""The turns of `rar-bench latency`: each block opens every stack once, alone, and runs all of its scenarios."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from rar.runtime.errors import RarError

from ..process import in_a_process, variables
from .server import Served, highest_rate
from .work import Contender, First, Offline, Queried, Queries, Serve, Started, WarmUp, open_worker

Scenario: TypeAlias = Literal["single stream", "multi stream", "offline", "server"]
SCENARIOS: tuple[Scenario, ...] = get_args(Scenario)
# Other stacks run only these.
PEER_SCENARIOS: tuple[Scenario, ...] = ("single stream", "offline")

QUERY = 8  # pictures per query of the multi stream
BOUND_TIMES = 5.0  # the server's bound in units of the single stream's p90
_RATES = 5  # that the server tries a block
_REQUESTS = 200  # a rate; p99 needs as many


@dataclass(frozen=True)
class Plan:
    """The plan that every stack runs.

    Attributes:
        pictures: The queries, the same for all stacks.
        scenarios: The scenarios to measure.
        blocks: Fresh processes of each stack.
        seconds: Time for each scenario and stack, over all blocks.
        least: The least number of single-stream queries per stack, over all blocks.
        bound_ms: The server's bound on p99; None for `BOUND_TIMES` the p90 of the single stream in the first block.
    """

    pictures: Sequence[Path]
    scenarios: Sequence[Scenario]
    blocks: int
    seconds: float
    least: int
    bound_ms: float | None = None

    def of(self, stack: str) -> list[Scenario]:
        """The scenarios of a stack."""
        return [scenario for scenario in self.scenarios if stack == "rar" or scenario in PEER_SCENARIOS]

    def turn(self, block: int) -> list[Path]:
        """The pictures in a block's own order."""
        start = block * len(self.pictures) // self.blocks
        return [*self.pictures[start:], *self.pictures[:start]]


@dataclass
class Samples:
    """The measurements of a contender, one entry per block.

    Attributes:
        cold: Seconds from nothing to the first answer.
        started: See `Started`.
        queries: The samples of the single and the multi stream.
        offline: Pictures and seconds at `batch`.
        tried: Pictures and seconds by batch size, in the first block.
        batch: The fastest batch size.
        served: The highest rate that held the bound, and all runs.
        bound: The bound in seconds.
        error: Why it stopped, or None.
    """

    cold: list[float] = field(default_factory=list)
    started: list[Started] = field(default_factory=list)
    queries: dict[Scenario, list[Queried]] = field(default_factory=dict)
    offline: list[tuple[int, float]] = field(default_factory=list)
    tried: dict[int, tuple[int, float]] = field(default_factory=dict)
    batch: int = 1
    served: list[tuple[float, list[Served]]] = field(default_factory=list)
    bound: float = 0.0
    error: str | None = None

    def done(self, scenario: Scenario) -> int:
        """Blocks that finished a scenario."""
        if scenario == "offline":
            return len(self.offline)
        return len(self.served) if scenario == "server" else len(self.queries.get(scenario, ()))


def take_turn(
    contender: Contender,
    samples: Samples,
    plan: Plan,
    block: int,
    measured: Callable[[], AbstractContextManager[Any]],
    done: Callable[[], None],
) -> None:
    """Opens a contender and runs its scenarios.

    Args:
        contender: The stack.
        samples: Measurements, and a peer's error, are added to them.
        plan: What to measure.
        block: Number of the block.
        measured: Makes a context in which power is measured, for the offline scenario.
        done: Called after each scenario.

    Raises:
        RarError: This runtime failed; a peer's failure is only recorded.
    """
    ours = contender.stack == "rar"
    pictures = plan.turn(block)
    start = perf_counter()
    try:
        # Threads of NumPy's linear algebra wait busily after a search, on the cores that embed the next picture.
        with variables(OPENBLAS_NUM_THREADS="1"), in_a_process(partial(open_worker, contender)) as ask:
            ask(First(pictures[0]))
            samples.cold.append(perf_counter() - start)
            samples.started.append(ask(WarmUp(pictures[1:] or pictures)))
            done()
            for scenario in plan.of(contender.stack):
                _measure(scenario, ask, samples, plan, block, measured)
                done()
    except RarError as error:
        if ours:
            raise
        samples.error = str(error)
        done()


def _measure(
    scenario: Scenario,
    ask: Callable[[Any], Any],
    samples: Samples,
    plan: Plan,
    block: int,
    measured: Callable[[], AbstractContextManager[Any]],
) -> None:
    pictures, seconds = plan.turn(block), plan.seconds / plan.blocks
    if scenario == "offline":
        with measured():
            samples.offline.append(_offline(ask, samples, pictures, seconds))
    elif scenario == "server":
        samples.bound = samples.bound or _bound(samples, plan)
        samples.served.append(_serve(ask, samples, pictures, seconds, block))
    else:
        least = -(-plan.least // plan.blocks)
        size = 1 if scenario == "single stream" else QUERY
        answered = ask(Queries(pictures, size, seconds, least if size == 1 else 1))
        samples.queries.setdefault(scenario, []).append(answered)


def _offline(
    ask: Callable[[Any], Any], samples: Samples, pictures: Sequence[Path], seconds: float
) -> tuple[int, float]:
    sizes = samples.started[-1].batches
    alone = samples.queries.get("single stream")
    if sizes == (1,) and alone:  # one at a time it has answered already
        return len(alone[-1].seconds), sum(alone[-1].seconds)
    if not samples.tried:
        samples.tried = ask(Offline(pictures, seconds / len(sizes), sizes))
        samples.batch = max(samples.tried, key=lambda size: samples.tried[size][0] / samples.tried[size][1])
    answered: tuple[int, float] = ask(Offline(pictures, seconds, (samples.batch,)))[samples.batch]
    return answered


def _bound(samples: Samples, plan: Plan) -> float:
    if plan.bound_ms is not None:
        return plan.bound_ms / 1e3
    return BOUND_TIMES * float(np.percentile(samples.queries["single stream"][0].seconds, 90))


def _serve(
    ask: Callable[[Any], Any], samples: Samples, pictures: Sequence[Path], seconds: float, block: int
) -> tuple[float, list[Served]]:
    done, taken = samples.offline[-1]

    def try_rate(rate: float) -> Served:
        requests = max(_REQUESTS, round(rate * seconds / _RATES))
        served: Served = ask(Serve(pictures, rate, requests, samples.batch, samples.bound, seed=block))
        return served

    return highest_rate(try_rate, done / taken, samples.bound, _RATES)
