"""Dot products of named vectors and exact search, at every instruction set, against NumPy."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rar.runtime import _native
from rar.runtime._native import nearest, score

LEVELS = _native.simd_levels()
DTYPES = (np.float16, np.float32)
Floats = npt.NDArray[np.float32]


@pytest.fixture(params=LEVELS)
def level(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("RAR_SIMD", request.param)
    return str(request.param)


def normal(count: int, dim: int, seed: int) -> Floats:
    return np.random.default_rng(seed).standard_normal((count, dim), dtype=np.float32)


def tolerance(vectors: npt.NDArray[Any], queries: Floats) -> npt.NDArray[np.float64]:
    """Of a float32 sum of dim products in any order [N, n]: half a unit in the last place an operation."""
    sizes = np.abs(np.float64(queries)) @ np.abs(np.float64(vectors)).T
    return sizes * (queries.shape[1] + 8) * 2.0**-24


@pytest.mark.parametrize("simd", LEVELS)
@pytest.mark.parametrize("dtype", DTYPES)
@given(dim=st.integers(1, 130), count=st.integers(1, 30), asked=st.integers(1, 9), seed=st.integers(0, 2**16))
@settings(deadline=None, max_examples=100)
def test_products_of_any_dimension_are_those_of_numpy(
    simd: str, dtype: type[np.floating], dim: int, count: int, asked: int, seed: int
) -> None:
    vectors, queries = normal(count, dim, seed).astype(dtype), normal(asked, dim, seed + 1)
    ids = np.random.default_rng(seed).integers(-1, count, (asked, 7))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAR_SIMD", simd)
        scores = score(vectors, queries, ids)
        entries, products = nearest(vectors, queries, count, np.zeros(count, np.int32), None)
    truth, bound = np.float64(queries) @ np.float64(vectors).T, tolerance(vectors, queries)
    there = ids >= 0
    gathered = np.take_along_axis(truth, ids, 1)
    assert (np.abs(scores - gathered)[there] <= np.take_along_axis(bound, ids, 1)[there]).all()
    assert (scores[~there] == -np.inf).all()
    assert (np.sort(entries, axis=1) == np.arange(count)).all()
    assert (np.abs(products - np.take_along_axis(truth, entries, 1)) <= np.take_along_axis(bound, entries, 1)).all()
    assert (np.diff(products) <= 0).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_one_product_has_the_same_bits_in_any_company(level: str, dtype: type[np.floating], threads: int) -> None:
    vectors, queries = normal(5000, 85, 0).astype(dtype), normal(19, 85, 1)
    labels = np.zeros(5000, np.int32)
    entries, products = nearest(vectors, queries, 30, labels, None, threads)
    for row, query in enumerate(queries):
        alone = nearest(vectors, query[None], 30, labels, None)
        np.testing.assert_array_equal(entries[row], alone[0][0])
        np.testing.assert_array_equal(products[row], alone[1][0])
    np.testing.assert_array_equal(score(vectors, queries, entries, threads), products)
    assert score(vectors, queries[:1], entries[:1, 3:4])[0, 0] == products[0, 3]


def test_the_best_of_many_are_found(level: str) -> None:
    vectors, queries = normal(20_000, 40, 2).astype(np.float16), normal(3, 40, 3)
    entries, _ = nearest(vectors, queries, 50, np.zeros(20_000, np.int32), None, 3)
    truth = np.float64(queries) @ np.float64(vectors).T
    np.testing.assert_allclose(np.take_along_axis(truth, entries, 1), -np.sort(-truth, axis=1)[:, :50], rtol=1e-5)


def test_the_lower_entry_is_first_among_equals() -> None:
    vectors = np.repeat(normal(10, 7, 4), 500, axis=0)
    for threads in (1, 4):
        entries, products = nearest(vectors, normal(2, 7, 5), 600, np.zeros(5000, np.int32), None, threads)
        for row, values in zip(entries, products, strict=True):
            best = row[0] // 500
            np.testing.assert_array_equal(row[:500], np.arange(500) + best * 500)
            assert (values[:500] == values[0]).all()


@given(data=st.data())
@settings(deadline=None, max_examples=100)
def test_only_what_counts_is_compared(data: st.DataObject) -> None:
    chance = np.random.default_rng(data.draw(st.integers(0, 2**16)))
    classes, count = data.draw(st.integers(1, 5)), data.draw(st.integers(0, 700))
    share = data.draw(st.sampled_from([0.0, 0.01, 0.5, 1.0]))
    labels = np.where(chance.random(count) < share, chance.integers(0, classes, count), -1).astype(np.int32)
    allowed = data.draw(st.none() | st.lists(st.integers(0, 1), min_size=classes, max_size=classes))
    counts = (labels >= 0) & (True if allowed is None else np.array(allowed, bool)[labels])
    vectors, queries = normal(count, 9, 6).astype(np.float16), normal(2, 9, 7)
    mask = None if allowed is None else np.array(allowed, np.uint8)
    entries, products = nearest(vectors, queries, 20, labels, mask, data.draw(st.integers(1, 3)))
    truth = np.where(counts, np.float64(queries) @ np.float64(vectors).T, -np.inf)
    best = np.full((2, 20), -np.inf)
    best[:, : min(20, count)] = -np.sort(-truth, axis=1)[:, :20]
    np.testing.assert_allclose(products, best, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(entries >= 0, best > -np.inf)
    assert counts[entries[entries >= 0]].all()


@given(data=st.data())
@settings(deadline=None, max_examples=60)
def test_of_a_class_no_more_than_its_cap_are_returned(data: st.DataObject) -> None:
    size = data.draw(st.sampled_from([1, 300, 3000]))
    vectors, queries = normal(size, 6, 7), normal(3, 6, data.draw(st.integers(0, 99)))
    labels = np.random.default_rng(data.draw(st.integers(0, 99))).integers(-1, 9, size).astype(np.int32)
    labels = np.where(queries[0] @ vectors.T > 2, 3, labels)  # one class fills the best of the first query
    cap, count = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 40))
    entries, products = nearest(vectors, queries, count, labels, None, data.draw(st.integers(1, 3)), cap)
    for row, own, query in zip(entries, products, queries, strict=True):
        kept: dict[int, list[float]] = {}
        for product, label in sorted(zip((vectors @ query).tolist(), labels.tolist(), strict=True), reverse=True):
            if label >= 0:
                kept.setdefault(label, []).append(product)
        best = sorted((product for of_class in kept.values() for product in of_class[:cap]), reverse=True)[:count]
        np.testing.assert_allclose(own[: len(best)], best, rtol=1e-4, atol=1e-5)
        assert (row[: len(best)] >= 0).all()
        assert (row[len(best) :] == -1).all()


def test_vectors_of_nan_are_last() -> None:
    vectors, query = normal(9, 20, 8).astype(np.float16), normal(1, 20, 9)
    vectors[4] = np.nan
    entries, products = nearest(vectors, query, 9, np.zeros(9, np.int32), None)
    assert entries[0, -1] == 4
    assert products[0, -1] == -np.inf
    assert np.isfinite(products[0, :-1]).all()
    assert score(vectors, query, np.array([[4, 5]]))[0, 0] == -np.inf


def test_no_query_has_no_answer() -> None:
    vectors, none = normal(9, 20, 8), np.zeros((0, 20), np.float32)
    assert score(vectors, none, np.zeros((0, 3), np.int64)).shape == (0, 3)
    assert score(vectors, vectors[:2], np.zeros((2, 0), np.int64)).shape == (2, 0)
    entries, products = nearest(vectors, none, 4, np.zeros(9, np.int32), None, 3)
    assert entries.shape == products.shape == (0, 4)


VECTORS, QUERIES = normal(6, 4, 0), normal(2, 4, 1)
VECTORS_ERROR = "vectors are not float16 or float32 of 2 dimensions"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vectors": np.float64(VECTORS)}, VECTORS_ERROR),
        ({"vectors": VECTORS.astype(">f4")}, VECTORS_ERROR),
        ({"vectors": VECTORS[0]}, VECTORS_ERROR),
        ({"vectors": VECTORS[::2]}, VECTORS_ERROR),
        ({"vectors": np.zeros((6, 0), np.float32)}, VECTORS_ERROR),
        ({"queries": np.float64(QUERIES)}, "queries is not float32"),
        ({"queries": QUERIES.T}, "contiguous"),
        ({"queries": np.zeros((2, 5), np.float32)}, "5 dimensions, not 4"),
        ({"queries": np.full((2, 4), np.inf, np.float32)}, "query 0 holds NaN or infinity"),
        ({"threads": 0}, "threads is not 1 to"),
    ],
)
def test_vectors_and_queries_that_do_not_fit_are_refused(change: dict[str, Any], message: str) -> None:
    both = {"vectors": VECTORS, "queries": QUERIES, "threads": 1} | change
    with pytest.raises(ValueError, match=message):
        score(ids=np.zeros((2, 3), np.int64), **both)
    with pytest.raises(ValueError, match=message):
        nearest(count=3, labels=np.zeros(6, np.int32), allowed=None, **both)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (np.array([[0, 1], [2, 6]]), r"ids\[1, 1\] is 6, but there are 6 vectors"),
        (np.array([[-2], [0]]), r"ids\[0, 0\] is -2"),
        (np.full((2, 200), np.iinfo(np.int64).min), r"ids\[0, 0\] is -9223372036854775808"),
        (np.zeros((3, 1), np.int64), "not as many rows of ids as queries"),
        (np.zeros((2, 1), np.int32), "ids is not int64"),
        (np.zeros(2, np.int64), "ids is not int64 of 2 dimensions"),
    ],
)
def test_ids_that_do_not_fit_are_refused(ids: npt.NDArray[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        score(VECTORS, QUERIES, ids)


@pytest.mark.parametrize(
    ("labels", "allowed", "message"),
    [
        (np.zeros(5, np.int32), None, "not as many labels as vectors"),
        (np.zeros(6, np.int64), None, "labels is not int32"),
        (np.full(6, 2, np.int32), np.ones(2, np.uint8), "entry 0 is of class 2, which `allowed` does not tell of"),
        (np.zeros(6, np.int32), np.zeros(0, np.uint8), "`allowed` tells of no class"),
        (np.zeros(6, np.int32), np.ones((2, 2), np.uint8), "allowed is not uint8 of 1 dimensions"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels: npt.NDArray[Any], allowed: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        nearest(VECTORS, QUERIES, 3, labels, allowed)


def test_a_count_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="count is below 1"):
        nearest(VECTORS, QUERIES, 0, np.zeros(6, np.int32), None)
    with pytest.raises(ValueError, match="cap is below 1"):
        nearest(VECTORS, QUERIES, 3, np.zeros(6, np.int32), None, cap=0)


def test_vectors_at_odd_addresses_are_read(level: str) -> None:
    memory = np.zeros(6 * 4 * 4 + 1, np.uint8)
    memory[1:] = VECTORS.view(np.uint8).ravel()
    odd = memory[1:].view(np.float32).reshape(6, 4)
    ids = np.arange(6)[None].repeat(2, axis=0)
    np.testing.assert_array_equal(score(odd, QUERIES, ids), score(VECTORS, QUERIES, ids))
