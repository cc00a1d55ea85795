"""`rar-bench added-classes`: real memories that grow by classes, measured before and after compaction."""

import json
from pathlib import Path

import pytest

from rar.benchmarks.cli import main


def test_new_and_old_classes_are_measured_as_they_are_added_and_after_compaction(
    tiny_bundle: Path, labelled_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (tiny_bundle / "bundle.json").read_bytes()
    out, pictures = tmp_path / "found.json", str(labelled_folder)
    given = ["--train", pictures, "--test", pictures, "--left-out", "2", "--draws", "2", "--shots", "2", "--k", "2"]
    assert main(["added-classes", str(tiny_bundle), *given, "--provider", "cpu", "--out", str(out)]) == 0
    assert (tiny_bundle / "bundle.json").read_bytes() == before
    found = json.loads(out.read_text())
    assert len(found["rows"]) == 2
    for row in found["rows"]:
        assert len(row["classes"]) == 2
        assert row["added_pictures"] == 4
        for when in ("added", "compacted"):
            assert (row[when]["new"]["pictures"], row[when]["old"]["pictures"]) == (6, 6)
            # The old ones are in the memory as they are: each finds itself.
            assert row[when]["old"]["retrieval"] == 100
            assert all(0 <= row[when][kind]["drawn_in_k"] <= 100 for kind in ("new", "old"))
    assert found["mean"]["added"]["old"]["retrieval"] == 100
    assert "mean: new, added: retrieval" in capsys.readouterr().out
