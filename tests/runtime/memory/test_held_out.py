"""What is measured on a memory's own pictures says whether the discriminant gains on new ones, and how sure it is."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from memories import bursts, unit

from rar.runtime.memory.gaussian import learn
from rar.runtime.memory.held_out import ahead, measure, sharpness


def test_where_the_pictures_of_a_class_vary_it_gains_though_each_has_a_twin() -> None:
    vectors, labels = bursts(20, 6, 1.0)
    learned = learn(vectors, labels, 20)
    assert learned is not None
    found = measure(vectors, labels, learned)
    assert found.gains
    assert found.discriminant > found.retrieval + 0.1
    assert found.pictures == 20 * 9
    # With twins in the memory, which leaving one out would keep there, the nearest neighbour is always right.
    products = vectors.astype(np.float32) @ vectors.T.astype(np.float32)
    np.fill_diagonal(products, -1)
    assert (labels[products.argmax(1)] == labels).all()


def test_where_the_nearest_neighbour_is_right_nothing_is_gained() -> None:
    vectors, labels = bursts(8, 4, 0.0)
    learned = learn(vectors, labels, 8)
    assert learned is not None
    found = measure(vectors, labels, learned)
    assert found.retrieval == 1
    assert not found.gains


@pytest.mark.parametrize("copies", [1, 2])
def test_one_picture_a_class_measures_nothing_and_guesses_how_sure_it_is(copies: int) -> None:
    vectors, labels = bursts(12, 1, 1.0)
    vectors, labels = np.repeat(vectors[::3], copies, axis=0), np.repeat(labels[::3], copies)
    learned = learn(vectors, labels, 12)
    assert learned is not None
    found = measure(vectors, labels, learned)
    assert not found.gains
    assert 0 < found.scale < np.inf


@given(st.integers(1, 6), st.lists(st.integers(-1, 5), min_size=1, max_size=24), st.integers(0, 5))
def test_whatever_the_memory_it_is_measured_or_guessed(copies: int, labels: list[int], seed: int) -> None:
    chance = np.random.default_rng(seed)
    few = unit(chance.normal(size=(copies, 7)))
    vectors, own = few[chance.integers(0, copies, len(labels))].astype(np.float16), np.array(labels, np.int32)
    learned = learn(vectors, own, 6)
    if learned is None:
        assert (own < 0).all()
        return
    found = measure(vectors, own, learned)
    assert 0 < found.scale < np.inf
    assert 0 < found.cosines < np.inf
    assert 0 <= found.retrieval <= 1
    assert 0 <= found.discriminant <= 1


def test_it_does_not_depend_on_the_order_of_the_pictures() -> None:
    vectors, labels = bursts(9, 4, 1.0)
    order = np.random.default_rng(1).permutation(len(labels))
    both = [(vectors, labels), (vectors[order], labels[order])]
    one, other = (measure(v, y, found) for v, y in both if (found := learn(v, y, 9)) is not None)
    assert one.pictures == other.pictures
    assert one.discriminant == pytest.approx(other.discriminant, abs=0.04)
    assert one.scale == pytest.approx(other.scale, rel=0.3)


def test_sharpness_gives_back_the_factor_that_the_truth_was_drawn_with() -> None:
    chance = np.random.default_rng(0)
    logits = chance.normal(size=(20_000, 5))
    chosen = (logits + chance.gumbel(size=logits.shape)).argmax(1)
    assert sharpness((logits / 3).astype(np.float32), chosen[:, None] == np.arange(5)) == pytest.approx(3, rel=0.15)


def test_ahead_needs_more_than_chance() -> None:
    before = np.zeros(9, bool)
    assert not ahead(before, before)
    assert not ahead(np.arange(9) < 1, before)
    assert ahead(np.arange(9) < 4, before)
    assert not ahead(before, np.arange(9) < 4)
