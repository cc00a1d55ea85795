"""A result as plain values, one form for JSON, for tables and for servers; and as what a terminal shows of it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, TypedDict

from ..result import Result
from .printable import printable


def told(result: Result) -> str:
    """The best class with its score, or that the picture shows none, with the probability of that."""
    if result.refused:
        return f"none of these  {result.unknown:.3f}"
    return f"{printable(result.label or '')}  {result.score:.3f}"


class Row(TypedDict):
    """A result as JSON can say it; the same keys for every picture.

    Attributes:
        unknown: Probability that the picture shows none of the classes; None where that was not asked.
        candidates: Each has `label`, `similarity`, `rank_score`, and `entry` with `modality` and `source`.
        retrieved: The candidates' labels in the order of their similarity.
        regions: Each has `label`, `box`, `description` and `score`.
        milliseconds: Of each stage; `Result.timings`.
        provider: What ran the encoder.
        error: Why there is no answer, or None. Where there is an error, `label` and the other values are None or empty.
    """

    label: str | None
    score: float | None
    probability: float | None
    unknown: float | None
    candidates: list[dict[str, Any]]
    retrieved: list[str]
    ranked_by: str | None
    skipped: str | None
    fallback: bool
    truncated: bool
    regions: list[dict[str, Any]]
    milliseconds: dict[str, float]
    provider: str
    error: str | None


def to_row(result: Result, provider: str) -> Row:
    """A result's fields and its error, and what ran the encoder."""
    return {
        "label": result.label,
        "score": result.score,
        "probability": result.probability,
        "unknown": result.unknown,
        "candidates": [asdict(candidate) for candidate in result.candidates],
        "retrieved": [candidate.label for candidate in result.retrieved],
        "ranked_by": result.ranked_by,
        "skipped": result.skipped,
        "fallback": result.fallback,
        "truncated": result.truncated,
        "regions": [asdict(region) for region in result.regions],
        "milliseconds": result.timings,
        "provider": provider,
        "error": None if result.error is None else str(result.error),
    }


def record(result: Result, provider: str) -> dict[str, object]:
    """What a line of JSON says of a result: its row without `error`, or only its error."""
    row: dict[str, object] = {**to_row(result, provider)}
    error = row.pop("error")
    return row if error is None else {"error": error}
