"""The reports run on real bundles, and what they measure on real data holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rar.benchmarks import record
from rar.benchmarks.cli import main


def run(*arguments: str | Path, out: Path) -> dict[str, Any]:
    assert main([*map(str, arguments), "--out", str(out)]) == 0
    result: dict[str, Any] = json.loads(out.read_text())
    return result


@pytest.mark.usefixtures("pytorch")
def test_retrieval_by_name_is_within_three_points_of_the_backbones_classifier(
    starter: Path, imagenet_samples: Path, tmp_path: Path
) -> None:
    rows = run("imagenet", starter, "--samples", imagenet_samples, out=tmp_path / "result.json")["results"]
    classifier, retrieval = (
        rows[name]["top1"]["percent"] for name in ("backbone's classifier, PyTorch fp32", "retrieval by name")
    )
    assert retrieval >= classifier - 3


def test_footprint_of_a_process_that_only_recognises(
    pictures_bundle: Path, class_pictures: list[Path], tmp_path: Path
) -> None:
    result = run("footprint", pictures_bundle, class_pictures[0], "--rounds", "1", out=tmp_path / "f.json")
    assert result["heavy_modules"] == []
    assert {"numpy", "onnxruntime", "usearch"} <= set(result["install_bytes"])
    assert result["mapped_and_loaded_bytes"] > 0


def test_spread_and_share() -> None:
    assert record.spread([3.0, 1.0, 2.0]) == {"median": 2.0, "q25": 1.5, "q75": 2.5, "count": 3}
    share = record.share(np.array([True, True, True, False]))
    assert share["percent"] == 75
    assert share["standard_error"] == pytest.approx(100 * (0.75 * 0.25 / 4) ** 0.5)
