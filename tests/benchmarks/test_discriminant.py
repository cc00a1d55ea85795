"""`rar-bench discriminant`: a made-up memory is fitted by another process, and ranked by."""

import json
from pathlib import Path

import pytest

from rar.benchmarks.cli import main


def test_bytes_and_times_are_those_of_the_memory_that_was_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--entries", "1200", "--dim", "24", "--classes", "40", "--k", "3"]
    out = tmp_path / "found.json"
    assert main(["discriminant", *given, "--work", str(tmp_path), "--out", str(out)]) == 0
    found = json.loads(out.read_text())
    assert found["vector_bytes"] == pytest.approx(1200 * 24 * 2, abs=200)
    assert found["discriminant_bytes"] >= 4 * (40 * 24 + 24 * 24 + 40)
    assert found["discriminant"]["classes"] == 40
    assert found["peak_bytes"] >= found["before_bytes"] > 0
    assert 0 < found["microseconds"]["p50"] <= found["microseconds"]["p99"]
    assert "3 candidates p50" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["found.json"]
