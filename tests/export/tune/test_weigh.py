"""The weight of the texts is fitted where it gains beyond chance, and stays otherwise."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from rar.export.interchange import Embeddings
from rar.export.memory.build import MemorySource, build_memory
from rar.export.pictures.labelled import read_images
from rar.export.tune.fit import tune
from rar.export.tune.weigh import fit_weighing
from rar.runtime import Bundle, Memory, Recognizer
from rar.runtime.encoder.clip import Clip

Floats = npt.NDArray[np.float32]
CLASSES = [f"class {letter}" for letter in "abcdefgh"]


@pytest.fixture
def own(tiny_bundle: Path, writable: Callable[[Path], Path]) -> Path:
    return writable(tiny_bundle)


def fill(root: Path, noise: float, text_weight: float, seed: int = 0) -> tuple[Floats, list[str]]:
    """A memory of pictures that lie around their class's name, as far as `noise` says; queries lie close to it."""
    names = Clip(Bundle.open(root), "cpu").embed_names(CLASSES)
    chance = np.random.default_rng(seed)

    def around(spread: float, each: int) -> tuple[Floats, list[str]]:
        vectors = np.repeat(names, each, 0) + spread * chance.normal(size=(8 * each, 32)) / 32**0.5
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32), [
            name for name in CLASSES for _ in range(each)
        ]

    pictures, labels = around(noise, 4)
    source = MemorySource(embeddings=Embeddings.of(pictures, labels), classes=CLASSES)
    build_memory(Bundle.open(root), source, "none", text_weight=text_weight, provider="cpu")
    return around(0.3, 40)


def test_names_that_say_more_than_the_pictures_get_weight(own: Path) -> None:
    queries, truth = fill(own, noise=3.0, text_weight=0.0)
    fitted = fit_weighing(own, queries, truth)
    assert fitted is not None
    assert fitted.text_weight > 0
    assert fitted.top1 > fitted.before
    memory = Memory.open(own, fitted.text_weight, centred=fitted.centred)
    hits = [row[0].label == label for row, label in zip(memory.search(queries, 1), truth, strict=True)]
    assert fitted.top1 == round(100 * float(np.mean(hits)), 2)


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_nothing_changes_where_nothing_gains(own: Path, weight: float) -> None:
    queries, truth = fill(own, noise=0.0, text_weight=weight)  # every picture is its class's name
    exact = np.repeat(Clip(Bundle.open(own), "cpu").embed_names(CLASSES), 5, 0)
    fitted = fit_weighing(own, exact, [name for name in CLASSES for _ in range(5)])
    assert fitted is not None
    assert (fitted.text_weight, fitted.centred, fitted.top1, fitted.before) == (weight, False, 100.0, 100.0)
    assert len(queries) == len(truth)


def test_a_few_pictures_change_nothing(own: Path) -> None:
    """Three that are right by another weight are within chance."""
    queries, truth = fill(own, noise=3.0, text_weight=0.0)
    memory = Memory.open(own)
    wrong = [i for i, row in enumerate(memory.search(queries, 1)) if row[0].label != truth[i]][:3]
    fitted = fit_weighing(own, queries[wrong], [truth[i] for i in wrong])
    assert fitted is not None
    assert fitted.text_weight == 0


def test_a_memory_of_names_alone_has_nothing_to_weigh(names_bundle: Path) -> None:
    assert fit_weighing(names_bundle, np.eye(32, dtype=np.float32)[:2], ["cat", "rocket"]) is None


def test_tune_stores_what_the_recognizer_then_uses(own: Path, labelled_folder: Path) -> None:
    """Pictures under the wrong names: the texts cannot be worse."""
    images = read_images(labelled_folder)
    clip = Clip(Bundle.open(own), "cpu")
    names = sorted({image.label for image in images})
    wrong = clip.embed_names([*names[1:], names[0]])
    source = MemorySource(embeddings=Embeddings.of(wrong, names), classes=names)
    build_memory(Bundle.open(own), source, "none", text_weight=0.0, provider="cpu")
    many = images * 5
    tuned = tune(own, many, k=2, provider="cpu")
    info = Bundle.open(own).component("memory").info
    weighing = tuned.measured["weighing"]
    assert (info["text_weight"], info["centred"]) == (weighing["text_weight"], weighing["centred"])
    results = Recognizer.open(own, "cpu").recognize([image.path for image in many], k=1, rank="none")
    right = [result.label == image.label for result, image in zip(results, many, strict=True)]
    assert round(100 * float(np.mean(right)), 2) == tuned.measured["retrieval"] == weighing["top1"]
