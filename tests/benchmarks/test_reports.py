"""The reports run on real bundles, and what they measure on real data holds."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rar.benchmarks import record
from rar.benchmarks.cli import main
from rar.export.cli import main as export
from rar.export.labelled import read_images


def run(*arguments: str | Path, out: Path) -> dict[str, Any]:
    assert main([*map(str, arguments), "--out", str(out)]) == 0
    result: dict[str, Any] = json.loads(out.read_text())
    return result


def test_grocery_at_64_dimensions_loses_nothing_to_exact_search(
    grocery_bundle: Path, grocery: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = run("accuracy", grocery_bundle, "--test", grocery / "test.csv", out=tmp_path / "result.json")
    rows = result["results"]
    assert abs(rows["retrieval"]["top1"]["percent"] - rows["exact search"]["top1"]["percent"]) <= 0.5
    assert rows["retrieval"]["recall"]["percent"] >= 92
    assert rows["retrieval"]["top1"]["count"] == 1242
    assert result["encoder"]["provider"] == "cpu"
    assert "retrieval" in capsys.readouterr().out


def test_ranking_tells_misses_from_errors_and_a_few_shots_from_many(
    grocery_bundle: Path, grocery: Path, tmp_path: Path
) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(grocery_bundle, bundle)
    assert export(["tune", str(bundle), "--val", str(_some(grocery, "val", 8, tmp_path))]) == 0
    common = ("ranking", bundle, "--test", _some(grocery, "test", 50, tmp_path), "--only", "mllm likelihood")
    shots = ("--train", grocery / "train.csv", "--shots", "1", "--draws", "2")
    result = run(*common, "--k", "3", "5", *shots, out=tmp_path / "result.json")
    for k in (3, 5):
        for name in ("none", "mllm likelihood"):
            row = result["results"][f"k={k}: {name}"]
            assert row["top1"]["percent"] + row["missed"] + row["misranked"] == pytest.approx(100)
        assert result["results"][f"k={k}: none"]["missed"] == result["results"][f"k={k}: mllm likelihood"]["missed"]
    assert len(result["shots"]["1 shots"]["gain"]["draws"]) == 2
    assert result["memory"]["tune"]["rank"] == "mllm"


def _some(grocery: Path, name: str, step: int, folder: Path) -> Path:
    """Every so many-th picture of a list, as a list of its own."""
    images = read_images(grocery / f"{name}.csv")[::step]
    file = folder / f"{name}.jsonl"
    rows = [json.dumps({"path": str(image.path.resolve()), "label": image.label}) for image in images]
    file.write_text("\n".join(rows))
    return file


def test_retrieval_by_name_is_within_three_points_of_the_backbones_classifier(
    starter: Path, imagenet_samples: Path, tmp_path: Path
) -> None:
    rows = run("imagenet", starter, "--samples", imagenet_samples, out=tmp_path / "result.json")["results"]
    classifier, retrieval = (
        rows[name]["top1"]["percent"] for name in ("backbone's classifier, PyTorch fp32", "retrieval by name")
    )
    assert retrieval >= classifier - 3


def test_accuracy_of_rankers_and_text_weights(pictures_bundle: Path, labelled_folder: Path, tmp_path: Path) -> None:
    common = ("accuracy", pictures_bundle, "--test", labelled_folder, "--k", "3")
    rows = run(*common, "--rank", "wca", "none", "--text-weight", "0", "1", out=tmp_path / "a.json")["results"]
    assert set(rows) == {
        "retrieval, text weight 0.0", "exact search, text weight 0.0", "retrieval, text weight 1.0",
        "exact search, text weight 1.0", "rank wca", "rank none",
    }  # fmt: skip
    # Every picture is in the memory: it finds itself.
    assert rows["retrieval, text weight 0.0"]["top1"]["percent"] == 100
    assert rows["rank none"]["top1"] == rows["retrieval, text weight 0.0"]["top1"]
    # No ranker finds what retrieval missed, or loses what it found.
    assert rows["rank wca"]["recall"] == rows["rank none"]["recall"]


def test_labels_that_the_memory_lacks_are_named(
    pictures_bundle: Path, labelled_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    listing = tmp_path / "test.csv"
    listing.write_text(f"path,label\n{labelled_folder / 'cat' / '0.jpg'},dragon\n")
    assert main(["accuracy", str(pictures_bundle), "--test", str(listing)]) == 2
    assert "'dragon'" in capsys.readouterr().err


def test_footprint_of_a_process_that_only_recognises(
    pictures_bundle: Path, class_pictures: list[Path], tmp_path: Path
) -> None:
    result = run("footprint", pictures_bundle, class_pictures[0], "--rounds", "1", out=tmp_path / "f.json")
    assert result["heavy_modules"] == []
    assert {"numpy", "onnxruntime", "usearch"} <= set(result["install_bytes"])
    assert result["mapped_and_loaded_bytes"] > 0


def test_retrieve_times_every_stage_of_both_stacks(labelled_folder: Path, tmp_path: Path) -> None:
    result = run(
        "retrieve", "--images", labelled_folder, "--memory", labelled_folder, "--batch", "1", "2", "--rounds", "1",
        out=tmp_path / "r.json",
    )  # fmt: skip
    assert [(row["batch"], row["stack"]) for row in result["results"]] == [
        (batch, stack) for batch in (1, 2) for stack in ("plain", "fp32", "int8")
    ]
    for row in result["results"]:
        assert all(row["stages_ms"][stage]["median"] > 0 for stage in ("decode", "preprocess", "embed", "search"))
    assert all(row["speedup"] == 1 for row in result["results"] if row["stack"] == "plain")
    # A number only where something measured it, and what or why not in any case.
    measured = result["power"] in ("nvml", "sysfs")
    assert measured or result["power"].startswith("no power is measured: ")
    assert all(("power" in row) == measured for row in result["results"])


def test_spread_and_share() -> None:
    assert record.spread([3.0, 1.0, 2.0]) == {"median": 2.0, "q25": 1.5, "q75": 2.5, "count": 3}
    share = record.share(np.array([True, True, True, False]))
    assert share["percent"] == 75
    assert share["standard_error"] == pytest.approx(100 * (0.75 * 0.25 / 4) ** 0.5)
