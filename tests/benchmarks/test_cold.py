"""Scoring of vectors that are not in memory: it waits for few pages, and says where it cannot be measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rar.benchmarks.cli import main


def test_a_short_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "cold.json"
    argv = ["cold", "--entries", "40000", "--searches", "5", "--work", str(tmp_path), "--out", str(out)]
    if main(argv) == 2:
        assert "its files stay in memory" in capsys.readouterr().err
        pytest.skip("temporary files are in memory here")
    result = json.loads(out.read_text())
    waited = result["pages_waited_for"]
    assert waited["ours"] < 4 < waited["row after row"]
    assert result["ratio"]["p50"] == pytest.approx(
        result["cold_ms"]["row after row"]["p50"] / result["cold_ms"]["ours"]["p50"]
    )
    assert list(tmp_path.iterdir()) == [out]


def test_settings_that_cannot_be() -> None:
    assert main(["cold", "--entries", "10"]) == 2
