"""Pictures of none of a memory's classes are told by its own pictures, with a probability and at a stated rate."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from memories import bursts

from rar.runtime.memory.gaussian import learn
from rar.runtime.memory.held_out import measure
from rar.runtime.memory.strangers import Strangers, fit_strangers, traits_of

Doubles = npt.NDArray[np.float64]


def drawn(count: int, middle: float, seed: int) -> Doubles:
    """Similarities and distances that tell nothing, and two traits that do."""
    return np.random.default_rng(seed).normal([0.0, 1.0, middle, 3 * middle], [0.1, 0.3, 1.0, 5.0], (count, 4))


class TestFit:
    def test_the_probability_is_that_of_a_world_where_every_second_picture_is_strange(self) -> None:
        known, strange = drawn(6000, 1, 0), drawn(2000, -1, 1)
        fitted = fit_strangers(known, strange)
        assert fitted is not None
        chances = np.concatenate([fitted.chances(drawn(5000, 1, 2)), fitted.chances(drawn(5000, -1, 3))])
        truth = np.repeat([0.0, 1.0], 5000)
        for low in np.arange(0, 1, 0.2):
            some = (chances >= low) & (chances < low + 0.2)
            assert truth[some].mean() == pytest.approx(chances[some].mean(), abs=0.04)

    @pytest.mark.parametrize("rate", [0.01, 0.05, 0.1])
    def test_the_limit_refuses_the_stated_share_of_the_known(self, rate: float) -> None:
        known, strange = drawn(4000, 1, 0), drawn(4000, -1, 1)
        fitted = fit_strangers(known, strange, rate)
        assert fitted is not None
        refused = fitted.chances(known) >= fitted.limit
        assert rate - 0.001 <= refused.mean() <= rate
        assert (fitted.chances(drawn(4000, 1, 2)) >= fitted.limit).mean() == pytest.approx(rate, abs=0.015)
        assert (fitted.chances(strange) >= fitted.limit).mean() > 2 * rate

    def test_nothing_is_refused_that_more_likely_is_of_a_class(self) -> None:
        known, strange = drawn(400, 4, 0), drawn(400, -4, 1)
        fitted = fit_strangers(known, strange, 0.2)
        assert fitted is not None
        assert fitted.limit == 0.5
        assert (fitted.chances(known) < 0.5).mean() > 0.99

    def test_a_rate_of_nothing_refuses_none_of_the_known(self) -> None:
        known, strange = drawn(50, 1, 0), drawn(50, -1, 1)
        fitted = fit_strangers(known, strange, 0.0)
        assert fitted is not None
        assert (fitted.chances(known) < fitted.limit).all()

    @pytest.mark.parametrize(
        ("similarity", "distance", "refused"),
        [(-0.6, 3.1, True), (0.1, 3.1, False), (-0.6, 1.0, False)],
        ids=["unlike and far", "far, but like a picture of a class", "unlike, but not far"],
    )
    def test_what_is_unlike_all_and_far_from_them_is_refused_whatever_the_directions_say(
        self, similarity: float, distance: float, refused: bool
    ) -> None:
        known, strange = drawn(300, 1, 0), drawn(300, 0.9, 1)
        fitted = fit_strangers(known, strange)
        assert fitted is not None
        others = np.linspace(-3, 3, 9)
        chances = fitted.chances(np.stack([np.full(9, similarity), np.full(9, distance), others, others], axis=1))
        assert ((chances > 0.999) if refused else (chances < 0.9)).all()

    def test_a_trait_that_tells_nothing_does_not_count(self) -> None:
        known, strange = drawn(300, 1, 0), drawn(300, -1, 1)
        known[:, 2] = strange[:, 2] = 7.0
        fitted = fit_strangers(known, strange)
        assert fitted is not None
        assert fitted.weights[0] == 0
        assert fitted.weights[1] < 0

    def test_traits_that_split_the_two_wholly_give_finite_weights(self) -> None:
        fitted = fit_strangers(np.ones((9, 4)), np.zeros((9, 4)))
        assert fitted is not None
        assert fitted.chances(np.zeros((1, 4)))[0] > 0.95
        assert fitted.chances(np.ones((1, 4)))[0] < 0.05

    def test_where_nothing_differs_there_is_no_fit(self) -> None:
        assert fit_strangers(np.ones((9, 4)), np.ones((9, 4))) is None
        assert fit_strangers(np.ones((0, 4)), np.ones((9, 4))) is None
        assert fit_strangers(np.ones((9, 4)), np.full((9, 4), np.nan)) is None

    @settings(max_examples=40)
    @given(
        st.integers(1, 30), st.integers(1, 30), st.integers(0, 100), st.floats(0, 0.9), st.sampled_from([0, 1e-6, 1e6])
    )
    def test_whatever_is_given_the_known_are_refused_at_most_at_the_rate(
        self, known: int, strange: int, seed: int, rate: float, unit: float
    ) -> None:
        traits = unit * drawn(known, 1, seed), unit * drawn(strange, 0, seed + 1)
        fitted = fit_strangers(*traits, rate)
        if fitted is None:
            assert unit == 0 or known + strange < 2
            return
        assert np.isfinite(fitted.chances(np.concatenate(traits))).all()
        assert (fitted.chances(traits[0]) >= fitted.limit).mean() <= rate


@pytest.mark.parametrize(
    "stored",
    [
        {"weights": [1, 2]},
        {"weights": [1, 2, float("nan")]},
        {"weights": 3},
        {"limit": 1.5},
        {"limit": "much"},
        {"similarity": [0.5, 0]},
        {"similarity": [float("inf"), 1]},
        {"similarity": None},
        {"distance": [0.5]},
        {"distance": [0.5, float("nan")]},
    ],
    ids=str,
)
def test_what_cannot_be_is_refused(stored: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError)):
        Strangers.of(Strangers((1, 2, 3), (0.5, 0.1), (0.2, 0.1), 0.5).stored() | stored)


def test_what_is_stored_is_read() -> None:
    fitted = Strangers((-3.5, 0.25, 1.0), (0.5, 0.1), (0.2, 0.1), 0.75)
    assert Strangers.of(fitted.stored()) == fitted


def test_a_memory_tells_pictures_of_classes_that_it_does_not_hold() -> None:
    vectors, labels = bursts(40, 8, 0.5)
    here = labels < 30
    # One burst of each class is new to the memory.
    new = np.arange(len(labels)) % 24 < 3
    learned = learn(vectors[here & ~new], labels[here & ~new], 30)
    assert learned is not None
    measured = measure(vectors[here & ~new], labels[here & ~new], learned)
    assert measured.strangers is not None
    weights, bias = learned.gaussian.planes(learned.means, learned.counts)
    memory, owners = vectors[here & ~new].astype(np.float32), labels[here & ~new]

    def chances(some: npt.NDArray[np.bool_]) -> Doubles:
        assert measured.strangers is not None
        assert learned is not None
        queries = vectors[some].astype(np.float32)
        products = queries @ memory.T
        similarities = np.stack([products[:, owners == label].max(1) for label in range(30)], axis=1)
        cosines = learned.gaussian.cosines(queries, learned.means, weights)
        logits = queries @ weights.T + bias
        distances = learned.gaussian.distances(queries)
        return measured.strangers.chances(traits_of(similarities, distances, logits, cosines, measured.scale))

    known, strange = chances(here & new), chances(~here)
    above = (strange[:, None] > known).mean()
    assert above > 0.9
    assert (known >= measured.strangers.limit).mean() < 0.2
    assert (strange >= measured.strangers.limit).mean() > 0.5


def test_one_class_or_one_picture_a_class_or_no_variance_tells_nothing_of_strangers() -> None:
    vectors, labels = bursts(6, 2, 1.0)
    for some, own in (
        (vectors[labels == 0], labels[labels == 0]),
        (vectors[::6], labels[::6]),
        (np.repeat(vectors[:1], 6, axis=0), np.array([0, 0, 1, 1, 2, 2], np.int32)),
    ):
        learned = learn(some, own, 6)
        assert learned is not None
        assert measure(some, own, learned).strangers is None
