"""What is learned of the pictures equals the plain computation, and never breaks on what there is too little of."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from memories import unit

from rar.runtime.memory import gaussian
from rar.runtime.memory.gaussian import SHRINKAGE, learn

Doubles = npt.NDArray[np.float64]


def pictures(counts: list[int], width: int, seed: int = 0) -> tuple[npt.NDArray[np.float16], npt.NDArray[np.int32]]:
    """Clusters of unit vectors, shuffled."""
    chance = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    stretched = np.geomspace(1, 0.05, width)
    raw = chance.normal(size=(len(counts), width))[labels] + stretched * chance.normal(size=(len(labels), width))
    order = chance.permutation(len(labels))
    return unit(raw)[order].astype(np.float16), labels[order]


def plainly(vectors: Doubles, labels: npt.NDArray[np.int32], covariance: str) -> tuple[Doubles, Doubles]:
    """The covariance as it is defined, and its shrunk inverse."""
    means = np.stack([vectors[labels == label].mean(0) for label in range(labels.max() + 1)])
    about = vectors - (means[labels] if covariance == "within" else vectors.mean(0))
    common = about.T @ about / len(vectors)
    sphere = np.trace(common) / len(common) * np.eye(len(common))
    return common, np.linalg.inv((1 - SHRINKAGE) * common + SHRINKAGE * sphere)


@pytest.mark.parametrize(("counts", "width"), [([30, 20, 40], 12), ([3, 2, 4], 40), ([5, 1, 1, 9], 16)])
def test_the_precision_is_the_shrunk_covariance_s_inverse(counts: list[int], width: int) -> None:
    vectors, labels = pictures(counts, width)
    learned = learn(vectors, labels, len(counts))
    assert learned is not None
    assert learned.covariance == "within"
    common, precision = plainly(vectors.astype(np.float64), labels, "within")
    own = learned.gaussian
    np.testing.assert_allclose(own.floor * np.eye(width) - own.factor.T @ own.factor, precision, atol=1e-4 * own.floor)
    free = len(labels) - len(counts)
    assert own.effective == pytest.approx(np.trace(precision @ common) * len(labels) / free, rel=1e-3)
    np.testing.assert_allclose(
        own.product(own.centre + np.eye(width, dtype=np.float32)), precision, atol=1e-3 * own.floor
    )


def test_the_directions_that_are_not_kept_are_taken_as_equal(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, labels = pictures([30, 30], 12)
    monkeypatch.setattr(gaussian, "_DIRECTIONS", 4)
    learned = learn(vectors, labels, 2)
    assert learned is not None
    common, _ = plainly(vectors.astype(np.float64), labels, "within")
    values, basis = np.linalg.eigh(common)
    values[:8] = values[:8].mean()
    levelled = (basis * values) @ basis.T
    precision = np.linalg.inv((1 - SHRINKAGE) * levelled + SHRINKAGE * values.mean() * np.eye(12))
    own = learned.gaussian
    assert own.factor.shape == (4, 12)
    np.testing.assert_allclose(own.floor * np.eye(12) - own.factor.T @ own.factor, precision, atol=1e-4 * own.floor)


@pytest.mark.parametrize("counts", [[1] * 9, [1, 1, 1, 2], [7]])
def test_with_less_than_two_pictures_a_class_it_is_the_covariance_of_all(counts: list[int]) -> None:
    vectors, labels = pictures(counts, 6)
    learned = learn(vectors, labels, len(counts))
    assert learned is not None
    assert learned.covariance == ("within" if counts == [7] else "total")
    _, precision = plainly(vectors.astype(np.float64), labels, learned.covariance)
    own = learned.gaussian
    np.testing.assert_allclose(own.floor * np.eye(6) - own.factor.T @ own.factor, precision, atol=1e-4 * own.floor)


def test_blocks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, labels = pictures([9, 14, 3], 8)
    whole = learn(vectors, labels, 3)
    monkeypatch.setattr(gaussian, "_BLOCK", 5)
    parts = learn(vectors, labels, 3)
    assert whole is not None
    assert parts is not None
    np.testing.assert_allclose(parts.means, whole.means, atol=1e-6)
    np.testing.assert_allclose(abs(parts.gaussian.factor), abs(whole.gaussian.factor), rtol=1e-3, atol=1e-3)


def test_removed_entries_and_classes_without_pictures_do_not_count() -> None:
    vectors, labels = pictures([6, 6, 6], 8)
    kept = labels != 1
    some = learn(vectors, np.where(kept, labels, -1).astype(np.int32), 4)
    only = learn(vectors[kept], labels[kept], 3)
    assert some is not None
    assert only is not None
    assert some.counts.tolist() == [6, 0, 6, 0]
    np.testing.assert_allclose(some.gaussian.centre, only.gaussian.centre, atol=1e-6)
    assert some.gaussian.floor == pytest.approx(only.gaussian.floor)
    assert learn(vectors, np.full(18, -1, np.int32), 3) is None


@st.composite
def memories(draw: st.DrawFn) -> tuple[npt.NDArray[np.float16], npt.NDArray[np.int32], int]:
    """Any pictures: one class, one picture a class, copies of one picture, fewer pictures than dimensions."""
    classes, width = draw(st.integers(1, 5)), draw(st.integers(1, 12))
    labels = np.array(draw(st.lists(st.integers(0, classes - 1), min_size=1, max_size=30)), np.int32)
    chance = np.random.default_rng(draw(st.integers(0, 9)))
    few = unit(chance.normal(size=(draw(st.integers(1, 12)), width)) + 0.01)  # several pictures are copies
    return few[chance.integers(0, len(few), len(labels))].astype(np.float16), labels, classes


@given(memories())
def test_whatever_the_pictures_all_is_finite_and_the_precision_positive(
    memory: tuple[npt.NDArray[np.float16], npt.NDArray[np.int32], int],
) -> None:
    vectors, labels, classes = memory
    learned = learn(vectors, labels, classes)
    assert learned is not None
    own, there = learned.gaussian, learned.counts > 0
    precision: Any = own.floor * np.eye(vectors.shape[1]) - own.factor.T.astype(np.float64) @ own.factor
    assert np.linalg.eigvalsh(precision)[0] > -1e-4 * own.floor
    weights, bias = own.planes(learned.means[there], learned.counts[there])
    assert np.isfinite(weights).all()
    assert np.isfinite(bias).all()
    assert 0 <= own.effective < np.inf


def test_a_class_of_one_picture_is_not_at_a_disadvantage_against_one_of_many() -> None:
    chance = np.random.default_rng(0)
    width, many = 96, 60
    centres = chance.normal(size=(12, width))
    labels = np.concatenate([np.repeat(np.arange(11), many), [11]]).astype(np.int32)
    vectors = unit(centres[labels] + 2.5 * chance.normal(size=(len(labels), width))).astype(np.float16)
    learned = learn(vectors, labels, 12)
    assert learned is not None
    weights, bias = learned.gaussian.planes(learned.means, learned.counts)
    shown = unit(centres[11] + 2.5 * chance.normal(size=(400, width)))
    found = (shown @ weights.T + bias).argmax(1) == 11
    # What the mean of few pictures overshoots by, left in.
    blind = bias - 0.5 * learned.gaussian.effective / learned.counts
    assert found.mean() > (shown @ weights.T + blind).argmax(1).tolist().count(11) / 400 + 0.1
