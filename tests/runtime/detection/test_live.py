"""Boxes that were recognised as supervision has them."""

import sys

import pytest

from rar.runtime import ImageError, InputError, Result, to_detections

supervision = pytest.importorskip("supervision")

BOXES = [[0, 0, 10, 20], [5, 5, 9, 9], [1, 2, 3, 4]]
RESULTS = [Result("cat", 0.5), Result(error=ImageError("outside")), Result("dog", 0.25)]


def test_each_box_with_an_answer_is_there_with_its_class_and_score() -> None:
    detections = to_detections(BOXES, RESULTS, {"cat": 7, "dog": 3, "cow": 1})
    assert isinstance(detections, supervision.Detections)
    assert detections.xyxy.tolist() == [BOXES[0], BOXES[2]]
    assert detections.confidence.tolist() == [0.5, 0.25]
    assert detections.class_id.tolist() == [7, 3]
    assert detections.data["class_name"].tolist() == ["cat", "dog"]


def test_without_numbers_there_are_names_alone() -> None:
    detections = to_detections(BOXES, RESULTS)
    assert detections.class_id is None
    assert detections.data["class_name"].tolist() == ["cat", "dog"]


def test_no_boxes() -> None:
    assert len(to_detections([], [])) == 0
    assert len(to_detections(BOXES[1:2], RESULTS[1:2], {})) == 0


def test_results_of_other_boxes_and_classes_without_a_number_are_refused() -> None:
    with pytest.raises(InputError, match="2 results for 3 boxes"):
        to_detections(BOXES, RESULTS[:2])
    with pytest.raises(InputError, match="the class 'dog' has no number"):
        to_detections(BOXES, RESULTS, {"cat": 1})


def test_where_supervision_is_missing_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(InputError, match="pip install supervision"):
        to_detections(BOXES, RESULTS)
