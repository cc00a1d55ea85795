"""`rar-bench open-set`: strangers near and far, against real memories that lack their classes."""

import json
import shutil
from pathlib import Path

import pytest

from rar.benchmarks.cli import main


def test_the_pictures_in_the_memory_do_and_a_memory_of_names_says_what_to_give(
    pictures_bundle: Path, names_bundle: Path, labelled_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--test", str(labelled_folder), "--far", str(labelled_folder / "cat"), "--left-out", "1", "--draws", "1"]
    out = tmp_path / "found.json"
    assert main(["open-set", str(pictures_bundle), *given, "--provider", "cpu", "--out", str(out)]) == 0
    (row,) = json.loads(out.read_text())["rows"]
    assert row["ways"]["best cosine"]["near"] == {"auroc": 1.0, "fpr95": 0.0}
    assert main(["open-set", str(names_bundle), *given, "--provider", "cpu"]) == 2
    assert "give some by --train" in capsys.readouterr().err


def test_each_way_is_measured_near_and_far_and_what_is_refused(
    tiny_bundle: Path, labelled_folder: Path, photos: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (tiny_bundle / "bundle.json").read_bytes()
    far = tmp_path / "far"
    far.mkdir()
    for photo in photos[:4]:
        shutil.copy(photo, far)
    out, pictures = tmp_path / "found.json", str(labelled_folder)
    given = ["--train", pictures, "--test", pictures, "--far", str(far), "--left-out", "1", "--draws", "2"]
    assert main(["open-set", str(tiny_bundle), *given, "--provider", "cpu", "--out", str(out)]) == 0
    assert (tiny_bundle / "bundle.json").read_bytes() == before
    found = json.loads(out.read_text())
    assert len(found["rows"]) == 2
    for row in found["rows"]:
        assert row["pictures"] == {"known": 9, "near": 3, "far": 4}
        assert list(row["ways"]) == [
            "best cosine",
            "distance from the middle",
            "Mahalanobis",
            "relative Mahalanobis",
            "best logit",
            "together, fitted on memory pictures",
        ]
        # The known ones are in the memory as they are.
        assert row["ways"]["best cosine"]["near"] == {"auroc": 1.0, "fpr95": 0.0}
        for way in row["ways"].values():
            assert all(0 <= one["auroc"] <= 1 and 0 <= one["fpr95"] <= 100 for one in way.values())
        assert 0 <= row["reject"]["memory"]["known"] <= 100
    assert found["mean"]["ways"]["best cosine"]["far"]["auroc"] == pytest.approx(
        sum(row["ways"]["best cosine"]["far"]["auroc"] for row in found["rows"]) / 2
    )
    said = capsys.readouterr().out
    assert "refused, fitted on memory pictures: known" in said.partition("\nmean\n")[2]
