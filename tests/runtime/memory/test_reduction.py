"""The reduction maps entries and queries as it says, and its file is read back or refused."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from memories import fit_pca

from rar.runtime import BundleError
from rar.runtime.memory.reduction import Reduction

Floats = npt.NDArray[np.float32]


def vectors(count: int, width: int, seed: int = 0, rank: int | None = None) -> Floats:
    """Unit vectors with a falling spectrum and a mean that is not zero; within `rank` dimensions of it."""
    chance = np.random.default_rng(seed)
    rank = width if rank is None else rank
    raw = (chance.normal(size=(count, rank)) * 0.8 ** np.arange(rank)) @ chance.normal(size=(rank, width)) + 0.5
    return np.asarray(raw / np.linalg.norm(raw, axis=1, keepdims=True), np.float32)


def svd(data: Floats, dim: int) -> tuple[npt.NDArray[np.float64], float]:
    _, values, rows = np.linalg.svd(data.astype(np.float64) - data.astype(np.float64).mean(0), full_matrices=False)
    return rows[:dim], float((values[:dim] ** 2).sum() / (values**2).sum())


class TestLikeToLike:
    def test_distances_are_euclidean_in_the_subspace(self) -> None:
        data, queries = vectors(80, 16), vectors(7, 16, seed=1)
        reduction = fit_pca(data, 5)
        rows, _ = svd(data, 5)
        expected = np.linalg.norm((queries[:, None].astype(np.float64) - data[None]) @ rows.T, axis=2)
        found = np.linalg.norm(reduction.queries(queries)[:, None] - reduction.entries(data)[None], axis=2)
        np.testing.assert_allclose(found, expected, atol=1e-4)


class TestCrossModal:
    @given(st.integers(2, 60), st.integers(2, 24), st.integers(0, 1000))
    def test_distances_order_by_dot_product(self, count: int, width: int, seed: int) -> None:
        texts, pictures = vectors(count, width, seed), -vectors(5, width, seed + 1)
        reduction = fit_pca(texts, None, cross_modal=True)
        assert reduction.dim == width + 1
        entries, queries = reduction.entries(texts).astype(np.float64), reduction.queries(pictures).astype(np.float64)
        squared = ((queries[:, None] - entries[None]) ** 2).sum(2)
        # |q|² + radius² - 2 q(e - mean): constant in e but for the dot product
        dots = pictures.astype(np.float64) @ (texts.astype(np.float64) - texts.astype(np.float64).mean(0)).T
        constant = (queries**2).sum(1, keepdims=True) + reduction.radius**2
        np.testing.assert_allclose(squared, constant - 2 * dots, atol=1e-5)

    @pytest.mark.parametrize("dim", [1, 4, 12])
    def test_reduced_distances_order_by_the_projected_dot_product(self, dim: int) -> None:
        texts, pictures = vectors(50, 16), vectors(6, 16, seed=1)
        reduction = fit_pca(texts, dim, cross_modal=True)
        rows, _ = svd(texts, dim)
        assert reduction.dim == dim + 1
        squared = ((reduction.queries(pictures)[:, None] - reduction.entries(texts)[None]) ** 2).sum(2)
        dots = (pictures.astype(np.float64) @ rows.T) @ ((texts - texts.mean(0)) @ rows.T).T
        differences = squared - squared[:, :1]
        np.testing.assert_allclose(differences, -2 * (dots - dots[:, :1]), atol=1e-4)

    def test_entries_have_one_length(self) -> None:
        texts = vectors(50, 16)
        reduction = fit_pca(texts, 6, cross_modal=True)
        np.testing.assert_allclose(np.linalg.norm(reduction.entries(texts), axis=1), reduction.radius, rtol=1e-5)


class TestFile:
    @pytest.mark.parametrize("dim", [None, 5])
    @pytest.mark.parametrize("cross_modal", [False, True])
    def test_round_trip(self, tmp_path: Path, dim: int | None, cross_modal: bool) -> None:
        data = vectors(40, 16)
        reduction = fit_pca(data, dim, cross_modal=cross_modal)
        reduction.save(tmp_path / "reduction.npz")
        again = Reduction.open(tmp_path / "reduction.npz")
        np.testing.assert_array_equal(again.entries(data), reduction.entries(data))
        np.testing.assert_array_equal(again.queries(data), reduction.queries(data))
        assert (again.dim, again.kept, again.radius) == (reduction.dim, reduction.kept, reduction.radius)

    @pytest.fixture
    def saved(self, tmp_path: Path) -> Path:
        fit_pca(vectors(40, 16), 5).save(tmp_path / "reduction.npz")
        return tmp_path / "reduction.npz"

    @pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.6, 0.99])
    def test_truncated(self, saved: Path, share: float) -> None:
        saved.write_bytes(saved.read_bytes()[: int(saved.stat().st_size * share)])
        with pytest.raises(BundleError, match=r"reduction\.npz"):
            Reduction.open(saved)

    @settings(max_examples=25)
    @given(st.data())
    def test_a_flipped_byte_is_noticed_or_changes_nothing_but_names(
        self, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
    ) -> None:
        path = tmp_path_factory.getbasetemp() / "flip" / "reduction.npz"
        path.parent.mkdir(exist_ok=True)
        fit_pca(vectors(10, 4), 2).save(path)
        content = bytearray(path.read_bytes())
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
        path.write_bytes(content)
        try:
            opened = Reduction.open(path)
        except BundleError:
            return
        assert opened.dim == 2

    @pytest.mark.parametrize("content", [b"garbage", b"PK\x03\x04garbage", b"\x93NUMPY", b"\x80\x04."])
    def test_garbage(self, saved: Path, content: bytes) -> None:
        saved.write_bytes(content)
        with pytest.raises(BundleError, match=r"reduction\.npz"):
            Reduction.open(saved)

    def test_missing(self, tmp_path: Path) -> None:
        with pytest.raises(BundleError, match=r"reduction\.npz"):
            Reduction.open(tmp_path / "reduction.npz")

    def test_a_plain_npy_in_its_place(self, saved: Path) -> None:
        with saved.open("wb") as file:
            np.save(file, np.zeros((5, 16), np.float32))
        with pytest.raises(BundleError, match=r"reduction\.npz"):
            Reduction.open(saved)

    @pytest.mark.parametrize(
        "change",
        [
            {"mean": np.zeros(15, np.float32)},
            {"mean": np.zeros((1, 16), np.float32)},
            {"components": np.zeros(16, np.float32)},
            {"components": np.zeros((5, 15), np.float32)},
            {"kept": np.zeros(3)},
            {"radius": np.array("x")},
            {"mean": np.array([None] * 16)},
            {"mean": np.array(["a"] * 16)},
            {"mean": np.full(16, np.nan, np.float32)},
            {"components": np.full((5, 16), np.inf, np.float32)},
            {"radius": np.float64("nan")},
            {"mean": None},
            {"components": None},
            {"kept": None},
            {"radius": None},
        ],
        ids=lambda change: ",".join(
            f"{name}-{None if a is None else (a.dtype, a.shape)}" for name, a in change.items()
        ).replace(" ", ""),
    )
    def test_arrays_that_do_not_fit(self, saved: Path, change: dict[str, npt.NDArray[np.generic] | None]) -> None:
        with np.load(saved) as file:
            content = {name: file[name] for name in file.files} | change
        np.savez(saved, **{name: array for name, array in content.items() if array is not None})
        with pytest.raises(BundleError, match=r"reduction\.npz"):
            Reduction.open(saved)
