"""The papers' own figures (`published.json`, with table and protocol), to be printed beside what was measured."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Literal, TypeAlias

Metric: TypeAlias = Literal["top1", "top5", "cacc", "sacc"]
# A count of pictures a class in the memory, 0 for names and descriptions alone, or all that there are.
Shots: TypeAlias = "int | Literal['all']"


@dataclass(frozen=True)
class Figure:
    """One cell of a paper's table.

    Attributes:
        source: The paper.
        table: Its number there.
        protocol: What the paper did.
        dataset: One of `datasets.NAMES`, or a set that has no loader here.
        shots: Pictures a class in the memory.
        metric: What was measured.
        method: The row's name.
        value: In percent.
        retrieval: Whether nothing ranked: such a figure stands beside the retrieval's, the others beside a ranker's.
    """

    source: str
    table: str
    protocol: str
    dataset: str
    shots: Shots
    metric: Metric
    method: str
    value: float
    retrieval: bool


@cache
def figures() -> tuple[Figure, ...]:
    """All of them."""
    content = json.loads((resources.files(__package__) / "published.json").read_text(encoding="utf-8"))
    return tuple(
        Figure(
            table["source"], table["table"], table["protocol"], dataset, table["shots"], table["metric"], method, value,
            method in table["retrieval"],
        )
        for table in content["tables"]
        for method, values in table["methods"].items()
        for dataset, value in zip(table["datasets"], values, strict=True)
        if value is not None
    )  # fmt: skip


def beside(
    dataset: str, shots: Shots, retrieval: Mapping[str, float], ranked: Mapping[str, float]
) -> list[dict[str, Any]]:
    """The published figures of a set and a memory, each with what was measured and the difference.

    Args:
        dataset: One of `datasets.NAMES`.
        shots: Pictures a class in the memory.
        retrieval: Metric -> percent, where nothing ranked.
        ranked: The same of the ranker.

    Returns:
        A row a figure; `measured` and `difference` (measured less published, in points) are None where nothing was.
    """
    rows = []
    for figure in figures():
        if (figure.dataset, figure.shots) == (dataset, shots):
            measured = (retrieval if figure.retrieval else ranked).get(figure.metric)
            difference = None if measured is None else measured - figure.value
            rows.append(vars(figure) | {"measured": measured, "difference": difference})
    return rows
