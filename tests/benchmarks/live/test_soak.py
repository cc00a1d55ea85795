"""The soak really runs: a camera in another process, changes beside it, and nothing uncounted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rar.benchmarks.cli import main
from rar.benchmarks.live.command import Seen, _summary

pytest.importorskip("av")


@pytest.mark.parametrize("policy", ["latest", "every"])
def test_a_short_one(pictures_bundle: Path, class_pictures: list[Path], tmp_path: Path, policy: str) -> None:
    before = {path: path.stat().st_mtime_ns for path in pictures_bundle.rglob("*")}
    out = tmp_path / "soak.json"
    argv = ["soak", str(pictures_bundle), str(class_pictures[0]), str(class_pictures[-1]), "--minutes", "0.1"]
    main([*argv, "--policy", policy, "--threads", "1", "--provider", "cpu", "--out", str(out)])
    result = json.loads(out.read_text())
    assert result["answered"] > 0
    assert (result["errors"], result["uncounted"], result["reconnects"]) == (0, 0, 0)
    assert result["changes"] > 0
    assert 0 < result["p50_ms"] <= result["p99_ms"] <= result["max_ms"]
    assert policy == "latest" or result["dropped"] == 0
    assert {path: path.stat().st_mtime_ns for path in pictures_bundle.rglob("*")} == before


@pytest.mark.parametrize(
    ("resident", "handles", "flat"),
    [
        ([100] * 50, [20] * 50, True),
        ([50] * 10 + [100] * 40, [20] * 50, True),  # what is made once
        ([100 + 3 * i for i in range(50)], [20] * 50, False),
        ([100] * 50, [20 + i // 2 for i in range(50)], False),
    ],
)
def test_growth_is_told(resident: list[int], handles: list[int], flat: bool) -> None:
    seen = Seen([0.1], 1, resident=[2**20 * one for one in resident], handles=handles)
    assert _summary(seen, 0)["flat"] == flat


def test_what_is_missing_and_was_not_counted_is_told() -> None:
    seen = Seen([0.1], 1, missing=5, resident=[1], handles=[1])
    assert [_summary(seen, dropped)["uncounted"] for dropped in (0, 3, 5, 9)] == [5, 2, 0, 0]


@pytest.mark.parametrize("options", [["--minutes", "0"], ["--fps", "0"], ["--minutes", "nan"]])
def test_settings_that_cannot_be(pictures_bundle: Path, options: list[str]) -> None:
    assert main(["soak", str(pictures_bundle), *options]) == 2
