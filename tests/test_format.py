"""A bundle that is written by hand from `docs/format.md` alone is accepted."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from by_hand import WIDTH, write_bundle

from rar.export.cli import main
from rar.runtime import Memory


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "bundle")


def test_verify_accepts_it(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(root)]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "manifest: clip, memory"
    assert out[-1] == "recognizer: opens"
    assert sum("find themselves" in line for line in out) == 2


def test_its_log_is_read(root: Path) -> None:
    memory = Memory.open(root)
    assert memory.labels == ["cat", "hound", "owl"]
    assert memory.tags == {"animal": ["cat", "hound"]}
    vector = np.full((1, WIDTH), WIDTH**-0.5, np.float32)
    (found,) = Memory.open(root, text_weight=0.0).search(vector, k=1)
    assert [candidate.label for candidate in found] == ["owl"]
    assert found[0].entry is not None
    assert found[0].entry.source == "night.jpg"


def test_it_can_be_changed_and_compacted(root: Path) -> None:
    assert main(["remove", str(root), "owl"]) == 0
    assert main(["compact", str(root)]) == 0
    assert main(["verify", str(root)]) == 0
    assert Memory.open(root).labels == ["cat", "hound"]


def test_every_word_of_it_is_read(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What MUST be there, taken away, is refused."""
    manifest = json.loads((root / "bundle.json").read_text())
    needed = {
        "clip": ["dim", "templates", "clean", "precision"],
        "memory": ["encoder", "text_weight", "pool", "pictures", "texts"],
    }
    for component, keys in needed.items():
        for key in keys:
            without = json.loads(json.dumps(manifest))
            del without["components"][component]["info"][key]
            (root / "bundle.json").write_text(json.dumps(without))
            assert main(["verify", str(root)]) == 2, key
            assert len(capsys.readouterr().err.splitlines()) == 1
