"""The result of a picture, and how it is made from a ranking or from a detector's boxes."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

from .detection.confidence import merged, probability
from .detection.frames import OpenFrame
from .errors import RarError
from .memory import Candidate
from .picture.boxes import Edges
from .rank.protocol import DescribedRegion, Query, Rank, Ranking
from .rank.tuning import Fused
from .stages import in_stage

Skipped: TypeAlias = Literal["gate", "deadline", "gains nothing"]


@dataclass(frozen=True)
class Result:
    """What was recognised in one picture.

    Attributes:
        label: The best candidate's class; None if the picture could not be read, or was refused as showing none of the
            classes.
        score: The best candidate's final score, or its similarity if no ranker ran.
        candidates: The k candidates in their final order, each with its scores.
        retrieved: The same candidates in the order of their similarity.
        timings: Milliseconds this picture took in each stage; a batch's time is shared equally by the pictures
            that went through the stage.
        error: Why this picture gave no answer, or None.
        ranked_by: The ranker that ordered the candidates; None if they are in the retrieval's order. Where the
            requested one did not run, it is the memory's discriminant, if that gains.
        skipped: Why the requested ranker did not run: `gate`, the order was sure without it; `deadline`, it would have
            finished too late; or `gains nothing`, `rar-export tune` found that it gains nothing here.
        fallback: Whether the ranker could not be asked about this picture, or its answer was unusable, so that the
            order is the retrieval's.
        regions: The picture's regions, each with the candidate that it supports most; the surest first. Only `grain`
            uses regions.
        truncated: Whether the picture's file was cut off, and only what is there of it was seen (`Reading.tolerant`).
        probability: The best candidate's among the candidates, 0 to 1: from the final scores, by the sharpness that
            `rar-export tune` fitted on held-out pictures, or else by that measured on the memory's own.
        sharpness: The final scores times this are log-probabilities, right up to a constant; None for cosines of which
            nothing was measured.
        unknown: The probability that the picture shows none of the classes, as if every second picture did; None where
            it was not asked for.
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
    regions: Sequence[DescribedRegion] = ()
    truncated: bool = False
    probability: float | None = None
    sharpness: float | None = None
    unknown: float | None = None

    @property
    def refused(self) -> bool:
        """Whether the picture is taken to show none of the classes; its candidates are there all the same."""
        return self.label is None and len(self.candidates) > 0


def of_retrieval(
    query: Query, skipped: Skipped | None, timings: dict[str, float], sharpness: float | None = None
) -> Result:
    """The result of a picture without a ranking; its similarities times `sharpness` are log-probabilities."""
    best, found = query.candidates[0], query.candidates
    chance = probability(found, sharpness)
    return Result(
        best.label,
        best.similarity,
        found,
        found,
        timings,
        skipped=skipped,
        probability=chance,
        sharpness=sharpness,
    )


def of_ranking(
    query: Query,
    ranking: Ranking,
    rank: Rank,
    fused: Fused,
    timings: dict[str, float],
    skipped: Skipped | None = None,
) -> Result:
    """The result of a ranked picture; `skipped` says why another ranker than `rank` did not run."""
    with in_stage("fuse"):
        final = ranking.order(query.candidates, fused.weights, query.evidence)
    return Result(
        final[0].label,
        final[0].rank_score,
        final,
        query.candidates,
        timings,
        ranked_by=rank,
        skipped=skipped,
        fallback=ranking.fallback,
        regions=ranking.regions,
        probability=probability(final, fused.sharpness),
        sharpness=fused.sharpness,
    )


def with_unknown(result: Result, chance: float, limit: float) -> Result:
    """The result with the probability that its picture shows none of the classes; from the limit on without a label."""
    return replace(result, unknown=chance, label=None if chance >= limit else result.label)


def in_frame(result: Result, around: Edges, size: tuple[int, int]) -> Result:
    """The result of a region with what its ranker saw given in pixels of the whole picture.

    Args:
        result: As the ranker saw the region.
        around: The region in the whole picture.
        size: Height and width of what the ranker was given of it.
    """
    if not result.regions:
        return result
    left, top, right, bottom = around
    height, width = size
    across, down = (right - left) / width, (bottom - top) / height

    def moved(box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
        x0, y0, x1, y1 = box
        return left + across * x0, top + down * y0, left + across * x1, top + down * y1

    return replace(result, regions=[replace(one, box=moved(one.box)) for one in result.regions])


def by_frame(
    batches: Iterator[Sequence[Result]],
    frames: deque[OpenFrame],
    proposal_exponent: float,
) -> Generator[tuple[int, list[Result]], None, None]:
    """Groups the results of single boxes by frame and merges their scores with the detector's.

    Args:
        batches: One result per box. Every frame of a batch, and every one without boxes before its end, is among
            `frames` when the batch comes.
        frames: Taken from the front.
        proposal_exponent: The option `fusion` of `Recognizer.recognize_regions`.

    Yields:
        The place of each frame and its results, in order.
    """
    of_frame: list[Result] = []
    for batch in batches:
        yield from _without_boxes(frames)
        for result in batch:
            frame = frames[0]
            if frame.scores is not None and result.error is None:
                # Cosines count as they always did here: the figures of detection were measured with that.
                share = probability(result.candidates) if result.ranked_by is None else result.probability or 0.0
                result = replace(result, score=merged(frame.scores[len(of_frame)], share, proposal_exponent))
            of_frame.append(result)
            if len(of_frame) == frame.boxes:
                frames.popleft()
                yield frame.place, of_frame
                of_frame = []
                yield from _without_boxes(frames)
    yield from _without_boxes(frames)


def _without_boxes(frames: deque[OpenFrame]) -> Iterator[tuple[int, list[Result]]]:
    while frames and not frames[0].boxes:
        yield frames.popleft().place, []
