"""The load test really runs: a server, clients in a process of their own, changes beside them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rar.benchmarks.cli import main
from rar.benchmarks.serve.command import Beside, Round, summary

pytest.importorskip("uvicorn")


def test_a_short_one(pictures_bundle: Path, class_pictures: list[Path], tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in pictures_bundle.rglob("*")}
    out = tmp_path / "serve.json"
    argv = ["serve", str(pictures_bundle), *map(str, class_pictures), "--clients", "4", "--seconds", "3"]
    main([*argv, "--rounds", "1", "--threads", "1", "--provider", "cpu", "--out", str(out)])
    result = json.loads(out.read_text())
    assert (result["wrong"], result["failed"], result["refused"]) == (0, None, 0)
    assert result["requests"] > 4
    assert result["changes"] > 0
    assert 0 < result["p50_ms"] <= result["p99_ms"] <= result["max_ms"]
    assert result["ratio"]["median"] == pytest.approx(result["served"][0] / result["offline"][0])
    assert 1 <= result["batch"]["median"] <= 4
    assert {path: path.stat().st_mtime_ns for path in pictures_bundle.rglob("*")} == before


def seen(**others: Any) -> dict[str, Any]:
    return {"latencies": [0.1] * 20, "batches": [8] * 20, "wrong": 0, "refused": 0, "failed": None, **others}


def test_what_is_wrong_is_told() -> None:
    flat = Beside(3, None, [100 * 2**20] * 50)
    good = summary([Round(40.0, 38.0, seen())], flat)
    assert (good["flat"], good["failed"], good["ratio"]["median"]) == (True, None, 0.95)
    assert good["p99_batches"] == pytest.approx(0.1 / (8 / 40))
    growing = Beside(3, None, [i * 2**20 for i in range(200)])
    assert not summary([Round(40.0, 38.0, seen())], growing)["flat"]
    assert summary([Round(40.0, 38.0, seen(wrong=2))], flat)["wrong"] == 2
    assert summary([Round(40.0, 38.0, seen(failed="reset"))], flat)["failed"] == "reset"
    assert summary([Round(40.0, 38.0, seen())], Beside(0, "409", [1]))["failed"] == "409"


@pytest.mark.parametrize("options", [["--clients", "0"], ["--seconds", "nan"], ["--rounds", "0"], ["nowhere.jpg"]])
def test_settings_that_cannot_be(pictures_bundle: Path, options: list[str]) -> None:
    assert main(["serve", str(pictures_bundle), *options]) == 2
