"""`rar-bench compare`: ratios of two runs, what is a change, and files that cannot be compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rar.benchmarks.cli import main
from rar.benchmarks.compare import compare


def result(*ratios: tuple[str, float, float, float], **others: Any) -> dict[str, Any]:
    rows = [
        {"path": "retrieve", "figure": figure, "against": "torch-eager", "target": 3.0, "reached": True,
         "ratio": {"median": median, "q25": low, "q75": high, "count": 5}}
        for figure, median, low, high in ratios
    ]  # fmt: skip
    made = {"format": 1, "benchmark": "latency", "environment": {"cpu": "one"}, "results": [], "ratios": rows}
    return made | others


@pytest.fixture
def files(tmp_path: Path) -> Any:
    def write(old: Any, new: Any) -> list[str]:
        paths = [tmp_path / "old.json", tmp_path / "new.json"]
        for path, content in zip(paths, (old, new), strict=True):
            path.write_text(content if isinstance(content, str) else json.dumps(content))
        return ["compare", *map(str, paths)]

    return write


@pytest.mark.parametrize(
    ("new", "limit", "status", "word"),
    [
        (("p90", 7.0, 6.9, 7.1), "10%", 1, "worse"),
        (("p90", 7.0, 6.9, 7.1), "40", 0, "worse"),
        (("p90", 9.5, 9.4, 9.6), "10%", 0, "worse"),
        (("p90", 7.0, 5.0, 9.9), "10%", 0, "same"),  # beyond the limit, within the spread
        (("p90", 13.0, 12.0, 14.0), "10%", 0, "better"),
    ],
)
def test_only_what_is_worse_beyond_limit_and_spread_fails(
    files: Any, new: Any, limit: str, status: int, word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = files(result(("p90", 10.0, 9.8, 10.2)), result(new))
    assert main([*arguments, "--fail-above", limit]) == status
    assert capsys.readouterr().out.split()[0] == word


def test_rows_of_one_file_alone_are_named_and_do_not_fail(files: Any, capsys: pytest.CaptureFixture[str]) -> None:
    old = result(("p90", 10.0, 9.0, 11.0), ("offline", 3.0, 2.9, 3.1))
    new = result(("p90", 10.5, 9.0, 11.0), ("memory", 3.0, 2.9, 3.1), missing=[{"stack": "rar"}])
    assert main(files(old, new)) == 0
    out = capsys.readouterr().out
    assert "figure offline" in out.split("gone")[1].split("added")[0]
    assert "figure memory" in out.split("added")[1]
    assert "of a run that was stopped" in out


def test_a_baseline_of_another_name_is_the_same_row_and_is_named(
    files: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = (result(("p90", 10.0, 9.0, 11.0)) for _ in range(2))
    assert main(files(old, new)) == 0
    assert "against" not in capsys.readouterr().out
    new["ratios"][0].update(against="torch-compile", reached=False)
    (change,) = compare(old, new).changes
    assert (change.share, change.real) == (0.0, False)
    assert main(files(old, new)) == 0
    assert "; against torch-eager -> torch-compile" in capsys.readouterr().out


def test_plain_numbers_are_their_own_spread() -> None:
    def speeds(*values: float) -> dict[str, Any]:
        rows = [{"batch": batch, "stack": "int8", "speedup": value, "ms": 1.0} for batch, value in enumerate(values)]
        return {"benchmark": "preprocess", "results": rows}

    comparison = compare(speeds(5.0, 6.0), speeds(4.0, 6.0))
    assert [(change.real, round(change.share, 3)) for change in comparison.changes] == [(True, -0.2), (False, 0.0)]
    assert [change.name for change in comparison.worse(0.1)] == ["batch 0, stack int8"]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{", "not a result file"),
        ({"environment": {}, "command": "rar-bench rank b"}, "of `rar-bench rank`"),
        (result(format=2), "format 2"),
        (result(("p90", 1.0, 1.0, 1.0), benchmark="rank"), "rar-bench rank"),
        (result(), "no ratio in common"),
        (result(("p90", 1.0, 1.0, 1.0), ("p90", 2.0, 2.0, 2.0)), "cannot be told apart"),
    ],
)
def test_files_that_cannot_be_compared_are_refused(
    files: Any, content: Any, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(files(result(("p90", 1.0, 1.0, 1.0)), content)) == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize("limit", ["ten", "-1%", "100%"])
def test_a_limit_that_is_none_is_refused(files: Any, limit: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*files(result(), result()), f"--fail-above={limit}"]) == 2
    assert limit in capsys.readouterr().err
