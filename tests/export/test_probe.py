"""The gate's probe against scikit-learn's discriminant analysis."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from rar.export.probe import fit_probe
from rar.runtime.memory import Candidate
from rar.runtime.probe import Probe
from rar.runtime.rank import Query


def query(embedding: np.ndarray, *labels: str) -> Query:
    pixels = np.zeros((1, 1, 3), np.uint8)
    return Query(pixels, embedding.astype(np.float32), [Candidate(label, 0.5) for label in labels])


def clusters(seed: int, classes: int, each: int, dim: int) -> tuple[np.ndarray, np.ndarray]:
    chance = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes, dtype=np.int32), each)
    vectors = chance.normal(size=(classes, dim))[labels] + chance.normal(size=(len(labels), dim)) * chance.uniform(
        0.2, 2, dim
    )
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16), labels


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), classes=st.integers(2, 6), each=st.integers(2, 9), dim=st.integers(2, 24))
def test_it_is_the_shrunk_discriminant_of_scikit_learn(seed: int, classes: int, each: int, dim: int) -> None:
    vectors, labels = clusters(seed, classes, each, dim)
    names = [f"class {i}" for i in range(classes)]
    probe = fit_probe(vectors, labels, names)
    assert probe is not None
    assert probe.labels == names
    reference = LinearDiscriminantAnalysis("lsqr", shrinkage=0.2, priors=np.full(classes, 1 / classes))
    reference.fit(vectors.astype(np.float64), labels)
    asked = vectors.astype(np.float64)
    # With two classes scikit-learn gives one column, the second's log-odds.
    logits = reference.decision_function(asked).reshape(len(asked), -1)
    if classes == 2:
        logits = np.hstack([np.zeros_like(logits), logits])
    own = logits[np.arange(len(asked)), 0]
    expected = own - np.delete(logits, 0, axis=1).max(1)
    margins = probe.margins([query(vector, names[0]) for vector in vectors])
    assert margins == pytest.approx(expected, rel=1e-3, abs=1e-3 * np.abs(logits).max())


def test_what_was_removed_does_not_count() -> None:
    vectors, labels = clusters(0, 3, 5, 8)
    without = fit_probe(vectors[:10], labels[:10], ["a", "b", "c"])
    labels[10:] = -1
    probe = fit_probe(vectors, labels, ["a", "b", "c"])
    assert probe is not None
    assert without is not None
    assert probe.labels == without.labels == ["a", "b"]
    assert np.array_equal(probe.weights, without.weights)


@pytest.mark.parametrize("counts", [[5], [1, 1, 1], [0, 4]])
def test_nothing_is_fitted_where_nothing_tells_classes_apart(counts: list[int]) -> None:
    vectors, labels = clusters(0, 3, 5, 8)
    rows = np.concatenate([np.flatnonzero(labels == label)[:count] for label, count in enumerate(counts)])
    assert fit_probe(vectors[rows], labels[rows], ["a", "b", "c"]) is None


def test_a_class_it_does_not_know_is_never_sure() -> None:
    probe = Probe(["a", "b"], np.eye(2, dtype=np.float32), np.zeros(2, np.float32))
    known = query(np.array([1.0, 0.0]), "a", "b")
    margins = probe.margins([known, replace(known, candidates=[Candidate("new", 0.9)]), query(np.ones(2), "b", "a")])
    assert margins.tolist() == [1.0, -np.inf, 0.0]
