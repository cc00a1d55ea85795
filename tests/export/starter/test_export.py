"""The starter bundle: real weights, real photos, the whole path."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rar.export.inspect.bundle import describe, verify
from rar.export.pictures.labelled import read_images
from rar.export.starter.classes import imagenet_classes
from rar.runtime import Bundle, Recognizer


def test_imagenet_names_are_distinct_and_in_the_classifiers_order() -> None:
    names, definitions = imagenet_classes()
    assert len(set(names)) == len(definitions) == 1000
    # Positions as in ILSVRC 2012: 285 is the Egyptian cat, 517 the machine and 134 the bird named crane.
    assert names[285] == "Egyptian cat"
    assert names[134] != names[517]
    assert names[134].startswith("crane")
    assert names[517].startswith("crane")


@pytest.mark.parametrize("rank", ["none", "wca", "mllm"])
def test_shipped_photos_are_recognised(starter: Path, photos: list[Path], rank: str) -> None:
    expected = {
        "chelsea.png": {"Egyptian cat"},
        "china.jpg": {"palace"},
        "coffee.png": {"espresso", "espresso maker"},
        "motorcycle_left.png": {"moped", "motor scooter"},
        "rocket.jpg": {"missile", "projectile"},
    }
    paths = [path for path in photos if path.name in expected]
    results = Recognizer.open(starter, "cpu").recognize(paths, k=5, rank=rank)  # type: ignore[arg-type]
    for path, result in zip(paths, results, strict=True):
        assert result.label in expected[path.name]


def test_it_passes_its_own_verification(starter: Path) -> None:
    lines = list(verify(starter))
    assert any("find themselves" in line for line in lines)
    assert any(line.startswith("mllm: ranks") for line in lines)
    assert "EfficientNet-Lite2" in describe(Bundle.open(starter))


def test_its_mllm_sees_by_the_retrieval_encoders_own_pass(starter: Path) -> None:
    bundle = Bundle.open(starter)
    info = bundle.component("mllm").info
    assert info["vision_input"] == "image_features"
    assert info["encoder"] == bundle.component("clip").fingerprint
    assert info["adapter"] == {**info["adapter"], "lora": True, "projector": True}


def test_its_quantised_mllm_has_a_recorded_cost(starter: Path) -> None:
    logits = Bundle.open(starter).component("mllm").info["parity"]["logits"]
    assert 0.8 <= logits["top1"] <= 1
    assert 0 < logits["kl"] < 0.2


def test_ranking_lifts_retrieval_on_pictures_it_was_not_trained_on(grocery_bundle: Path, grocery: Path) -> None:
    images = read_images(grocery / "test.csv")[::8]
    results = Recognizer.open(grocery_bundle, "cpu").recognize([image.path for image in images], rank="mllm")
    retrieved = np.mean([r.retrieved[0].label == i.label for r, i in zip(results, images, strict=True)])
    ranked = np.mean([r.label == i.label for r, i in zip(results, images, strict=True)])
    assert all(result.ranked_by == "mllm" for result in results)
    assert ranked > retrieved + 0.08


def test_quantised_ranges_come_with_a_recorded_cost(starter: Path) -> None:
    parity = Bundle.open(starter).component("clip").info["parity"]
    assert 0.9 <= parity["visual"]["min"] <= parity["visual"]["mean"] < 1
    assert parity["tokenizer"] == {"equal": 1000, "count": 1000}
    assert parity["preprocess"]["max_difference"] == 0
