"""How far outputs are from fp32: row by row, and nothing that cannot be compared passes."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rar.runtime.session.checks import LIMITS, Limit, Measured, Run, compare


def compared(expected: dict[str, Any], found: dict[str, Any], **strides: int) -> Measured:
    return compare([(Run({}, expected, strides), found)])


@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(1, 40))
def test_the_worst_is_the_lowest_of_the_rows_and_the_mean_theirs(seed: int, rows: int, width: int) -> None:
    chance = np.random.default_rng(seed)
    a, b = (chance.standard_normal((rows, width)).astype(np.float32) for _ in range(2))
    wide = [(x.astype(np.float64), y.astype(np.float64)) for x, y in zip(a, b, strict=True)]
    cosines = [float(x @ y / np.linalg.norm(x) / np.linalg.norm(y)) for x, y in wide]
    found = compared({"y": a}, {"y": b})
    assert found.worst == pytest.approx(min(cosines), abs=1e-9)
    assert found.mean == pytest.approx(np.mean(cosines), abs=1e-9)
    assert (found.count, found.output) == (rows, "y")


def test_rows_of_several_runs_count_together_and_outputs_apart() -> None:
    good, bad = np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])
    found = compare(
        [
            (Run({}, {"a": good, "b": good}), {"a": good, "b": good}),
            (Run({}, {"a": good, "b": good}), {"a": good, "b": bad}),
        ]
    )
    assert found == Measured(0.0, 0.5, 4, "b")


def test_equal_outputs_are_one_even_where_they_are_zero() -> None:
    zeros = {"a": np.zeros((2, 3)), "b": np.ones((1, 2, 2))}
    assert compared(zeros, zeros).worst == pytest.approx(1.0)


def test_zero_is_unlike_anything_else() -> None:
    assert compared({"a": np.zeros((1, 3))}, {"a": np.ones((1, 3))}).worst == 0.0


@pytest.mark.parametrize(
    "found",
    [
        {},
        {"a": np.ones((1, 4))},
        {"a": np.ones(3)},
        {"a": np.array([[1.0, np.nan, 1.0]])},
        {"a": np.array([[1.0, np.inf, 1.0]])},
    ],
)
def test_absent_mis_shaped_and_infinite_outputs_pass_no_limit(found: dict[str, Any]) -> None:
    measured = compared({"b": np.ones((1, 3)), "a": np.ones((1, 3))}, {"b": np.ones((1, 3)), **found})
    assert np.isnan(measured.worst)
    assert measured.output == "a"
    assert not measured.within(Limit(-1.0, -1.0))


def test_outputs_without_elements_say_nothing() -> None:
    empty = {"a": np.ones((0, 3))}
    assert not compared(empty, empty).within(Limit(-1.0, -1.0))
    assert compared({**empty, "b": np.ones((1, 2))}, {**empty, "b": np.ones((1, 2))}).count == 1


def test_of_a_thinned_output_every_so_many_columns_are_compared() -> None:
    whole = np.random.default_rng(0).standard_normal((2, 3, 10))
    expected = {"logits": whole[..., ::4]}
    assert compared(expected, {"logits": whole}, logits=4).worst == pytest.approx(1.0)
    other = whole.copy()
    other[..., 1::4] = 9  # not among them
    assert compared(expected, {"logits": other}, logits=4).worst == pytest.approx(1.0)
    other[..., 4] = -whole[..., 4]
    assert compared(expected, {"logits": other}, logits=4).worst < 0.999


def test_worst_and_mean_both_have_a_limit() -> None:
    limit = LIMITS["int8"]
    assert Measured(0.97, 0.985, 2, "a").within(limit)
    # As ONNX Runtime's saturating kernels gave it.
    assert not Measured(0.916, 0.958, 8, "a").within(limit)
    assert not Measured(0.85, 0.99, 8, "a").within(limit)
    assert not Measured(0.99, float("nan"), 8, "a").within(limit)
