"""The starter bundle: real weights, real photos, the whole path."""

from __future__ import annotations

from pathlib import Path

import pytest

from rar.export.inspect import describe, verify
from rar.export.starter import imagenet_classes
from rar.runtime import Bundle, Recognizer


def test_imagenet_names_are_distinct_and_in_the_classifiers_order() -> None:
    names, definitions = imagenet_classes()
    assert len(set(names)) == len(definitions) == 1000
    # Positions as in ILSVRC 2012: 285 is the Egyptian cat, 517 the machine and 134 the bird named crane.
    assert names[285] == "Egyptian cat"
    assert names[134] != names[517]
    assert names[134].startswith("crane")
    assert names[517].startswith("crane")


@pytest.mark.parametrize("rank", ["none", "wca"])
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
    assert any("find themselves" in line for line in verify(starter))
    assert "EfficientNet-Lite2" in describe(Bundle.open(starter))


def test_quantised_ranges_come_with_a_recorded_cost(starter: Path) -> None:
    parity = Bundle.open(starter).component("clip").info["parity"]
    assert 0.9 <= parity["visual"]["min"] <= parity["visual"]["mean"] < 1
    assert parity["tokenizer"] == {"equal": 1000, "count": 1000}
    assert parity["preprocess"]["max_difference"] == 0
