"""The report on boxes, and the scenes that stand in for a data set."""

import json
from pathlib import Path
from typing import Any

import pytest
from boxes import annotations, mosaic, write
from PIL import Image

from rar.benchmarks.cli import main
from rar.benchmarks.detection.scenes import make
from rar.runtime.detection.annotations import read_annotations
from rar.runtime.errors import InputError


@pytest.fixture
def folder(tmp_path: Path, labelled_folder: Path) -> Path:
    """Two frames; in the second the first two boxes have each other's category, and one box is small."""
    for name in ("a.png", "b.png"):
        Image.fromarray(mosaic(labelled_folder)).save(tmp_path / name)
    content = annotations(["a.png", "b.png"])
    rows = content["annotations"]
    rows[4]["category_id"], rows[5]["category_id"] = 4, 1
    rows[7].update(bbox=[80, 80, 20, 20], area=400)
    write(tmp_path, content)
    return tmp_path


def test_report(pictures_bundle: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pycocotools")
    proposals = [
        {"image_id": 10, "bbox": [0, 0, 80, 80], "score": 0.9},
        {"image_id": 11, "bbox": [0, 80, 80, 80], "score": 0.1},
    ]
    out = folder / "result.json"
    argv = [
        *("detection", pictures_bundle, "--boxes", folder / "boxes.json", "--k", "2", "--rank", "none", "--sweep"),
        *("--grow", "32:2,inf:1.25", "--blur", "0.1"),
        *("--proposals", write(folder, proposals, "proposals.json"), "--out", out),
    ]  # fmt: skip
    assert main([str(arg) for arg in argv]) == 0
    result: dict[str, Any] = json.loads(out.read_text())
    assert result["boxes"]["sizes"] == {"small": 1, "medium": 7, "large": 0, "all": 8}
    assert result["default"]["grow"] == [[32, 2], [None, 1.25]]
    plain, rar = result["results"]["CLIP on crops"], result["results"]["RAR, retrieval"]
    # Sharp and as large as the box, each region is a picture of the memory; two are labelled wrongly.
    assert plain["top1"]["medium"]["percent"] == pytest.approx(100 * 5 / 7)
    assert "large" not in plain["top1"]
    assert plain["gain"]["all"] == {"points": 0, "standard_error": 0, "count": 8}
    difference = rar["top1"]["all"]["percent"] - plain["top1"]["all"]["percent"]
    assert rar["gain"]["all"]["points"] == pytest.approx(difference)
    # Of the first class one box was found in each frame, the wrong one in the second; likewise of the second.
    assert plain["AP"]["APl"] is None
    assert 0 < plain["AP"]["AP"] < 100
    scales = [(point["grow"], point["blur"] is None) for point in result["sweep"]]
    assert scales[:2] == [(1.0, True), (1.0, False)]
    assert scales[-1] == (3.0, False)
    # With no growth there is nothing to blur.
    assert result["sweep"][0]["top1"] == result["sweep"][1]["top1"] == plain["top1"]
    assert [point["fusion"] for point in result["proposals"]["CLIP on crops"]] == [0, 0.25, 0.5, 0.75, 1]
    assert result["proposals"]["CLIP on crops"][0]["AP"]["AP50"] > 0
    assert "RAR, retrieval" in capsys.readouterr().out
    page = folder / "scale.html"
    assert main(["report", str(out), "--out", str(page)]) == 0
    assert page.read_text().count("<svg") == 1


def test_no_truth_no_report(pictures_bundle: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = {**annotations(["a.png"]), "annotations": []}
    assert main(["detection", str(pictures_bundle), "--boxes", str(write(folder, content))]) == 2
    assert "holds no box" in capsys.readouterr().err


class TestScenes:
    @pytest.fixture(scope="class")
    def scenes(self, grocery: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
        out = tmp_path_factory.mktemp("scenes") / "own"
        return out, make(grocery, out, seed=3, split="val", count=8)

    def test_each_photo_stands_once_at_each_size(self, scenes: tuple[Path, dict[str, Any]]) -> None:
        _, content = scenes
        areas = sorted(row["area"] for row in content["annotations"])
        assert len(areas) == 24
        assert areas[7] < 32**2 <= areas[8]
        assert areas[15] < 96**2 <= areas[16]

    def test_boxes_lie_in_their_frames_and_apart(self, scenes: tuple[Path, dict[str, Any]]) -> None:
        out, content = scenes
        read = read_annotations(out / "annotations.json", out / "proposals.json")
        assert not read.skipped
        for image in content["images"]:
            with Image.open(out / image["file_name"]) as frame:
                assert frame.size == (image["width"], image["height"]) == (1280, 960)
            rows = [row for row in content["annotations"] if row["image_id"] == image["id"]]
            edges = [(x, y, x + width, y + height) for x, y, width, height in (row["bbox"] for row in rows)]
            assert all(x0 >= 0 and y0 >= 0 and x1 <= 1280 and y1 <= 960 for x0, y0, x1, y1 in edges)
            for place, (x0, y0, x1, y1) in enumerate(edges):
                assert not any(x0 < r and left < x1 and y0 < b and t < y1 for left, t, r, b in edges[:place])

    def test_no_two_of_one_coarse_class_in_a_frame_and_absences_are_listed(
        self, scenes: tuple[Path, dict[str, Any]], grocery: Path
    ) -> None:
        _, content = scenes
        lines = (grocery / "train.csv").read_text().splitlines()[1:]
        coarse = {line.split(",")[1]: line.split(",")[2] for line in lines}
        names = {row["id"]: row["name"] for row in content["categories"]}
        for image in content["images"]:
            own = [row["category_id"] for row in content["annotations"] if row["image_id"] == image["id"]]
            assert len({coarse[names[key]] for key in own}) == len(own)
            assert set(image["neg_category_ids"]) == set(names) - set(own)
        assert sorted(row["frequency"] for row in content["categories"]) == ["c"] * 27 + ["f"] * 27 + ["r"] * 27

    def test_a_seed_makes_the_same_frames_again(
        self, scenes: tuple[Path, dict[str, Any]], grocery: Path, tmp_path: Path
    ) -> None:
        out, content = scenes
        assert make(grocery, tmp_path / "again", seed=3, split="val", count=8) == content
        for name in ("frames/00001.jpg", "proposals.json"):
            assert (tmp_path / "again" / name).read_bytes() == (out / name).read_bytes()
        other = make(grocery, tmp_path / "other", seed=4, split="val", count=8)
        assert other["annotations"] != content["annotations"]

    def test_a_folder_that_holds_something_is_left_alone(self, grocery: Path, tmp_path: Path) -> None:
        (tmp_path / "mine.txt").touch()
        with pytest.raises(InputError, match="exists already"):
            make(grocery, tmp_path, seed=0)
