"""A result's one form: the same for JSON and for Arrow, and the same keys for good and bad pictures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rar.runtime import Candidate, DescribedRegion, ImageError, Recognizer, Result
from rar.runtime.cli.printable import json_line
from rar.runtime.cli.records import record
from rar.runtime.memory import Entry
from rar.serving.row import Row, schema, to_row


@pytest.fixture(scope="module")
def results(pictures_bundle: Path, class_pictures: list[Path]) -> list[Result]:
    with Recognizer.open(pictures_bundle, "cpu") as recognizer:
        return recognizer.recognize([class_pictures[0], b"no picture", class_pictures[-1]], k=2, rank="none")


@pytest.fixture(scope="module")
def with_regions() -> Result:
    candidates = [Candidate("cat", 0.5, 0.75, Entry("texts", "a cat"))]
    return Result(
        "cat", 0.75, candidates, candidates, regions=[DescribedRegion("cat", (0.0, 1.0, 2.5, 3.0), "a cat", 0.25)]
    )


def test_every_row_has_the_same_keys(results: list[Result]) -> None:
    rows = [to_row(result, "cpu") for result in results]
    assert {tuple(row) for row in rows} == {tuple(Row.__annotations__)}
    assert [row["label"] for row in rows] == ["cat", None, "rocket"]
    assert rows[1]["error"] is not None
    assert "not a picture" in rows[1]["error"]
    assert rows[0]["error"] is None


def test_the_schema_names_what_the_row_has() -> None:
    pytest.importorskip("pyarrow")
    assert schema().names == list(Row.__annotations__)


def test_arrow_gives_back_what_json_says(results: list[Result], with_regions: Result) -> None:
    pa = pytest.importorskip("pyarrow")
    rows = [to_row(result, "cpu") for result in (*results, with_regions)]
    back = pa.Table.from_pylist(rows, schema()).to_pylist(maps_as_pydicts="strict")
    assert back == json.loads(json.dumps(rows))


def test_json_lines_stay_without_an_error_where_there_is_none(results: list[Result]) -> None:
    good, bad, _ = (json.loads(json_line(record(result, "cpu"))) for result in results)
    assert set(good) == set(Row.__annotations__) - {"error"}
    assert bad == {"error": str(results[1].error)}


def test_an_error_is_its_text() -> None:
    assert to_row(Result(error=ImageError("x.jpg: broken")), "cpu")["error"] == "x.jpg: broken"
