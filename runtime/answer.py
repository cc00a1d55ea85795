"""From a batch to its results: embed, search, rank those that need it while there is time."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter

import numpy as np
import numpy.typing as npt

from .batch import Batch, timed
from .clip import Clip
from .errors import ImageError
from .memory import Memory
from .probe import Probe, sureness
from .rank import Query, Rank, Ranker, Ranking
from .result import Result, Skipped, of_ranking, of_retrieval
from .stages import stage

# Pictures ranked at once under a deadline: between two such chunks the clock is looked at.
_CHUNK = 4


@dataclass(frozen=True)
class Within:
    """The classes that a search may find; None for all."""

    labels: Collection[str] | None = None
    tags: Collection[str] | None = None


@dataclass(frozen=True)
class Plan:
    """How the pictures of one call are answered; the margin and the deadline (in seconds) may be infinite.

    The margin is the probe's where there is one, else the similarities'.
    """

    k: int
    within: Within
    rank: Rank
    ranker: Ranker | None
    fusion: float
    margin: float
    probe: Probe | None
    deadline: float


class Answer:
    """Answers batches by one encoder and one memory.

    Attributes:
        clip: The encoder.
        memory: Where candidates come from.
        pace: Seconds a picture's ranking takes, by ranker and k.
    """

    def __init__(self, clip: Clip, memory: Memory) -> None:
        self.clip = clip
        self.memory = memory
        self.pace: dict[tuple[Rank, int], float] = {}

    def __call__(self, batch: Batch, plan: Plan) -> Iterator[Result]:
        """One result a picture of the batch, in order; a broken one's is its error."""
        queries = self.retrieve(batch, plan.k, plan.within)
        shared = {name: 1e3 * seconds / len(queries) for name, seconds in batch.timings.items() if queries}
        with stage("gate"):
            margins = sureness(queries, plan.probe)
        unsure = [i for i, margin in enumerate(margins) if margin < np.float32(plan.margin) or plan.margin == math.inf]
        rankings: dict[int, Ranking] = {}
        if plan.ranker is not None and unsure:
            start = perf_counter()
            with stage("rank"):
                rankings = self._rank(queries, margins, unsure, plan.ranker, plan, batch.start + plan.deadline)
            own = {"rank": 1e3 * (perf_counter() - start) / max(1, len(rankings))}
        answers = (
            of_ranking(query, rankings[i], plan.rank, plan.fusion, shared | own)
            if i in rankings
            else of_retrieval(query, _skipped(plan, i in unsure), dict(shared))
            for i, query in enumerate(queries)
        )
        for pixels in batch.pixels:
            yield Result(error=pixels) if isinstance(pixels, ImageError) else next(answers)

    def retrieve(self, batch: Batch, k: int, within: Within) -> list[Query]:
        """What a ranker is given: one query a picture that is not broken, in order."""
        good = batch.good
        if not good:
            return []
        with timed(batch.timings, "embed"):
            seen = self.clip.see(batch.tensor)
        with timed(batch.timings, "search"):
            found = self.memory.search(seen.embeddings, k, labels=within.labels, tags=within.tags, fewer=True)
        nothing = [None] * len(good)
        features = nothing if seen.features is None else seen.features
        regions = nothing if seen.regions is None else seen.regions
        return [Query(*parts) for parts in zip(good, seen.embeddings, found, features, regions, strict=True)]

    def _rank(
        self,
        queries: Sequence[Query],
        margins: npt.NDArray[np.float32],
        todo: list[int],
        ranker: Ranker,
        plan: Plan,
        until: float,
    ) -> dict[int, Ranking]:
        """Rankings of those of the queries that can be ranked in time, the least sure first."""
        key = (plan.rank, plan.k)
        rankings: dict[int, Ranking] = {}
        timely = until < math.inf
        if timely:
            todo = sorted(todo, key=lambda i: margins[i])
        while len(rankings) < len(todo):
            fit = len(todo)
            start = perf_counter()
            if timely and (left := until - start) <= 0:
                break
            if timely:
                # Before anything is known of the ranker's pace, one picture is tried.
                fit = min(_CHUNK, int(left / self.pace[key])) if key in self.pace else 1
            chunk = todo[len(rankings) :][:fit]
            if not chunk:
                break
            rankings.update(zip(chunk, ranker.rank([queries[i] for i in chunk]), strict=True))
            pace = max(1e-9, (perf_counter() - start) / len(chunk))
            self.pace[key] = (pace + self.pace.get(key, pace)) / 2
        if not rankings and key in self.pace:
            # One slow call must not keep the ranker out for ever.
            self.pace[key] *= 0.9
        return rankings


def _skipped(plan: Plan, unsure: bool) -> Skipped | None:
    """Why a picture was not ranked."""
    if plan.ranker is None:
        return None
    return "deadline" if unsure else "gate"
