"""`rar-bench exemplars`: each picture by names alone, with exemplars, and with exemplars that were kept."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from by_hand import add_mllm

from rar.benchmarks.cli import main
from rar.export.cli import main as export


def test_each_way_is_measured_on_the_same_pictures(
    pictures_bundle: Path,
    writable: Callable[[Path], Path],
    labelled_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root, out, pictures = add_mllm(writable(pictures_bundle)), tmp_path / "found.json", str(labelled_folder)
    device = ["--provider", "cpu", "--threads", "1"]
    assert main(["exemplars", str(root), "--test", pictures, "--count", "3", "--k", "2", *device]) == 2
    assert "holds no 'exemplars'" in capsys.readouterr().err
    assert export(["exemplars", str(root), "--images", pictures, *device]) == 0
    argv = ["exemplars", str(root), "--test", pictures, "--count", "3", "--k", "2", *device, "--out", str(out)]
    assert main(argv) == 0
    found = json.loads(out.read_text())
    assert (found["pictures"], found["k"], found["exemplars"]["pictures"]) == (3, 2, 4)
    assert list(found["results"]) == ["names", "exemplars", "exemplars kept"]
    assert found["results"]["names"]["ratio"]["median"] == 1
    assert found["results"]["exemplars"]["top1"] == found["results"]["exemplars kept"]["top1"]
    assert "times names alone" in capsys.readouterr().out
