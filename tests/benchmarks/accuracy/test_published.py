"""The papers' figures are theirs, and stand beside the right ones."""

from __future__ import annotations

import pytest

from rar.benchmarks.accuracy import datasets
from rar.benchmarks.accuracy.published import beside, figures


@pytest.mark.parametrize(
    ("source", "table", "metric", "shots", "method", "average"),
    [
        ("RAR", "1", "cacc", 3, "FineR", 57.0),
        ("RAR", "1", "sacc", 3, "FineR", 64.3),
        ("RAR", "1", "cacc", 3, "RAR", 58.5),
        ("RAR", "1", "sacc", 3, "RAR", 65.3),
        ("RAR", "2", "top1", 4, "CLIP+KNN", 57.0),
        ("RAR", "2", "top1", 4, "RAR (LLaVA1.5)", 63.2),
        ("RAR", "2", "top1", 8, "CLIP+KNN", 63.0),
        ("RAR", "2", "top1", 8, "RAR (LLaVA1.5)", 69.8),
        ("RAR", "9", "top5", 4, "CLIP+KNN", 80.8),
        ("RAR", "9", "top5", 4, "RAR", 82.1),
        ("RAR", "10", "top1", "all", "GPT-4V", 68.4),
        ("RAR", "10", "top1", "all", "RAR (LLaVA1.5)", 81.0),
        ("RAR", "10", "top1", "all", "RAR (InternLM-XC2)", 79.0),
        ("RAR", "10", "top1", "all", "RAR (Qwen-VL)", 82.6),
    ],
)
def test_cells_give_the_averages_that_the_papers_print(
    source: str, table: str, metric: str, shots: int | str, method: str, average: float
) -> None:
    own = [
        one.value
        for one in figures()
        if one.source.startswith(source)
        and (one.table, one.metric, one.shots, one.method) == (table, metric, shots, method)
    ]
    assert len(own) == (5 if table == "1" else 11)
    assert sum(own) / len(own) == pytest.approx(average, abs=0.06)


def test_every_set_but_places365_can_be_read_here() -> None:
    assert {one.dataset for one in figures()} - {"places365"} <= set(datasets.NAMES)
    assert {one.dataset for one in figures() if one.source.startswith("RAR")} == set(datasets.NAMES)


def test_retrieval_stands_beside_retrieval_and_rankers_beside_rankers() -> None:
    rows = {
        row["method"]: row
        for row in beside("dtd", 4, {"top1": 50.0, "top5": 75.0}, {"top1": 55.0})
        if row["table"] == "2"
    }
    assert rows["CLIP+KNN"]["difference"] == pytest.approx(50.0 - 47.5)
    assert rows["RAR (LLaVA1.5)"]["difference"] == pytest.approx(55.0 - 53.9)


def test_without_a_ranker_the_papers_rows_have_no_difference() -> None:
    rows = beside("dtd", 4, {"top1": 50.0}, {})
    assert [row["method"] for row in rows if row["difference"] is not None] == ["CLIP+KNN"]
    assert len(rows) == 5
    assert beside("dtd", 5, {"top1": 50.0}, {}) == []
