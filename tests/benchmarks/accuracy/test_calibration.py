"""Reliability against scikit-learn, and scales that are fitted where nothing is measured."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rar.benchmarks.accuracy.calibration import calibration, confidences, fit_scale, reliability


@given(st.integers(1, 400), st.integers(1, 20), st.integers(0, 2**32 - 1))
def test_bins_agree_with_scikit_learn(count: int, bins: int, seed: int) -> None:
    metrics = pytest.importorskip("sklearn.calibration")
    chance = np.random.default_rng(seed)
    # Coarse values fall on the edges of bins.
    confidence = np.round(chance.random(count), int(chance.integers(1, 4)))
    right = chance.random(count) < confidence
    found = reliability(confidence, right, bins)
    accuracy, mean = metrics.calibration_curve(right, confidence, n_bins=bins, strategy="uniform")
    assert [row["accuracy"] for row in found["bins"]] == pytest.approx(100 * accuracy)
    assert [row["confidence"] for row in found["bins"]] == pytest.approx(100 * mean)
    counts = np.array([row["count"] for row in found["bins"]])
    assert found["ece"] == pytest.approx(100 * float((counts * np.abs(accuracy - mean)).sum()) / count)
    assert found["brier"] == pytest.approx(float(np.square(confidence - right).mean()))


def test_expected_calibration_error_by_hand() -> None:
    # Two at 0.9 of which one is right: a gap of 40 points; two at 0.3 of which none is: 30.
    found = reliability(np.array([0.9, 0.9, 0.3, 0.3]), np.array([True, False, False, False]), bins=2)
    assert found["ece"] == pytest.approx((2 * 40 + 2 * 30) / 4)
    assert [(row["low"], row["high"], row["count"]) for row in found["bins"]] == [(0, 50, 2), (50, 100, 2)]


def test_confidence_is_the_softmax_of_the_best() -> None:
    scores = np.log(np.array([[0.7, 0.2, 0.1], [0.25, 0.25, 0.5]]))
    assert confidences(scores, 1.0) == pytest.approx([0.7, 0.5])
    assert confidences(scores + 1e4, 1.0) == pytest.approx([0.7, 0.5])  # shifts change nothing and overflow nothing


def test_the_scale_of_scores_that_tell_the_truth_is_found() -> None:
    chance = np.random.default_rng(0)
    logits = chance.normal(0, 2, (20_000, 4))
    share = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    answers = (share.cumsum(1) > chance.random((len(share), 1))).argmax(1)
    right = answers == logits.argmax(1)
    # The scores are the true logits divided by 30.
    assert fit_scale(logits / 30, right) == pytest.approx(30, rel=0.1)
    found = calibration(logits / 30, right, scale=1.0)
    assert found["as_is"]["ece"] > 25
    assert found["fitted"]["ece"] < 2


def test_too_few_pictures_are_not_rescaled() -> None:
    found = calibration(np.array([[2.0, 1.0]] * 3), np.array([True, True, False]), scale=1.0)
    assert found["fitted"] is None
    assert found["as_is"]["bins"][0]["count"] == 3
