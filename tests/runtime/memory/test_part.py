"""One modality: its index against NumPy, and its files when they are not what they were."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from memories import add_part, unit
from usearch.index import Index

from rar.runtime import Bundle, BundleError, InputError, Memory
from rar.runtime.bundle import stage
from rar.runtime.files import write_json
from rar.runtime.memory import Modality
from rar.runtime.memory.part import Part

Floats = npt.NDArray[np.float32]


def clusters(classes: int, each: int, width: int = 24, seed: int = 0) -> tuple[Floats, npt.NDArray[np.int32]]:
    """Unit vectors around a centre a class."""
    chance = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes, dtype=np.int32), each)
    centres = chance.normal(size=(classes, width))
    return unit(centres[labels] + 0.4 * chance.normal(size=(len(labels), width))), labels


def build(
    root: Path,
    vectors: Floats,
    labels: npt.NDArray[np.int32],
    dim: int | None = 8,
    name: Modality = "pictures",
) -> Path:
    with stage(root, "memory") as staging:
        staging.info["text_weight"] = float(name == "texts")
        add_part(staging, name, vectors, labels, dim)
        write_json(staging.folder / "labels.json", [f"class {i}" for i in range(int(labels.max()) + 1)])
    return root


def open_part(root: Path, name: Modality = "pictures") -> Part:
    return Part.open(Bundle.open(root), name)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("part") / "bundle", *clusters(20, 30))


@pytest.fixture
def own(tmp_path: Path) -> Path:
    return build(tmp_path / "bundle", *clusters(6, 5))


def npy(array: npt.NDArray[Any], *, pickled: bool = False) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=pickled)
    return buffer.getvalue()


class TestNearest:
    @pytest.mark.parametrize("name", ["pictures", "texts"])
    @pytest.mark.parametrize("dim", [None, 8, 2])
    def test_equals_brute_force_when_all_are_scored_again(
        self, tmp_path: Path, name: Modality, dim: int | None
    ) -> None:
        vectors, labels = clusters(20, 10)
        part = open_part(build(tmp_path / "bundle", vectors, labels, dim, name), name)
        queries, _ = clusters(20, 1, seed=0)
        ids, cosines = part.nearest(queries, 200)
        expected = queries @ vectors.astype(np.float16).astype(np.float32).T
        np.testing.assert_allclose(cosines, -np.sort(-expected, axis=1), atol=1e-6)
        np.testing.assert_allclose(np.take_along_axis(expected, ids, 1), cosines, atol=1e-6)

    def test_finds_the_nearest_with_few_scored_again(self, shared: Path) -> None:
        part = open_part(shared)
        queries, _ = clusters(20, 8, seed=0)
        exact = part.nearest(queries, 1, exact=True)[0][:, 0]
        found = part.nearest(queries, 50)[0][:, 0]
        assert (exact == found).mean() > 0.97

    def test_cosines_are_of_the_stored_vectors_at_full_dimension(self, shared: Path) -> None:
        part = open_part(shared)
        queries, _ = clusters(3, 2, seed=5)
        ids, cosines = part.nearest(queries, 7)
        full = np.einsum("nd,nkd->nk", queries, part.vectors[ids].astype(np.float32))
        np.testing.assert_allclose(cosines, full, atol=1e-6)
        assert (np.diff(cosines, axis=1) <= 0).all()

    @pytest.mark.parametrize("exact", [False, True])
    def test_count_is_clipped_to_the_size(self, own: Path, exact: bool) -> None:
        queries, _ = clusters(2, 1, seed=3)
        ids, cosines = open_part(own).nearest(queries, 1000, exact=exact)
        assert ids.shape == cosines.shape == (2, 30)
        assert [sorted(row) for row in ids.tolist()] == [list(range(30))] * 2

    @pytest.mark.parametrize("exact", [False, True])
    def test_a_single_query_equals_its_row_in_a_batch(self, shared: Path, exact: bool) -> None:
        part = open_part(shared)
        queries, _ = clusters(5, 1, seed=9)
        ids, cosines = part.nearest(queries, 10, exact=exact)
        for row in range(5):
            alone_ids, alone_cosines = part.nearest(queries[row : row + 1], 10, exact=exact)
            np.testing.assert_array_equal(alone_ids[0], ids[row])
            np.testing.assert_allclose(alone_cosines[0], cosines[row], atol=1e-6)

    def test_one_entry(self, tmp_path: Path) -> None:
        part = open_part(build(tmp_path / "bundle", *clusters(1, 1)))
        ids, cosines = part.nearest(clusters(3, 1)[0], 5)
        assert ids.tolist() == [[0]] * 3
        assert len(part) == 1
        assert np.isfinite(cosines).all()

    @settings(max_examples=25)
    @given(st.integers(1, 5), st.integers(1, 12), st.integers(1, 24), st.integers(0, 99))
    def test_any_small_part_is_searched_whole(
        self, tmp_path_factory: pytest.TempPathFactory, classes: int, each: int, dim: int, seed: int
    ) -> None:
        vectors, labels = clusters(classes, each, seed=seed)
        part = open_part(build(tmp_path_factory.mktemp("small") / "bundle", vectors, labels, dim))
        ids, _ = part.nearest(vectors[:2], len(vectors))
        assert [sorted(row) for row in ids.tolist()] == [list(range(len(vectors)))] * len(vectors[:2])


class TestWrite:
    def test_says_what_it_wrote(self, own: Path) -> None:
        written = Bundle.open(own).component("memory").info["pictures"]
        assert (written["entries"], written["index_dim"], written["index_dtype"]) == (30, 8, "f16")
        assert 0 < written["kept"] <= 1

    @pytest.mark.parametrize("value", [np.nan, np.inf, 0.0])
    def test_vectors_that_are_none(self, tmp_path: Path, value: float) -> None:
        vectors, labels = clusters(2, 3)
        vectors[4] = value
        with pytest.raises(InputError, match="entry 4 embeds to"):
            build(tmp_path / "bundle", vectors, labels)
        assert not (tmp_path / "bundle").exists()

    @pytest.mark.parametrize("dim", [0, 25])
    def test_dimensions_out_of_range_leave_nothing(self, tmp_path: Path, dim: int) -> None:
        with pytest.raises(InputError, match="dimensions"):
            build(tmp_path / "bundle", *clusters(2, 3), dim=dim)
        assert not (tmp_path / "bundle").exists()

    def test_is_the_same_when_built_again(self, tmp_path: Path) -> None:
        roots = [build(tmp_path / name, *clusters(6, 5)) for name in "ab"]
        for file in ("vectors.npy", "entries.npy"):
            a, b = (Bundle.open(root).file("memory", f"pictures/{file}").read_bytes() for root in roots)
            assert a == b
        a_ids, b_ids = (open_part(root).nearest(clusters(6, 1, seed=4)[0], 5)[0] for root in roots)
        np.testing.assert_array_equal(a_ids, b_ids)


FILES = ("index.usearch", "vectors.npy", "entries.npy", "sources.npy", "sources.utf8", "reduction.npz")


class TestDamage:
    """With the manifest untouched, and with one that was forged to match."""

    @pytest.mark.parametrize("name", FILES)
    def test_missing_or_truncated(self, own: Path, name: str) -> None:
        path = own / "memory" / "pictures" / name
        path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(BundleError, match=name):
            Memory.open(own)
        path.unlink()
        with pytest.raises(BundleError, match=name):
            Memory.open(own)

    @pytest.mark.parametrize("name", ["index.usearch", "reduction.npz"])
    def test_altered_at_the_same_size(self, own: Path, name: str) -> None:
        """An altered index walks out of its own memory and kills the process: it must not be searched."""
        path = own / "memory" / "pictures" / name
        content = bytearray(path.read_bytes())
        content[-5] ^= 1
        path.unlink()  # a new file: the old one may be mapped
        path.write_bytes(content)
        with pytest.raises(BundleError, match=name):
            Memory.open(own)

    @pytest.mark.parametrize("name", FILES)
    @pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.9, 0.999])
    def test_truncated_and_forged(self, own: Path, name: str, share: float, replace_file: Callable[..., Path]) -> None:
        content = (own / "memory" / "pictures" / name).read_bytes()
        replace_file(own, "memory", f"pictures/{name}", content[: int(len(content) * share)])
        with pytest.raises(BundleError):
            Memory.open(own)

    @pytest.mark.parametrize("name", FILES)
    @pytest.mark.parametrize("content", [b"garbage" * 100, bytes(4096), b"\xff" * 4096, b"\x93NUMPY\x01\x00" * 9])
    def test_garbage_and_forged(self, own: Path, name: str, content: bytes, replace_file: Callable[..., Path]) -> None:
        replace_file(own, "memory", f"pictures/{name}", content)
        with pytest.raises(BundleError):
            Memory.open(own)

    @pytest.mark.parametrize("name", FILES)
    def test_any_part_s_file_in_another_s_place(
        self, own: Path, tmp_path: Path, name: str, replace_file: Callable[..., Path]
    ) -> None:
        other = build(tmp_path / "other", *clusters(4, 4, width=16), dim=5)
        replace_file(own, "memory", f"pictures/{name}", (other / "memory" / "pictures" / name).read_bytes())
        with pytest.raises(BundleError, match="do not belong together"):
            Memory.open(own)

    @pytest.mark.parametrize("name", ["vectors.npy", "entries.npy"])
    def test_a_pickle_is_never_loaded(self, own: Path, name: str, replace_file: Callable[..., Path]) -> None:
        replace_file(own, "memory", f"pictures/{name}", npy(np.array([{"a": 1}] * 30), pickled=True))
        with pytest.raises(BundleError, match="mapped"):
            Memory.open(own)

    @pytest.mark.parametrize(
        ("name", "array"),
        [
            ("vectors.npy", np.zeros((30, 24), np.float32)),
            ("vectors.npy", np.zeros((30, 24, 1), np.float16)),
            ("vectors.npy", np.zeros(30, np.float16)),
            ("vectors.npy", np.zeros((29, 24), np.float16)),
            ("vectors.npy", np.zeros((30, 23), np.float16)),
            ("vectors.npy", np.zeros((0, 24), np.float16)),
            ("entries.npy", np.zeros(30, np.int64)),
            ("entries.npy", np.zeros((30, 1), np.int32)),
            ("entries.npy", np.zeros(31, np.int32)),
            ("entries.npy", np.zeros(30, np.float32)),
            ("entries.npy", np.full(30, 6, np.int32)),
            ("entries.npy", np.full(30, -1, np.int32)),
        ],
        ids=lambda value: f"{value.dtype}{list(value.shape)}" if isinstance(value, np.ndarray) else None,
    )
    def test_arrays_that_do_not_fit(
        self, own: Path, name: str, array: npt.NDArray[Any], replace_file: Callable[..., Path]
    ) -> None:
        replace_file(own, "memory", f"pictures/{name}", npy(array))
        with pytest.raises(BundleError, match="memory/pictures"):
            Memory.open(own)

    @pytest.mark.parametrize(
        ("ndim", "metric", "keys"),
        [
            (7, "l2sq", np.arange(30)),
            (8, "l2sq", np.arange(29)),
            (8, "l2sq", np.arange(31)),
            (8, "l2sq", np.arange(30) + 5),
            (8, "l2sq", np.arange(30) * 1_000_000_007),
            (8, "cos", np.arange(30)),
        ],
        ids=["dimensions", "fewer", "more", "keys too high", "keys far too high", "metric"],
    )
    def test_a_foreign_index(
        self,
        own: Path,
        tmp_path: Path,
        ndim: int,
        metric: str,
        keys: npt.NDArray[Any],
        replace_file: Callable[..., Path],
    ) -> None:
        index = Index(ndim=ndim, metric=metric, dtype="f16")
        index.add(keys, np.random.default_rng(0).normal(size=(len(keys), ndim)).astype(np.float32))
        index.save(str(tmp_path / "foreign"))
        replace_file(own, "memory", "pictures/index.usearch", (tmp_path / "foreign").read_bytes())
        with pytest.raises(BundleError, match="memory"):
            Memory.open(own).search(clusters(2, 1)[0], 2)

    def test_the_mapped_index_may_be_replaced_while_it_is_read(self, own: Path) -> None:
        part = open_part(own)
        queries, _ = clusters(4, 1, seed=2)
        before = part.nearest(queries, 5)[0]
        build(own, *clusters(6, 9, seed=1))
        np.testing.assert_array_equal(part.nearest(queries, 5)[0], before)
        assert len(open_part(own)) == 54
