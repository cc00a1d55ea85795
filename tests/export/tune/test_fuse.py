"""Fusion by likelihood is the optimum that it says it is, and a ranker that gains nothing is off."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from judgements import cases, judged

from rar.export.tune.fuse import Sum, fit_first, fit_fused, fit_sum, settle
from rar.export.tune.judged import Judged
from rar.runtime import Candidate
from rar.runtime.rank.protocol import Ranking, Weights

Floats = npt.NDArray[np.float32]


def drawn(
    weights: list[float], count: int = 4000, k: int = 5, seed: int = 0
) -> tuple[list[Floats], npt.NDArray[np.bool_]]:
    """Scores of several kinds, and truths that were drawn from the softmax of their weighted sum."""
    chance = np.random.default_rng(seed)
    kinds = [chance.normal(size=(count, k)).astype(np.float32) for _ in weights]
    logits = sum(weight * kind for weight, kind in zip(weights, kinds, strict=True))
    truth = (logits + chance.gumbel(size=(count, k))).argmax(1)
    return kinds, truth[:, None] == np.arange(k)


class TestSum:
    @pytest.mark.parametrize("weights", [[2.0], [1.0, 3.0], [0.5, 1.5, 2.5]])
    def test_the_weights_that_the_truth_was_drawn_with_are_found(self, weights: list[float]) -> None:
        kinds, right = drawn(weights)
        assert fit_sum(list(kinds), right).weights == pytest.approx(weights, rel=0.15)

    def test_what_speaks_against_the_truth_or_says_nothing_gets_no_weight(self) -> None:
        kinds, right = drawn([2.0, -1.0, 0.0])
        found = fit_sum([*kinds, np.ones_like(kinds[0])], right)
        assert found.weights[0] == pytest.approx(1.5, rel=0.25)
        assert found.weights[1] == found.weights[3] == 0
        assert found.weights[2] < 0.1

    def test_candidates_that_are_told_apart_without_an_error_get_finite_weights(self) -> None:
        right = np.eye(5, dtype=bool)[np.arange(40) % 5]
        (weight,) = fit_sum([right.astype(np.float32)], right).weights
        assert 5 < weight < 1000

    def test_pictures_whose_truth_is_not_among_the_candidates_tell_nothing(self) -> None:
        kinds, right = drawn([1.0, 2.0], 400)
        more = [np.concatenate([kind, np.full_like(kind, 7)]) for kind in kinds]
        found = fit_sum(more, np.concatenate([right, np.zeros_like(right)]))
        assert found.weights == pytest.approx(fit_sum(list(kinds), right).weights)
        assert fit_sum(list(kinds), np.zeros_like(right)) == Sum((0.0, 0.0), pytest.approx(np.zeros(0)))

    @settings(max_examples=60)
    @given(cases())
    def test_no_other_weights_are_likelier(self, found: Judged) -> None:
        own = fit_sum([found.scores, found.similarity], found.right)
        there = found.right.any(1)

        kinds = [kind[there].astype(float) for kind in (found.scores, found.similarity)]
        units = [
            float(np.sqrt(np.mean((kind - kind.mean(1, keepdims=True)) ** 2))) if len(kind) else 0 for kind in kinds
        ]

        def cost(weights: npt.NDArray[np.float64]) -> float:
            logits = weights[0] * kinds[0] + weights[1] * kinds[1]
            logits -= logits.max(1, keepdims=True)
            logits -= np.log(np.exp(logits).sum(1, keepdims=True))
            prior = sum((weight * unit / 10) ** 2 for weight, unit in zip(weights, units, strict=True)) / 2
            return float(-logits[found.right[there]].sum() + prior)

        least = cost(np.array(own.weights))
        for factors in np.random.default_rng(0).uniform(0.5, 2, (20, 2)):
            assert cost(np.array(own.weights) * factors) >= least - 1e-6 * (1 + abs(least))


class TestSettled:
    @settings(max_examples=200)
    @given(cases())
    def test_it_never_has_fewer_right_than_without_the_ranker(self, found: Judged) -> None:
        first = fit_first(found)
        fused, _ = fit_fused(found, first)
        assert found.final(fused, first.fused).mean() >= found.before(first.fused).mean()

    @settings(max_examples=200)
    @given(cases(), st.integers(0, 9))
    def test_nor_does_the_discriminant_have_fewer_than_retrieval(self, found: Judged, seed: int) -> None:
        chance = np.random.default_rng(seed)
        told = (chance.normal(size=found.scores.shape) + 2 * found.right).astype(np.float32)
        first = fit_first(replace(found, evidence=told))
        assert replace(found, evidence=told).before(first.fused).mean() >= found.right[:, 0].mean()

    @given(cases(), st.sampled_from([Weights(), Weights(1.0), Weights(55.5, 3.0), Weights(0.0, 2.0)]))
    def test_it_is_judged_as_the_runtime_orders(self, found: Judged, weights: Weights) -> None:
        told = found.scores[:, ::-1].copy()
        found = replace(found, evidence=told)
        names = [str(i) for i in range(found.scores.shape[1])]
        rows = zip(found.similarity, found.scores, told, found.right, found.hits(weights), strict=True)
        for similarity, scores, evidence, right, hit in rows:
            candidates = [Candidate(n, s) for n, s in zip(names, similarity.tolist(), strict=True)]
            best = Ranking(scores).order(candidates, weights, evidence)[0].label
            assert right[names.index(best)] == hit

    def test_a_ranker_that_is_always_right_is_used(self) -> None:
        found = judged([[0.9, 0.1]] * 9, [[-9, 0]] * 9, [1] * 9)
        fused = settle(found)
        assert fused is not None
        assert found.top1(fused.weights) == 1

    def test_one_that_is_sure_and_wrong_is_off_and_not_outweighed(self) -> None:
        found = judged([[0.51, 0.5]] * 9, [[-100, 0]] * 9, [0] * 9)
        assert settle(found) is None
        assert found.final(None).all()

    def test_one_of_a_few_pictures_more_is_within_chance(self) -> None:
        found = judged([[0.9, 0.4], [0.71, 0.7]], [[-1, -0.5], [-4, 0]], [0, 1])
        assert settle(found) is None

    def test_two_that_err_on_different_pictures_help_each_other(self) -> None:
        # Retrieval is sure where it is right; so is the ranker.
        found = judged([[0.9, 0.4], [0.71, 0.7]] * 30, [[-1, -0.5], [-4, 0]] * 30, [0, 1] * 30)
        assert found.right[:, 0].mean() == found.top1(0.0) == 0.5
        fused = settle(found)
        assert fused is not None
        assert found.top1(fused.weights) == 1

    def test_evidence_similarity_and_scores_are_all_used_where_each_tells_something(self) -> None:
        (scores, similarity, evidence), right = drawn([1.0, 2.0, 3.0])
        found = Judged(similarity, scores, right, evidence=evidence)
        first = fit_first(found)
        assert first.fused is not None
        fused, _ = fit_fused(found, first)
        assert fused is not None
        assert fused.weights.similarity == pytest.approx(2, rel=0.2)
        assert fused.weights.discriminant == pytest.approx(3, rel=0.2)
        assert fused.sharpness == pytest.approx(6, rel=0.2)
        # With the sharpness the final scores are log-probabilities: as sure as they are right.
        logits = fused.sharpness * found.finals(fused.weights)
        chances = np.exp(logits - logits.max(1, keepdims=True))
        chances /= chances.sum(1, keepdims=True)
        assert chances.max(1).mean() == pytest.approx(found.top1(fused.weights), abs=0.03)

    def test_one_that_is_only_surer_of_what_is_right_already_is_not_worth_its_time(self) -> None:
        found = judged([[0.51, 0.5]] * 30, [[0, -3]] * 30, [0] * 30)
        assert fit_sum([found.scores, found.similarity], found.right).gains(fit_first(found).sum)
        assert settle(found) is None
