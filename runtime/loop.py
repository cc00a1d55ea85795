"""The loop over a batch: embed, search, rank those that need it while there is time, make the results."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Literal, TypeAlias, TypedDict, get_args

import numpy as np
import numpy.typing as npt

from .batch import Batch, timed
from .encoder.clip import Clip
from .errors import ImageError, InputError, RarError
from .memory import Retrieval
from .memory.strangers import POOL, Strangers, traits_of_nearest
from .picture.boxes import Blur, Growth
from .rank.evidence import WIDER, draw
from .rank.gate import sureness
from .rank.protocol import Floats, Query, Rank, Ranker, Ranking
from .rank.tuning import Fused, GateBy
from .result import Result, Skipped, of_ranking, of_retrieval, with_unknown
from .stages import in_stage

_NO_CLASS = InputError("no class is left that the picture could show; add some to the memory, or ask for others")
_NOT_FINITE = ImageError("the encoder's embedding of the picture is not finite; leave it out, or use another precision")

# Pictures ranked at once under a deadline: between two such chunks the clock is looked at.
_CHUNK = 4


Gate: TypeAlias = Literal["off", "unsure"]
GATES: tuple[Gate, ...] = get_args(Gate)
Unknown: TypeAlias = Literal["answer", "reject"]
UNKNOWN: tuple[Unknown, ...] = get_args(Unknown)


class Asked(TypedDict, total=False):
    """What can be asked of a call, by keyword; all may be left out.

    Attributes:
        k: Candidates a picture, or a box. None, the default, is 5, or all classes where the filter leaves fewer.
        rank: `none` keeps the retrieval's order, `discriminant` ranks by the memory's own discriminant, `wca` by crops
            and descriptions, `grain` by a GRAIN encoder's regions and descriptions, `mllm` by the bundle's multimodal
            LLM; None, the default, takes the bundle's own. Where the discriminant gains it takes part in all of these
            but `none`: in the choice of the candidates, and in the answer where the ranker does not run.
        gate: `unsure` ranks only pictures whose best class is less sure than the margin that `rar-export tune` fitted;
            `off`, the default, ranks all.
        deadline_ms: Milliseconds from when a batch is picked up. Pictures whose ranking would come later, going by how
            long it has taken so far, keep the order that there is without it; the least sure are ranked first.
        labels: The only classes that are looked for; None, the default, for all.
        tags: Only classes that have one of these are looked for; None, the default, for all.
        unknown: `reject` refuses pictures that show none of the classes looked for, going by the memory's pictures: the
            result's `unknown` is the probability of that, and its label is None where it is as high as few pictures of
            these classes have it (5 %, or what `rar-export tune` was told). `answer`, the default, names them all.
    """

    k: int | None
    rank: Rank | None
    gate: Gate
    deadline_ms: float | None
    labels: Collection[str] | None
    tags: Collection[str] | None
    unknown: Unknown


class RegionsAsked(Asked, total=False):
    """What can be asked besides where a detector's boxes are recognised.

    Attributes:
        fusion: The exponent of the detector's score. The paper gives no formula; the default, 0.5, is the geometric
            mean, as Detic's.
        grow: Factor on the box's sides, or (limit, factor) pairs for objects of different size; see
            `Preprocess.regions`. The paper gives no values. The default is the bare box: on scenes of groceries with
            the starter's encoder no scale gained more than chance would give, nor did blur at any (docs/detection.md).
            `rar-bench detection --sweep` measures what your encoder makes of yours.
        blur: A `Blur`, or its radius as a share of the box's longer side; None, the default, leaves all sharp.
        square: Grows the shorter side up to the longer one; False is the default.
    """

    fusion: float
    grow: Growth
    blur: Blur | float | None
    square: bool


@dataclass(frozen=True)
class Within:
    """The classes that a search may find; None for all."""

    labels: Collection[str] | None = None
    tags: Collection[str] | None = None


@dataclass(frozen=True)
class Plan:
    """How the pictures of one call are answered.

    Attributes:
        k: Candidates a picture.
        within: The classes that may be found.
        rank: The ranker that was asked for.
        ranker: It; None where none runs.
        fused: How its scores are added up with the similarity and the discriminant's evidence.
        first: How evidence and similarity are added up before the ranker; None where the discriminant takes no part.
        retrieval: The similarity times this is a log-probability; None if unknown.
        margin: The ranker runs where the order is less sure; infinite for all pictures.
        gate_by: What kind of margin that is.
        deadline: Seconds, or infinite.
        drawn: Whether the ranker sees a region as a picture.
        useless: Whether no ranker runs because the one asked for gains nothing.
        strangers: How pictures of none of the classes are told; None where all are answered.
    """

    k: int
    within: Within
    rank: Rank
    ranker: Ranker | None
    fused: Fused
    first: Fused | None
    retrieval: float | None
    margin: float
    gate_by: GateBy
    deadline: float
    drawn: bool = False
    useless: bool = False
    strangers: Strangers | None = None


class Answer:
    """Answers batches by one encoder and one memory.

    Attributes:
        clip: The encoder.
        memory: Where candidates come from.
        pace: Seconds a picture's ranking takes, by ranker and k.
    """

    def __init__(self, clip: Clip, memory: Retrieval) -> None:
        self.clip = clip
        self.memory = memory
        self.pace: dict[tuple[Rank, int], float] = {}

    def __call__(self, batch: Batch, plan: Plan) -> Iterator[Result]:
        """One result a picture of the batch, in order; a broken one's is its error."""
        found = self.retrieve(batch, plan.k, plan.within, evidence=plan.first is not None)
        queries = [query for query in found if isinstance(query, Query)]
        chances = iter(self._unknown(queries, plan, batch.timings))
        shared = {name: 1e3 * seconds / len(queries) for name, seconds in batch.timings.items() if queries}
        with in_stage("gate"):
            fused = plan.first.weights if plan.first is not None and plan.gate_by == "fused" else None
            margins = sureness(queries, fused)
        unsure = [i for i, margin in enumerate(margins) if margin < np.float32(plan.margin) or plan.margin == math.inf]
        rankings: dict[int, Ranking] = {}
        if plan.ranker is not None and unsure:
            start = perf_counter()
            with in_stage("rank"):
                rankings = self._rank(queries, margins, unsure, plan.ranker, plan, batch.start + plan.deadline)
            own = {"rank": 1e3 * (perf_counter() - start) / max(1, len(rankings))}
        answers = (
            of_ranking(query, rankings[i], plan.rank, plan.fused, shared | own)
            if i in rankings
            else _unranked(query, plan, _skipped(plan, i in unsure), dict(shared))
            for i, query in enumerate(queries)
        )
        for i, one in enumerate(found):
            result = self._judged(next(answers), next(chances), plan) if isinstance(one, Query) else Result(error=one)
            yield replace(result, truncated=True) if batch.truncated and batch.truncated[i] else result

    def _unknown(self, queries: Sequence[Query], plan: Plan, timings: dict[str, float]) -> list[float]:
        """The probability that each picture shows none of the classes; NaN where the memory's pictures do not tell."""
        discriminant = self.memory.discriminant  # None where all pictures were removed meanwhile
        if plan.strangers is None or discriminant is None or not queries:
            return [math.nan] * len(queries)
        with timed(timings, "unknown"):
            embeddings = np.array([query.embedding for query in queries], np.float32)
            nearest = self.memory.search_pictures(embeddings, POOL, labels=plan.within.labels, tags=plan.within.tags)
            chances = plan.strangers.chances(traits_of_nearest(discriminant, embeddings, nearest))
        return [float(chance) for chance in chances]

    def _judged(self, result: Result, chance: float, plan: Plan) -> Result:
        """The result, refused if it must be. A class without pictures cannot be told from strangers, and stays."""
        discriminant = self.memory.discriminant
        if plan.strangers is None or math.isnan(chance) or discriminant is None or not discriminant.knows(result.label):
            return result
        return with_unknown(result, chance, plan.strangers.limit)

    def retrieve(self, batch: Batch, k: int, within: Within, *, evidence: bool) -> list[Query | RarError]:
        """What a ranker is given: one query a picture, in order, or why there is none.

        Args:
            batch: The pictures.
            k: Candidates of each.
            within: The classes that may be found.
            evidence: Whether the memory's discriminant takes part: in the choice of the candidates, and by what it says
                of them.
        """
        good = batch.good
        if not good:
            return [pixels for pixels in batch.pixels if isinstance(pixels, ImageError)]
        if batch.seeing is None:
            with timed(batch.timings, "embed"):
                seen = self.clip.see(batch.tensor)
        else:
            with in_stage("embed"):  # what is left of it
                seen, batch.timings["embed"] = batch.seeing()
            batch.seeing = None
        sound = np.asarray(np.isfinite(seen.embeddings).all(1))
        with timed(batch.timings, "search"):
            discriminant = self.memory.discriminant if evidence else None
            many = k if discriminant is None else WIDER * k
            searched = np.where(sound[:, None], seen.embeddings, np.float32(0))
            found = self.memory.search(searched, many, labels=within.labels, tags=within.tags, fewer=True)
            told: Sequence[Floats | None] = [None] * len(good)
            if discriminant is not None:
                drawn = draw(discriminant, searched, found, k)
                found, told = [candidates for candidates, _ in drawn], [evidence for _, evidence in drawn]
        nothing = [None] * len(good)
        features = nothing if seen.features is None else seen.features
        regions = nothing if seen.regions is None else seen.regions
        queries = zip(good, seen.embeddings, found, features, regions, told, strict=True)
        answers = iter([Query(*parts) if ok else _NOT_FINITE for ok, parts in zip(sound, queries, strict=True)])
        ordered = [pixels if isinstance(pixels, ImageError) else next(answers) for pixels in batch.pixels]
        return [_NO_CLASS if isinstance(one, Query) and not one.candidates else one for one in ordered]

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
            rankings.update(zip(chunk, _usable(ranker, [queries[i] for i in chunk]), strict=True))
            pace = max(1e-9, (perf_counter() - start) / len(chunk))
            self.pace[key] = (pace + self.pace.get(key, pace)) / 2
        if not rankings and key in self.pace:
            # One slow call must not keep the ranker out for ever.
            self.pace[key] *= 0.9
        return rankings


def _unranked(query: Query, plan: Plan, skipped: Skipped | None, timings: dict[str, float]) -> Result:
    """The result of a picture that the ranker did not see: in the order that is best without it."""
    if query.evidence is None or plan.first is None:
        return of_retrieval(query, skipped, timings, plan.retrieval)
    return of_ranking(query, Ranking(query.evidence), "discriminant", plan.first, timings, skipped)


def _usable(ranker: Ranker, queries: Sequence[Query]) -> list[Ranking]:
    """One ranking a query; the retrieval's order, marked, for a picture that the ranker has no finite scores for.

    Such a picture may spoil those that it is ranked with, where a graph has one quantisation scale for a whole batch.
    So they are ranked again, each alone.
    """
    rankings = ranker.rank(queries)
    if all(np.isfinite(ranking.scores).all() for ranking in rankings):
        return rankings
    if len(queries) == 1:
        return [Ranking.unranked(len(queries[0].candidates))]
    return [_usable(ranker, [query])[0] for query in queries]


def _skipped(plan: Plan, unsure: bool) -> Skipped | None:
    """Why a picture was not ranked."""
    if plan.ranker is None:
        return "gains nothing" if plan.useless else None
    return "deadline" if unsure else "gate"
