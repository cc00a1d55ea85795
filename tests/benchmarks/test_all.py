"""`rar-bench all`: the parts really run; what fails, or is stopped, is listed and leaves the others."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rar.benchmarks.all import Part, _run, _Told, parts
from rar.benchmarks.cli import main


def asked(bundle: Path, pictures: Path, out: Path, *more: str) -> list[str]:
    return ["all", str(bundle), "--images", str(pictures), "--test", str(pictures), "--quick", "--out", str(out), *more]


def test_parts_run_and_one_that_fails_leaves_the_others(
    pictures_bundle: Path, labelled_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Four classes are fewer than the five candidates that accuracy asks for.
    assert main(asked(pictures_bundle, labelled_folder, tmp_path / "out", "--only", "accuracy", "footprint")) == 1
    told = json.loads((tmp_path / "out/all.json").read_text())
    assert [(part["name"], part["state"]) for part in told["parts"]] == [("accuracy", "failed"), ("footprint", "done")]
    assert told["missing"] == [{"part": "accuracy", "why": told["parts"][0]["why"]}]
    assert "rar-bench accuracy" in told["parts"][0]["why"]
    assert json.loads((tmp_path / "out/footprint.json").read_text())["heavy_modules"] == []
    html = (tmp_path / "out/report.html").read_text()
    assert "missing: accuracy" in html
    assert "Footprint" in html
    assert "missing: accuracy" in (tmp_path / "out/report.md").read_text()
    # A second run does not mix with the first.
    assert main(asked(pictures_bundle, labelled_folder, tmp_path / "out")) == 2
    assert "name a new folder" in capsys.readouterr().err


def test_ctrl_c_keeps_what_was_finished_and_says_what_was_not_reached(
    pictures_bundle: Path, labelled_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    command = asked(pictures_bundle, labelled_folder, out, "--only", "footprint", "memory", "preprocess")
    process = subprocess.Popen(
        [sys.executable, "-m", "rar.benchmarks.cli", *command], stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("== preprocess"):
            time.sleep(0.5)
            process.send_signal(signal.SIGINT)
            break
    process.communicate(timeout=300)
    assert process.returncode == 130
    told = json.loads((out / "all.json").read_text())
    assert [(part["name"], part["state"]) for part in told["parts"]] == [
        ("footprint", "done"), ("preprocess", "stopped"), ("memory", "not reached"),
    ]  # fmt: skip
    assert [one["part"] for one in told["missing"]] == ["preprocess", "memory"]
    assert "missing: memory, interrupted" in (out / "report.md").read_text()


def test_a_part_is_stopped_when_its_time_is_over(tmp_path: Path) -> None:
    outcome = _run(Part("preprocess", ["--rounds", "1000"]), tmp_path, 1.0, _Told())
    assert outcome.state == "stopped"
    assert outcome.why == "its time of 1 s was over"


def test_parts_follow_the_bundle_and_the_files(pictures_bundle: Path, labelled_folder: Path, tmp_path: Path) -> None:
    args = argparse.Namespace(
        bundle=str(pictures_bundle),
        images=str(labelled_folder),
        test=str(labelled_folder),
        boxes=None,
        quick=False,
        only=None,
    )
    found = {part.name: part.arguments for part in parts(args)}
    assert list(found) == ["accuracy", "footprint", "preprocess", "memory", "latency"]
    assert found["accuracy"][-2:] == ["--rank", "wca"]  # the bundle's own ranker
    args.boxes = "boxes.json"
    names = [part.name for part in parts(args)]
    assert (names[1], names[-1]) == ("detection", "latency")


def test_an_unknown_part_is_told(
    pictures_bundle: Path, labelled_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(asked(pictures_bundle, labelled_folder, tmp_path / "out", "--only", "detection")) == 2
    assert "detection needs --boxes" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
