"""The directions that are kept are those of an independent SVD, however they are found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import scipy.linalg
from hypothesis import given
from hypothesis import strategies as st

from rar.runtime import InputError
from rar.runtime.memory.fit.index import IndexOptions, Recall, Target, fit, parse_dim, recall_at
from rar.runtime.memory.fit.measure import Held
from rar.runtime.memory.fit.reduce import find_basis, mean_of
from rar.runtime.memory.reduction import Reduction

Floats = npt.NDArray[np.float32]
Halfs = npt.NDArray[np.float16]


def vectors(count: int, width: int, seed: int = 0, rank: int | None = None, fall: float = 0.8) -> Floats:
    """Unit vectors with a falling spectrum and a mean that is not zero; within `rank` dimensions of it."""
    chance = np.random.default_rng(seed)
    rank = width if rank is None else rank
    raw = (chance.normal(size=(count, rank)) * fall ** np.arange(rank)) @ chance.normal(size=(rank, width)) + 0.5
    return np.asarray(raw / np.linalg.norm(raw, axis=1, keepdims=True), np.float32)


def svd(data: Floats, dim: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], float]:
    """Right singular vectors, variances, and the share of the variance, by SciPy."""
    centred = data.astype(np.float64) - data.astype(np.float64).mean(0)
    _, values, rows = scipy.linalg.svd(centred, full_matrices=False)
    return rows[:dim], values[:dim] ** 2 / len(data), float((values[:dim] ** 2).sum() / (values**2).sum())


def learn(data: npt.NDArray[Any], target: Target, *, cross_modal: bool = False, **options: Any) -> Reduction:
    def held() -> Held:
        raise AssertionError("only a recall needs queries")

    return fit(data, target, IndexOptions(**options), cross_modal=cross_modal, held=held)


class TestPrincipalComponents:
    @pytest.mark.parametrize(("count", "rank"), [(300, None), (9000, None), (300, 5), (20, None), (9, 4)])
    @pytest.mark.parametrize("dim", [1, 8])
    def test_spans_what_the_svd_spans(self, count: int, rank: int | None, dim: int) -> None:
        data = vectors(count, 24, rank=rank)
        basis = find_basis(data, "pca", dim)
        expected = min(dim, count - 1, 24 if rank is None else rank + 1)  # the mean is one more direction
        rows, variance, kept = svd(data, expected)
        assert basis.rows.shape == (expected, 24)
        assert basis.rows.dtype == basis.mean.dtype == np.float32
        np.testing.assert_allclose(basis.mean, data.mean(0), atol=1e-6)
        np.testing.assert_allclose(np.abs((basis.rows * rows).sum(1)), 1, atol=1e-4)
        np.testing.assert_allclose(basis.variance, variance, rtol=1e-4)
        assert basis.kept(dim) == pytest.approx(kept, abs=1e-5)

    @given(st.integers(2, 40), st.integers(2, 20), st.data())
    def test_rows_are_orthonormal_and_fall_in_variance(self, count: int, width: int, data: st.DataObject) -> None:
        basis = find_basis(vectors(count, width, seed=count * 100 + width), "pca", data.draw(st.integers(1, width)))
        np.testing.assert_allclose(basis.rows @ basis.rows.T, np.eye(len(basis.rows)), atol=1e-4)
        assert (np.diff(basis.variance) <= 1e-12).all()
        assert 0 <= basis.kept(width) <= 1

    def test_blocks_and_halves_change_nothing(self, tmp_path: Path) -> None:
        """20,000 vectors are read in three blocks, from a mapped file of float16."""
        data = vectors(20_000, 16)
        np.save(tmp_path / "v.npy", data.astype(np.float16))
        mapped = find_basis(np.load(tmp_path / "v.npy", mmap_mode="r"), "pca", 6)
        rows, _, kept = svd(data.astype(np.float16).astype(np.float32), 6)
        np.testing.assert_allclose(np.abs((mapped.rows * rows).sum(1)), 1, atol=1e-5)
        assert mapped.kept(6) == pytest.approx(kept, abs=1e-5)

    def test_the_order_of_the_vectors_changes_nothing(self) -> None:
        data = vectors(600, 16)
        turned = find_basis(data[::-1].copy(), "pca", 4)
        np.testing.assert_allclose(find_basis(data, "pca", 4).rows, turned.rows, atol=1e-4)

    @pytest.mark.parametrize("count", [1, 5, 300])
    @pytest.mark.parametrize("reducer", ["pca", "truncate"])
    @pytest.mark.parametrize("cross_modal", [False, True])
    @pytest.mark.parametrize("dtype", ["f16", "i8"])
    def test_copies_of_one_vector(self, count: int, reducer: str, cross_modal: bool, dtype: str) -> None:
        data = np.repeat(vectors(1, 16), count, 0)
        reduction = learn(data, 8, cross_modal=cross_modal, reducer=reducer, index_dtype=dtype)
        assert 1 <= reduction.dim <= 9
        for mapped in (reduction.entries(data), reduction.queries(vectors(3, 16, seed=1))):
            assert np.isfinite(mapped).all()
            assert mapped.shape[1] == reduction.dim

    def test_equals_sklearn(self) -> None:
        decomposition = pytest.importorskip("sklearn.decomposition")
        data = vectors(100, 16)
        other = decomposition.PCA(5, svd_solver="full").fit(data)
        ours = learn(data, 5)
        assert ours.components is not None
        cosines = np.abs((ours.components * other.components_).sum(1))  # in order of variance, up to the sign
        np.testing.assert_allclose(cosines, 1, atol=1e-4)
        np.testing.assert_allclose(np.abs(ours.entries(data)), np.abs(other.transform(data)), atol=1e-4)

    @pytest.mark.parametrize("count", [2, 4])
    def test_fewer_vectors_than_dimensions_keep_their_distances(self, count: int) -> None:
        data = vectors(count, 16)
        reduced = learn(data, 8).entries(data)
        assert reduced.shape[1] <= 8
        full = np.linalg.norm(data[:, None] - data[None], axis=2)
        np.testing.assert_allclose(np.linalg.norm(reduced[:, None] - reduced[None], axis=2), full, atol=1e-4)


class TestOtherReducers:
    def test_truncation_keeps_the_first(self) -> None:
        data = vectors(50, 12)
        reduction = learn(data, 5, reducer="truncate")
        np.testing.assert_allclose(reduction.entries(data), (data - data.mean(0))[:, :5], atol=1e-6)
        expected = data[:, :5].astype(np.float64).var(0).sum() / data.astype(np.float64).var(0).sum()
        assert reduction.kept == pytest.approx(expected, abs=1e-6)

    @pytest.mark.parametrize("reducer", ["truncate", "pca"])
    def test_all_dimensions_keep_all_distances(self, reducer: str) -> None:
        data, queries = vectors(40, 12), vectors(5, 12, seed=1)
        reduction = learn(data, 12, reducer=reducer)
        found = np.linalg.norm(reduction.queries(queries)[:, None] - reduction.entries(data)[None], axis=2)
        np.testing.assert_allclose(found, np.linalg.norm(queries[:, None] - data[None], axis=2), atol=1e-5)
        assert reduction.kept == pytest.approx(1)

    def test_none_keeps_the_vectors(self) -> None:
        data = vectors(30, 12)
        for reduction in (learn(data, None), learn(data, None, reducer="none"), learn(data, 12)):
            assert (reduction.components, reduction.dim, reduction.kept) == (None, 12, 1.0)
            np.testing.assert_allclose(reduction.mean, data.mean(0), atol=1e-6)

    @pytest.mark.parametrize("reducer", ["pca", "truncate"])
    @pytest.mark.parametrize("dim", [0, -1, 17, 10**9])
    def test_dimensions_out_of_range(self, reducer: Any, dim: int) -> None:
        with pytest.raises(InputError, match=f"cannot keep {dim} of 16 dimensions; choose 1 to 16"):
            find_basis(vectors(20, 16), reducer, dim)

    def test_there_is_no_basis_of_none(self) -> None:
        with pytest.raises(InputError, match="nothing to find"):
            find_basis(vectors(20, 16), "none", 4)

    def test_the_mean_is_that_of_all_blocks(self) -> None:
        data = vectors(20_000, 3)
        np.testing.assert_allclose(mean_of(data), data.astype(np.float64).mean(0), atol=1e-12)


class TestCrossModal:
    @pytest.mark.parametrize("dim", [4, 8, None])
    def test_distance_orders_by_the_dot_product_in_the_subspace(self, dim: int | None) -> None:
        texts, pictures = vectors(60, 16), vectors(7, 16, seed=5)
        reduction = learn(texts, dim, cross_modal=True)
        entries, queries = reduction.entries(texts), reduction.queries(pictures)
        assert entries.shape[1] == reduction.dim == (17 if dim is None else dim + 1)
        distances = ((queries[:, None] - entries[None]) ** 2).sum(2)
        within = pictures @ (texts - reduction.mean).T
        if reduction.components is not None:
            within = (pictures @ reduction.components.T) @ (reduction.components @ (texts - reduction.mean).T)
        np.testing.assert_allclose(distances - distances[:, :1], -2 * (within - within[:, :1]), atol=1e-4)


class TestStoredNumbers:
    def test_int8_spans_the_largest_number(self) -> None:
        data = vectors(300, 24)
        plain, stepped = learn(data, 6), learn(data, 6, index_dtype="i8")
        assert plain.scale == 1
        assert np.abs(stepped.entries(data)).max() == pytest.approx(127, abs=1e-3)
        np.testing.assert_allclose(stepped.entries(data) * stepped.scale, plain.entries(data), atol=1e-5)
        np.testing.assert_allclose(stepped.queries(data) * stepped.scale, plain.queries(data), atol=1e-5)


def halfs(data: Floats) -> Halfs:
    return data.astype(np.float16)


def held(data: Halfs, queries: Floats) -> Held:
    return Held.of(data, queries, np.empty(0, np.int64))


@pytest.fixture(scope="module")
def clustered() -> tuple[Halfs, Floats, Floats]:
    """Entries, queries to fit with, and others to test with."""
    from rar.benchmarks.memory.synthetic import Mixture

    mixture = Mixture(dim=128, intrinsic=48, clusters=200)
    entries = np.concatenate([block for block, _ in mixture.entries(6000)])
    queries = mixture.queries(800)
    return halfs(entries), queries[:400], queries[400:]


class TestRecallTarget:
    @pytest.mark.parametrize("reducer", ["pca", "truncate"])
    def test_is_met_on_other_queries_by_the_smallest_dimension(
        self, clustered: tuple[Halfs, Floats, Floats], reducer: Any
    ) -> None:
        entries, queries, others = clustered
        options = IndexOptions(reducer)
        fitted = fit(
            entries, Recall(0.98), options, cross_modal=False, held=lambda: Held.of(entries, queries, np.arange(0))
        )
        assert 1 < fitted.dim < 128
        assert recall_at(entries, fitted, "f16", held(entries, queries)) >= 0.98
        # Four standard errors of 4,000 neighbours.
        assert recall_at(entries, fitted, "f16", held(entries, others)) >= 0.98 - 4 * (0.98 * 0.02 / 4000) ** 0.5
        fewer = fit(entries, fitted.dim - 1, options, cross_modal=False, held=lambda: held(entries, queries))
        assert recall_at(entries, fewer, "f16", held(entries, queries)) < 0.98

    def test_more_recall_takes_more_dimensions_and_coarse_numbers_no_fewer(
        self, clustered: tuple[Halfs, Floats, Floats]
    ) -> None:
        entries, queries, _ = clustered
        dims = [
            fit(
                entries,
                Recall(share),
                IndexOptions(index_dtype=dtype),
                cross_modal=False,
                held=lambda: held(entries, queries),
            ).dim
            for share, dtype in ((0.9, "f16"), (0.99, "f16"), (0.99, "i8"))
        ]
        assert dims[0] < dims[1] <= dims[2]

    @pytest.mark.parametrize("dtype", ["f16", "i8"])
    @pytest.mark.parametrize("dim", [6, 24])
    def test_recall_is_that_of_a_plain_search(
        self, clustered: tuple[Halfs, Floats, Floats], dtype: Any, dim: int
    ) -> None:
        entries, queries, _ = clustered
        queries = queries[:50]
        out = np.arange(0, len(entries), 7)
        truth = Held.of(entries, queries, out)
        reduction = learn(entries, dim, index_dtype=dtype)
        full = queries @ entries.astype(np.float32).T
        reduced, asked = reduction.entries(entries.astype(np.float32)), reduction.queries(queries)
        if dtype == "i8":
            reduced = np.clip(np.rint(reduced), -127, 127)
        distances = ((asked[:, None] - reduced[None]) ** 2).sum(2)
        full[:, out], distances[:, out] = -np.inf, np.inf
        hits = []
        for row in range(len(queries)):
            ten = np.argsort(-full[row], kind="stable")[:10]
            fiftieth = np.sort(distances[row])[49]
            # Among equal distances any may be the first.
            hits.append((distances[row, ten] <= fiftieth + 1e-4).mean())
        assert recall_at(entries, reduction, dtype, truth) == pytest.approx(float(np.mean(hits)), abs=0.006)

    def test_one_that_cannot_be_kept(self) -> None:
        # Three entries on the other side take nearly all steps of the scale.
        chance = np.random.default_rng(0)
        raw = np.eye(1, 16) + 0.02 * chance.normal(size=(4200, 16))
        raw[:3] *= -1
        data = np.float32(raw / np.linalg.norm(raw, axis=1, keepdims=True))
        entries, queries = halfs(data[:4000]), data[4000:]
        options = IndexOptions(index_dtype="i8")
        with pytest.raises(InputError, match=r"no dimension keeps 100 % of recall@10, at best 9\d"):
            fit(entries, Recall(1.0), options, cross_modal=False, held=lambda: held(entries, queries))

    def test_entries_that_are_left_out_are_no_neighbours(self) -> None:
        data = halfs(vectors(200, 16))
        out = np.arange(0, 200, 4)
        truth = Held.of(data, data[out].astype(np.float32), out)
        assert not np.isin(truth.ids, out).any()
        assert truth.recall(truth.cosines) == 1

    def test_copies_stand_for_each_other(self) -> None:
        data = halfs(np.repeat(vectors(30, 16), 5, 0))
        queries = vectors(20, 16, seed=9)
        truth = held(data, queries)
        cosines = np.sort(queries @ data.astype(np.float32).T, axis=1)[:, :-11:-1]
        assert truth.recall(np.asarray(cosines)) == 1
        assert truth.recall(np.asarray(cosines[:, 4:])) == pytest.approx(0.6)


class TestDim:
    @pytest.mark.parametrize(
        ("text", "full", "expected"),
        [
            ("64", 512, 64),
            ("1", 512, 1),
            ("512", 512, 512),
            ("1/9", 512, 57),
            ("1/9", 768, 85),
            ("1/2", 512, 256),
            ("0.25", 512, 128),
            ("none", 512, None),
            ("8/8", 512, 1),
            ("16/2", 512, 8),
            ("recall=99.5", 512, Recall(0.995)),
            ("recall=100", 512, Recall(1.0)),
        ],
    )
    def test_forms(self, text: str, full: int, expected: Target) -> None:
        assert parse_dim(text, full) == expected

    @pytest.mark.parametrize("text", ["", "x", "1/0", "nan", "inf", "None", "1/9/2", "64px", "1,5", "recall"])
    def test_what_is_no_number(self, text: str) -> None:
        with pytest.raises(InputError, match=r"is no number, share such as 1/9, recall=99\.5, or none"):
            parse_dim(text, 512)

    @pytest.mark.parametrize("text", ["recall=", "recall=x", "recall=0", "recall=-1", "recall=100.1", "recall=nan"])
    def test_what_is_no_recall(self, text: str) -> None:
        with pytest.raises(InputError, match="recall"):
            parse_dim(text, 512)

    @pytest.mark.parametrize("text", ["0", "-1", "513", "0/9", "-1/9", "3/2", "1/2000", "1e9"])
    def test_out_of_range(self, text: str) -> None:
        with pytest.raises(InputError, match="512 dimensions; choose 1 to 512"):
            parse_dim(text, 512)

    @given(st.integers(1, 2000), st.integers(1, 2000))
    def test_any_share_is_in_range_or_refused(self, part: int, full: int) -> None:
        try:
            dim = parse_dim(f"{part}/1000", full)
        except InputError:
            return
        assert isinstance(dim, int)
        assert 1 <= dim <= full

    def test_the_default_serves_a_small_encoder(self) -> None:
        assert IndexOptions().target(None, 512) == 64
        assert IndexOptions().target(None, 24) == 24
        assert IndexOptions("none").target(None, 512) is None
        assert IndexOptions("none").target("none", 512) is None

    def test_options_that_cannot_be(self) -> None:
        with pytest.raises(InputError, match="the reducer none keeps all dimensions"):
            IndexOptions("none").target("64", 512)
        for wrong in ({"shards": 0}, {"reducer": "magic"}, {"index_dtype": "f8"}):
            with pytest.raises(InputError):
                IndexOptions(**wrong)  # type: ignore[arg-type]
