"""`rar-recognize --boxes`: COCO results, what was passed over, and one line on stderr with exit code 2."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from boxes import BOXES, CLASSES, annotations, mosaic, write
from PIL import Image

from rar.runtime import InputError
from rar.runtime.cli.boxes import _write, parse_blur, parse_grow
from rar.runtime.cli.recognize import main
from rar.runtime.detection.annotations import Box
from rar.runtime.detection.dataset import Detected
from rar.runtime.result import Result

Capture = pytest.CaptureFixture[str]
SHARP = ("--grow", "1", "--blur", "none", "--rank", "none")


@pytest.fixture
def folder(tmp_path: Path, labelled_folder: Path) -> Path:
    """Two pictures and their boxes."""
    for name in ("a.png", "b.png"):
        Image.fromarray(mosaic(labelled_folder)).save(tmp_path / name)
    write(tmp_path, annotations(["a.png", "b.png"]))
    return tmp_path


def recognize(bundle: Path, *argv: object) -> int:
    return main([str(bundle), *map(str, argv)])


def test_coco_results(pictures_bundle: Path, folder: Path, capsys: Capture) -> None:
    out = folder / "results.json"
    assert recognize(pictures_bundle, "--boxes", folder / "boxes.json", "--out", out, *SHARP) == 0
    rows = json.loads(out.read_text())
    assert [(row["image_id"], row["category_id"]) for row in rows] == [
        (key, c) for key in (10, 11) for c in (1, 4, 7, 10)
    ]
    assert [row["bbox"] for row in rows[:4]] == [[x0, y0, x1 - x0, y1 - y0] for x0, y0, x1, y1 in BOXES]
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "8 boxes of 2 pictures; 0 boxes without an answer" in printed.err


def test_proposals_keep_their_boxes_and_lend_their_scores(pictures_bundle: Path, folder: Path) -> None:
    proposals = [{"image_id": 11, "category_id": 1, "bbox": [80, 0, 80, 80], "score": score} for score in (0.2, 0.8)]
    file, out = write(folder, proposals, "proposals.json"), folder / "results.json"
    common = ("--boxes", folder / "boxes.json", "--proposals", file, "--out", out, *SHARP)
    assert recognize(pictures_bundle, *common, "--fusion", "1") == 0
    rows = json.loads(out.read_text())
    assert [(row["image_id"], row["category_id"], row["score"]) for row in rows] == [(11, 4, 0.2), (11, 4, 0.8)]
    assert recognize(pictures_bundle, *common, "--fusion", "0") == 0
    low, high = (row["score"] for row in json.loads(out.read_text()))
    assert low == high


def test_json_lines_and_a_table(pictures_bundle: Path, folder: Path, capsys: Capture) -> None:
    assert recognize(pictures_bundle, "--boxes", folder / "boxes.json", "--json", "--k", "2", *SHARP) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["label"] for row in rows] == [*CLASSES, *CLASSES]
    assert [row["bbox"] for row in rows[4:]] == [[x0, y0, x1 - x0, y1 - y0] for x0, y0, x1, y1 in BOXES]
    assert {Path(row["path"]).name for row in rows[4:]} == {"b.png"}
    assert recognize(pictures_bundle, "--boxes", folder / "boxes.json", "--k", "2", *SHARP) == 0
    assert "a.png  box 80, 0, 80, 80" in capsys.readouterr().out


def test_what_was_passed_over_is_counted(pictures_bundle: Path, folder: Path, capsys: Capture) -> None:
    content = annotations(["a.png", "b.png"], [*CLASSES, "drag\x1bon"])
    content["annotations"][0]["iscrowd"] = 1
    content["annotations"][1]["bbox"] = [1, 1, 0, 5]
    content["annotations"][2]["category_id"] = 99
    out = folder / "results.json"
    assert recognize(pictures_bundle, "--boxes", write(folder, content), "--out", out, *SHARP) == 0
    assert len(json.loads(out.read_text())) == 5
    told = capsys.readouterr().err
    assert "1 boxes of categories that the file does not list, 1 boxes without an area, 1 crowd regions" in told
    assert "1 of 5 categories are no class of the memory: 'drag\\x1bon'" in told.replace("\\\\", "\\")
    assert "\x1b" not in told


def test_missing_pictures_and_boxes_outside_are_told_and_the_rest_is_written(
    pictures_bundle: Path, folder: Path, capsys: Capture
) -> None:
    content = annotations(["a.png", "lost.png"])
    content["annotations"][3]["bbox"] = [500, 0, 5, 5]
    out = folder / "results.json"
    assert recognize(pictures_bundle, "--boxes", write(folder, content), "--out", out, *SHARP) == 2
    assert [row["category_id"] for row in json.loads(out.read_text())] == [1, 4, 7]
    told = capsys.readouterr().err
    assert "lost.png: no such file" in told
    assert "lies outside the picture of 160x160" in told
    assert "5 boxes without an answer" in told


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["a.png", "--boxes", "boxes.json"], "only one of them"),
        ([], "only one of them"),
        (["a.png", "--out", "x.json"], "--out goes only with --boxes"),
        (["a.png", "--proposals", "x.json"], "--proposals goes only with --boxes"),
        (["--boxes", "boxes.json", "--deadline-ms", "5"], "--deadline-ms goes not with --boxes"),
        (["--boxes", "none.json"], "none.json: cannot be read"),
        (["--boxes", "half.json"], "not JSON, or not whole"),
        (["--boxes", "boxes.json", "--images", "none"], "none: no such folder of pictures"),
        (["--boxes", "boxes.json", "--out", "none/x.json"], "its folder is not there"),
        (["--boxes", "boxes.json", "--grow", "wide"], "--grow wide: give a factor"),
        (["--boxes", "boxes.json", "--grow", "32:2"], "last limit infinite"),
        (["--boxes", "boxes.json", "--blur", "much"], "--blur much: give a share"),
        (["--boxes", "boxes.json", "--fusion", "2"], "fusion=2.0"),
        (["--boxes", "boxes.json", "--proposals", "boxes.json"], "must be a JSON list"),
    ],
)
def test_bad_arguments_are_one_line_and_nothing_is_written(
    pictures_bundle: Path, folder: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, argv: list[str], words: str
) -> None:
    monkeypatch.chdir(folder)
    (folder / "half.json").write_text((folder / "boxes.json").read_text()[:200])
    before = sorted(folder.iterdir())
    if "--boxes" in argv and "--out" not in argv:
        argv = [*argv, "--out", "results.json"]
    assert recognize(pictures_bundle, *argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert words in err
    assert sorted(folder.iterdir()) == before


def test_stopped_what_was_finished_is_kept_under_a_name_that_says_so(tmp_path: Path, capsys: Capture) -> None:
    def found() -> Iterator[Detected]:
        yield Detected(10, tmp_path, [Box((0, 0, 5, 5))], [Result("cat", 0.5)], {"cat": 1})
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _write(tmp_path / "results.json", found(), pictures=3)
    assert [path.name for path in tmp_path.iterdir()] == ["results.json.partial"]
    assert json.loads((tmp_path / "results.json.partial").read_text())[0]["category_id"] == 1
    assert "1 of 3 pictures" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "value"),
    [("1.5", 1.5), ("32:2,96:1.5,inf:1", [(32, 2), (96, 1.5), (float("inf"), 1)])],
)
def test_growth_as_text(text: str, value: Any) -> None:
    assert parse_grow(text) == value


def test_blur_as_text() -> None:
    assert parse_blur("0.2") == 0.2
    assert parse_blur("none") is None
    with pytest.raises(InputError):
        parse_blur("")
