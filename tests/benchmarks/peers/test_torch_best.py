"""PyTorch at its best: what the trial measures, which program it chooses, and that it does the same work."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rar.benchmarks.peers import stacks, torch_best
from rar.benchmarks.peers.pytorch import Terms
from rar.benchmarks.peers.torch_best import RECIPES, Pictures, Recipe
from rar.runtime import Bundle, RarError
from rar.runtime.picture.load import load_image
from rar.runtime.picture.preprocess import Preprocess
from rar.runtime.stages import recorded

pytestmark = pytest.mark.usefixtures("pytorch")


@pytest.fixture
def terms(openclip_terms: Terms, class_pictures: list[Path]) -> Terms:
    stacks.prepare(openclip_terms, [])
    return replace(openclip_terms, pictures=tuple(class_pictures[:3]))


def at_fp32(*names: str) -> tuple[Recipe, ...]:
    return tuple(recipe for recipe in RECIPES if recipe.name in names and recipe.precision == "fp32")


def test_what_the_trial_chose_finds_the_pictures_of_the_memory_and_says_what_it_is(
    terms: Terms, class_pictures: list[Path]
) -> None:
    # Compiling takes minutes on some machines; `frozen` is stored and loaded like it.
    torch_best.prepare(terms, at_fp32("eager", "frozen"), (1, 4))
    opened = torch_best.open_best(terms)
    with recorded() as seconds:
        found = opened.answer(class_pictures, 4)
    assert found == [path.parent.name for path in class_pictures]
    assert found[:1] == opened.answer(class_pictures[:1], 1)
    assert set(seconds) == {"decode", "preprocess", "embed", "search"}
    says = opened.says()
    assert list(opened.batches) == [1, 4]
    assert [(row["way"], row["batch"]) for row in says["trial"]] == [
        ("eager", 1), ("frozen", 1), ("eager", 4), ("frozen", 4),
    ]  # fmt: skip
    for row in says["trial"]:
        assert row["ms"] > 0
        assert row["cosine"] == pytest.approx(1, abs=1e-4)
        assert says["runs"][str(row["batch"])]["ms"] <= row["ms"]


def test_a_way_that_fails_is_told_and_leaves_the_others(terms: Terms) -> None:
    absent = Recipe("other", "int8", torch_best.write_nothing, torch_best.read_compiled, ("no_such_module", "no-such"))
    broken = replace(absent, name="broken", needs=None)  # its empty file is no library
    torch_best.prepare(terms, (*at_fp32("eager"), absent, broken), (1,))
    says = torch_best.open_best(terms).says()
    reasons = {row["way"]: row.get("reason") for row in says["trial"]}
    assert reasons["other"] == "not installed: pip install no-such"
    assert "Error" in str(reasons["broken"])
    assert says["runs"]["1"]["way"] == "eager"
    with pytest.raises(RarError, match=r"no way to run the encoder was found: .*no-such"):
        torch_best.open_best(terms, ("int8",))


def test_the_fastest_that_does_the_same_work_is_chosen_by_batch_and_precision() -> None:
    def row(way: str, precision: str, batch: int, ms: float, cosine: float = 1.0) -> dict[str, Any]:
        return {"way": way, "precision": precision, "batch": batch, "ms": ms, "cosine": cosine}

    rows = [
        {"way": "compiled", "precision": "int8", "reason": "not installed"},
        row("eager", "fp32", 1, 9.0),
        row("frozen", "fp32", 1, 5.0),
        row("frozen", "bf16", 1, 3.0, 0.999),
        row("compiled", "int8", 1, 1.0, 0.5),  # fast, and wrong
        row("eager", "fp32", 8, 20.0),
        row("frozen", "fp32", 8, 30.0),
    ]
    any_precision = torch_best.chosen(rows)
    assert {size: one["ms"] for size, one in any_precision.items()} == {1: 3.0, 8: 20.0}
    assert {size: one["ms"] for size, one in torch_best.chosen(rows, ("fp32",)).items()} == {1: 5.0, 8: 20.0}


def test_torchvision_prepares_pictures_as_the_bundle_does(terms: Terms, class_pictures: list[Path]) -> None:
    settings = Bundle.open(terms.bundle).read_json("clip", "preprocess.json")
    ours = Preprocess.from_dict(settings)([load_image(path) for path in class_pictures])
    theirs = Pictures.of(terms)(class_pictures).numpy()
    levels = np.abs(theirs - ours) * 255 * np.array(settings["std"]).reshape(3, 1, 1)
    # JPEGs are decoded by another build, and its resizing rounds otherwise.
    assert levels.mean() < 0.5
    assert levels.max() < 4


def test_without_pictures_nothing_can_be_tried(terms: Terms) -> None:
    with pytest.raises(RarError, match="no pictures"):
        torch_best.prepare(replace(terms, pictures=()), at_fp32("eager"), (1,))
