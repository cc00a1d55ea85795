"""AP of cases small enough to be worked out by hand, as COCO's and LVIS' own code gives it."""

from pathlib import Path
from typing import Any

import pytest
from boxes import write

from rar.benchmarks.detection.average_precision import average_precision
from rar.runtime.errors import InputError

pytest.importorskip("pycocotools")
pytest.importorskip("lvis")

# Precision is read at the 101 recalls 0, 0.01, ... 1: of two objects one found first, then a wrong box, then the other.
ONE_WRONG_BETWEEN = 100 * (51 * 1 + 50 * 2 / 3) / 101


def truth(*rows: dict[str, Any], images: int = 1, categories: int = 2, **more: Any) -> dict[str, Any]:
    return {
        "images": [{"id": key, "file_name": f"{key}.jpg", "height": 999, "width": 999} for key in range(1, images + 1)],
        "categories": [{"id": key, "name": f"class {key}"} for key in range(1, categories + 1)],
        "annotations": [{"id": number, "image_id": 1, "category_id": 1, **row} for number, row in enumerate(rows, 1)],
        **more,
    }


def lvis(
    content: dict[str, Any], frequencies: str, negative: list[int], partly: list[int] | None = None
) -> dict[str, Any]:
    lists = {"neg_category_ids": negative, "not_exhaustive_category_ids": partly or []}
    images = [{**image, **lists} for image in content["images"]]
    pairs = zip(content["categories"], frequencies, strict=True)
    return {**content, "images": images, "categories": [{**own, "frequency": letter} for own, letter in pairs]}


def box(x: float, side: float = 100, **more: Any) -> dict[str, Any]:
    return {"bbox": [x, 0, side, side], **more}


def found(x: float, score: float, side: float = 100, category: int = 1) -> dict[str, Any]:
    return {"image_id": 1, "category_id": category, "bbox": [x, 0, side, side], "score": score}


def test_one_wrong_box_between_two_right_ones(tmp_path: Path) -> None:
    file = write(tmp_path, truth(box(0), box(200)))
    figures = average_precision(file, [found(0, 0.9), found(600, 0.8), found(200, 0.7)])
    assert figures == pytest.approx(
        dict.fromkeys(("AP", "AP50", "AP75", "APl"), ONE_WRONG_BETWEEN) | {"APs": None, "APm": None}
    )


def test_a_box_that_fits_by_62_percent_counts_up_to_an_iou_of_60(tmp_path: Path) -> None:
    file = write(tmp_path, truth(box(0)))
    figures = average_precision(file, [found(23, 0.9)])  # 77 of 123 columns
    assert (figures["AP"], figures["AP50"], figures["AP75"]) == (pytest.approx(100 * 3 / 10), pytest.approx(100), 0)


def test_sizes_are_told_apart_by_area(tmp_path: Path) -> None:
    file = write(tmp_path, truth(box(0, 20), box(200, 50), box(500, 50, category_id=2)))
    figures = average_precision(file, [found(0, 0.9, 20), found(500, 0.8, 50, category=2)])
    assert figures["APs"] == pytest.approx(100)
    assert figures["APm"] == pytest.approx(50)  # the one class's is missed, the other's found
    assert figures["APl"] is None


def test_a_box_on_a_crowd_is_not_wrong(tmp_path: Path) -> None:
    rows = (box(0), box(200, iscrowd=1, area=10_000))
    file = write(tmp_path, truth(*rows))
    assert average_precision(file, [found(210, 0.9, 80), found(0, 0.8)])["AP"] == pytest.approx(100)
    assert average_precision(file, [found(610, 0.9, 80), found(0, 0.8)])["AP"] == pytest.approx(50)


def test_what_cannot_be_used_takes_no_part(tmp_path: Path) -> None:
    rows = (box(0), {"bbox": [1, 2, 0, 5]}, {"bbox": [1, 2, float("nan"), 5]}, {**box(0), "id": 1}, {"bbox": [1]})
    file = write(tmp_path, truth(*rows, {**box(300), "category_id": 77}, {**box(300), "image_id": 77}))
    assert average_precision(file, [found(0, 0.8)])["AP"] == pytest.approx(100)


def test_frequencies_of_classes(tmp_path: Path) -> None:
    rows = (box(0), box(200, category_id=2), box(400, category_id=3), box(600, category_id=3))
    content = lvis(truth(*rows, categories=3), "rcf", negative=[])
    figures = average_precision(
        write(tmp_path, content),
        [found(0, 0.9), found(400, 0.9, category=3), found(0, 0.8, category=3), found(600, 0.7, category=3)],
    )
    assert figures["APr"] == pytest.approx(100)
    assert figures["APc"] == pytest.approx(0)
    assert figures["APf"] == pytest.approx(ONE_WRONG_BETWEEN)
    assert figures["AP"] == pytest.approx((100 + 0 + ONE_WRONG_BETWEEN) / 3)


def test_lvis_asks_only_about_classes_whose_absence_is_known(tmp_path: Path) -> None:
    content = truth(box(0), {**box(0), "image_id": 2, "category_id": 2}, images=2)
    wrong = [found(0, 0.9), found(0, 0.9, category=2), {**found(0, 0.5, category=2), "image_id": 2}]
    unknown = average_precision(write(tmp_path, lvis(content, "rr", negative=[])), wrong)
    known = average_precision(write(tmp_path, lvis(content, "rr", negative=[2])), wrong)
    assert unknown["AP"] == pytest.approx(100)
    assert known["AP"] == pytest.approx((100 + 50) / 2)


def test_lvis_forgives_boxes_of_classes_that_are_not_exhaustively_annotated(tmp_path: Path) -> None:
    content = truth(box(0), categories=1)
    boxes = [found(500, 0.9), found(0, 0.8)]
    assert average_precision(write(tmp_path, lvis(content, "f", [], [1])), boxes)["AP"] == pytest.approx(100)
    assert average_precision(write(tmp_path, lvis(content, "f", [])), boxes)["AP"] == pytest.approx(50)


def test_without_a_detection_there_is_no_figure(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no box was answered"):
        average_precision(write(tmp_path, truth(box(0))), [])
