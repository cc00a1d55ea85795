"""`POST /recognize` says what the library says, whatever form the pictures come in."""

from __future__ import annotations

import base64
import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from rar.runtime import InputError, Recognizer


@pytest.fixture(scope="module")
def expected(own_bundle: Path, class_pictures: list[Path]) -> list[dict[str, Any]]:
    with Recognizer.open(own_bundle, "cpu", threads=1) as recognizer:
        return [
            {"label": result.label, "candidates": [candidate.label for candidate in result.candidates]}
            for result in recognizer.recognize(class_pictures)
        ]


def told(row: dict[str, Any]) -> dict[str, Any]:
    return {"label": row["label"], "candidates": [candidate["label"] for candidate in row["candidates"]]}


def test_bytes_forms_and_json_are_answered_alike(server: Any, class_pictures: list[Path], expected: Any) -> None:
    contents = [path.read_bytes() for path in class_pictures]
    raw = [server.recognize(content) for content in contents]
    assert [response.status_code for response in raw] == [200] * len(raw)
    assert [told(response.json()["results"][0]) for response in raw] == expected
    image = server.client.post("/recognize", content=contents[0], headers={"content-type": "image/jpeg"})
    assert told(image.json()["results"][0]) == expected[0]
    form = server.client.post("/recognize", files=[("any", ("name", content)) for content in contents])
    assert [told(row) for row in form.json()["results"]] == expected
    texts = [base64.b64encode(content).decode() for content in contents]
    texts[1] = f"data:image/jpeg;base64,{texts[1]}"
    given = server.client.post("/recognize", json={"images": texts})
    assert [told(row) for row in given.json()["results"]] == expected


def test_a_row_has_what_was_measured(server: Any, class_pictures: list[Path]) -> None:
    content = server.recognize(class_pictures[0]).json()
    (row,) = content["results"]
    assert {"decode", "preprocess", "embed", "search"} <= set(row["milliseconds"])
    assert row["probabilities"][0] == pytest.approx(row["probability"])
    assert sum(row["probabilities"]) == pytest.approx(1)
    assert row["candidates"][0]["entry"]["source"].endswith((".jpg", ".png"))
    assert row["provider"] == "cpu"
    assert content["batch"] == 1
    assert content["waited_ms"] >= 0


def test_what_is_asked_beside_a_picture_counts(server: Any, class_pictures: list[Path]) -> None:
    cat = class_pictures[0]
    (row,) = server.recognize(cat, k=2, rank="none").json()["results"]
    assert len(row["candidates"]) == 2
    assert row["ranked_by"] is None
    (row,) = server.recognize(cat, labels=["rocket", "grass"]).json()["results"]
    assert {candidate["label"] for candidate in row["candidates"]} == {"rocket", "grass"}
    text = base64.b64encode(cat.read_bytes()).decode()
    answered = server.client.post("/recognize", json={"images": [text], "k": 1, "labels": "rocket"})
    assert [candidate["label"] for candidate in answered.json()["results"][0]["candidates"]] == ["rocket"]
    (row,) = server.recognize(cat, deadline_ms=20_000).json()["results"]
    assert row["label"] == "cat"
    assert row["unknown"] is None
    (row,) = server.recognize(cat, unknown="reject").json()["results"]
    assert row["label"] == "cat"
    assert 0 < row["unknown"] < 0.5


def test_strangers_are_refused_as_the_library_refuses_them(
    server: Any, own_bundle: Path, class_pictures: list[Path]
) -> None:
    with Recognizer.open(own_bundle, "cpu", threads=1) as recognizer:
        expected: Any = None
        with suppress(InputError):  # a memory of few pictures cannot tell
            (expected,) = recognizer.recognize(class_pictures[0], unknown="reject")
    answered = server.recognize(class_pictures[0], unknown="reject")
    if expected is None:
        assert (answered.status_code, "unknown='reject'" in answered.json()["error"]) == (422, True)
        return
    (row,) = answered.json()["results"]
    assert (row["label"], row["unknown"]) == (expected.label, pytest.approx(expected.unknown))


def test_boxes_are_named_as_the_library_names_them(server: Any, own_bundle: Path, class_pictures: list[Path]) -> None:
    boxes = [[0, 0, 50, 40], [20, 10, 100, 80]]
    answered = server.recognize(class_pictures[3], boxes=json.dumps(boxes))
    with Recognizer.open(own_bundle, "cpu", threads=1) as recognizer:
        expected = recognizer.recognize_regions(class_pictures[3], boxes)
    assert [row["label"] for row in answered.json()["results"]] == [result.label for result in expected]
    outside = server.recognize(class_pictures[3], boxes="[[500, 500, 600, 600], [0, 0, 50, 40]]").json()["results"]
    assert "outside the picture" in outside[0]["error"]
    assert outside[1]["error"] is None


def test_a_broken_picture_spoils_no_other(server: Any, class_pictures: list[Path], expected: Any) -> None:
    files = [("a", class_pictures[0].read_bytes()), ("b", b"no picture"), ("c", class_pictures[-1].read_bytes())]
    answered = server.client.post("/recognize", files=[("any", file) for file in files])
    assert answered.status_code == 200
    rows = answered.json()["results"]
    assert [told(rows[0]), told(rows[2])] == [expected[0], expected[-1]]
    assert "not a picture" in rows[1]["error"]
    alone = server.recognize(b"no picture")
    assert alone.status_code == 422
    assert "not a picture" in alone.json()["error"]
    assert len(alone.json()["results"]) == 1


def test_requests_that_come_together_share_batches(server: Any, class_pictures: list[Path], expected: Any) -> None:
    asked = class_pictures * 8
    with ThreadPoolExecutor(16) as clients:
        answers = list(clients.map(server.recognize, asked))
    assert [told(one.json()["results"][0]) for one in answers] == expected * 8
    assert max(one.json()["batch"] for one in answers) > 1
    assert max(one.json()["batch"] for one in answers) <= 16


def test_it_counts_for_prometheus(server: Any, class_pictures: list[Path]) -> None:
    def counted(name: str) -> float:
        lines = server.client.get("/metrics").text.splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))

    names = (
        'rar_pictures_total{outcome="answered"}',
        'rar_pictures_total{outcome="error"}',
        "rar_batch_pictures_count",
    )
    before = [counted(name) for name in names]
    server.recognize(class_pictures[0])
    server.recognize(b"no picture")
    server.client.get("/nothing/that/a/stranger/typed")
    assert [counted(name) - was for name, was in zip(names, before, strict=True)] == [1, 1, 2]
    assert counted('rar_stage_seconds_total{stage="embed"}') > 0
    assert counted("rar_memory_classes") == 4
    assert counted("process_resident_memory_bytes") > 1e7
    assert "stranger" not in server.client.get("/metrics").text
