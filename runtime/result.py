"""What a caller is told of a picture, and how a ranking, or a detector's boxes, become it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

from .confidence import merged, probability
from .errors import RarError
from .frames import drawn_size
from .memory import Candidate
from .rank import Query, Rank, Ranking, Region
from .regions import Edges
from .stages import stage

Skipped: TypeAlias = Literal["gate", "deadline"]


@dataclass(frozen=True)
class Result:
    """What was recognised in one picture.

    Attributes:
        label: The best candidate's class; None where the picture could not be read.
        score: The best candidate's score: the final one, or the similarity where nothing ranked.
        candidates: The k candidates in their final order, each with its scores.
        retrieved: The same in the retrieval's order.
        timings: Milliseconds this picture took in each stage; a batch's time is shared equally by the pictures
            that went through the stage.
        error: Why this picture gave no answer, or None.
        ranked_by: The ranker that ordered the candidates; None where they stand in the retrieval's order.
        skipped: Why the ranker that was asked for was left out: `gate`, the retrieval was sure, or `deadline`, it
            would have come too late.
        fallback: Whether the ranker's answer could not be used, so that the order is the retrieval's after all.
        regions: Where the ranker saw what, and for which candidate that spoke most; the surest first. Only `grain`
            looks at regions.
    """

    label: str | None = None
    score: float | None = None
    candidates: Sequence[Candidate] = ()
    retrieved: Sequence[Candidate] = ()
    timings: dict[str, float] = field(default_factory=dict)
    error: RarError | None = None
    ranked_by: Rank | None = None
    skipped: Skipped | None = None
    fallback: bool = False
    regions: Sequence[Region] = ()


def of_retrieval(query: Query, skipped: Skipped | None, timings: dict[str, float]) -> Result:
    """The result of a picture that nobody ranked."""
    best = query.candidates[0]
    return Result(best.label, best.similarity, query.candidates, query.candidates, timings, skipped=skipped)


def of_ranking(query: Query, ranking: Ranking, rank: Rank, weight: float, timings: dict[str, float]) -> Result:
    """The result of a picture that was ranked, its similarity counting by `weight` beside the ranker's scores."""
    with stage("fuse"):
        final = ranking.order(query.candidates, weight)
    return Result(
        final[0].label,
        final[0].rank_score,
        final,
        query.candidates,
        timings,
        ranked_by=rank,
        fallback=ranking.fallback,
        regions=ranking.regions,
    )


def in_frame(result: Result, around: Edges) -> Result:
    """The result of a region with what its ranker saw given in pixels of the whole picture."""
    if not result.regions:
        return result
    left, top, right, bottom = around
    width, height = drawn_size(around)
    across, down = (right - left) / width, (bottom - top) / height

    def moved(box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
        x0, y0, x1, y1 = box
        return left + across * x0, top + down * y0, left + across * x1, top + down * y1

    return replace(result, regions=[replace(one, box=moved(one.box)) for one in result.regions])


def by_frame(
    results: Iterator[Result], frames: deque[tuple[int, Sequence[float] | None]], weight: float, fusion: float
) -> Iterator[list[Result]]:
    """Results of one box after the other -> those of each frame, their scores merged with the detector's.

    Args:
        results: One a box.
        frames: How many boxes each has, and the detector's scores of them; taken from the front.
        weight: How much the retrieval's similarity counts beside a ranker's scores (`Tuning.fusion`).
        fusion: See `Recognizer.recognize_regions`.
    """
    own: list[Result] = []
    for result in results:
        while not frames[0][0]:
            frames.popleft()
            yield []
        count, scores = frames[0]
        if scores is not None and result.error is None:
            log_weight = 1 + weight if result.ranked_by == "mllm" else None
            share = probability(result.candidates, log_weight)
            result = replace(result, score=merged(scores[len(own)], share, fusion))
        own.append(result)
        if len(own) == count:
            frames.popleft()
            yield own
            own = []
    yield from ([] for _ in frames)
