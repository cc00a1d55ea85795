"""One modality: its index against NumPy, and its files when they are not what they were."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from memories import add_part, fit_pca, npy, unit
from usearch.index import Index

from rar.runtime import Bundle, BundleError, InputError, Memory
from rar.runtime.bundle.change import stage
from rar.runtime.bundle.files import write_json
from rar.runtime.memory import Modality
from rar.runtime.memory.part import Part, PartSettings

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
    settings: PartSettings | None = None,
) -> Path:
    with stage(root, "memory") as staging:
        staging.info.update(text_weight=float(name == "texts"), pool=1)
        add_part(staging, name, vectors, labels, dim, settings=settings)
        write_json(staging.folder / "labels.json", [f"class {i}" for i in range(int(labels.max()) + 1)])
    return root


def open_part(root: Path, name: Modality = "pictures") -> Part:
    bundle = Bundle.open(root)
    return Part.open(bundle, name, len(bundle.read_json("memory", "labels.json")))


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("part") / "bundle", *clusters(20, 30))


@pytest.fixture
def own(tmp_path: Path) -> Path:
    return build(tmp_path / "bundle", *clusters(6, 5))


def brute_force(vectors: Floats, queries: Floats) -> npt.NDArray[np.float64]:
    """Cosines at full dimension with the vectors as they are stored: [N, n]."""
    return queries.astype(np.float64) @ vectors.astype(np.float16).astype(np.float64).T


def check(found: tuple[Any, Any], expected: npt.NDArray[np.float64], count: int) -> None:
    """The best of the expected cosines, best first, each of the entry that it is said to be of."""
    ids, cosines = found
    np.testing.assert_allclose(cosines, -np.sort(-expected, axis=1)[:, :count], atol=1e-5)
    np.testing.assert_allclose(np.take_along_axis(expected, ids, 1), cosines, atol=1e-5)


class TestNearest:
    @pytest.mark.parametrize("name", ["pictures", "texts"])
    @pytest.mark.parametrize("dim", [None, 8, 2])
    @pytest.mark.parametrize("exact", [False, None, True])
    def test_equals_brute_force_when_all_are_scored_again(
        self, tmp_path: Path, name: Modality, dim: int | None, exact: bool | None
    ) -> None:
        vectors, labels = clusters(20, 10)
        part = open_part(build(tmp_path / "bundle", vectors, labels, dim, name), name)
        queries, _ = clusters(20, 1, seed=0)
        check(part.nearest(queries, 200, ef=200, exact=exact), brute_force(vectors, queries), 200)

    @pytest.mark.parametrize("shards", [1, 3])
    def test_finds_the_nearest_with_few_scored_again(self, tmp_path: Path, shards: int) -> None:
        vectors, labels = clusters(20, 30)
        settings = PartSettings(shards=shards)
        part = open_part(build(tmp_path / "bundle", vectors, labels, settings=settings))
        assert len(part.graphs) == shards
        queries, _ = clusters(20, 8, seed=0)
        exact = part.nearest(queries, 1, exact=True)[0][:, 0]
        found = part.nearest(queries, 50, exact=False)[0][:, 0]
        assert (exact == found).mean() > 0.97

    def test_coarse_entries_bring_up_most_of_the_nearest(self, tmp_path: Path) -> None:
        vectors, labels = clusters(20, 30)
        learned = fit_pca(vectors, 16)
        scale = float(np.abs(learned.entries(vectors)).max()) / 127
        with stage(tmp_path / "bundle", "memory") as staging:
            staging.info.update(text_weight=0.0, pool=1)
            settings = PartSettings(index_dtype="i8")
            add_part(staging, "pictures", vectors, labels, settings=settings, reduction=replace(learned, scale=scale))
            write_json(staging.folder / "labels.json", [f"class {i}" for i in range(20)])
        part = open_part(tmp_path / "bundle")
        queries, _ = clusters(20, 8, seed=0)
        exact = part.nearest(queries, 10, exact=True)[0]
        found = part.nearest(queries, 100, exact=False)[0]
        recall = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(exact.tolist(), found.tolist(), strict=True)])
        assert recall > 0.97

    def test_cosines_are_of_the_stored_vectors_at_full_dimension(self, shared: Path) -> None:
        part = open_part(shared)
        queries, _ = clusters(3, 2, seed=5)
        ids, cosines = part.nearest(queries, 7, exact=False)
        full = np.einsum("nd,nkd->nk", queries, part.vectors[ids].astype(np.float32))
        np.testing.assert_allclose(cosines, full, atol=1e-6)
        assert (np.diff(cosines, axis=1) <= 0).all()

    @pytest.mark.parametrize("exact", [None, True])
    def test_count_is_clipped_to_the_size(self, own: Path, exact: bool | None) -> None:
        queries, _ = clusters(2, 1, seed=3)
        ids, cosines = open_part(own).nearest(queries, 1000, exact=exact)
        assert ids.shape == cosines.shape == (2, 30)
        assert [sorted(row) for row in ids.tolist()] == [list(range(30))] * 2

    @pytest.mark.parametrize("exact", [False, True])
    def test_a_single_query_equals_its_row_in_a_batch(self, shared: Path, exact: bool) -> None:
        part = open_part(shared)
        queries, _ = clusters(5, 1, seed=9)
        ids, cosines = part.nearest(queries, 10, exact=exact, threads=2)
        for row in range(5):
            alone_ids, alone_cosines = part.nearest(queries[row : row + 1], 10, exact=exact)
            np.testing.assert_array_equal(alone_ids[0], ids[row])
            np.testing.assert_allclose(alone_cosines[0], cosines[row], atol=1e-6)

    def test_one_entry(self, tmp_path: Path) -> None:
        part = open_part(build(tmp_path / "bundle", *clusters(1, 1)))
        for exact in (False, None, True):
            ids, cosines = part.nearest(clusters(3, 1)[0], 5, exact=exact)
            assert ids[:, 0].tolist() == [0] * 3
            assert np.isfinite(cosines[:, 0]).all()
            assert (ids[:, 1:] == -1).all()
        assert len(part) == 1

    @settings(max_examples=25)
    @given(st.integers(1, 5), st.integers(1, 12), st.integers(1, 24), st.integers(0, 99))
    def test_any_small_part_is_searched_whole(
        self, tmp_path_factory: pytest.TempPathFactory, classes: int, each: int, dim: int, seed: int
    ) -> None:
        vectors, labels = clusters(classes, each, seed=seed)
        part = open_part(build(tmp_path_factory.mktemp("small") / "bundle", vectors, labels, dim))
        ids, _ = part.nearest(vectors[:2], len(vectors))
        assert [sorted(row) for row in ids.tolist()] == [list(range(len(vectors)))] * len(vectors[:2])

    @pytest.mark.parametrize("exact", [False, None, True])
    @pytest.mark.parametrize("allowed", [[3], [0, 7, 11], list(range(19))])
    def test_only_entries_of_allowed_classes_are_found(
        self, shared: Path, allowed: list[int], exact: bool | None
    ) -> None:
        part = open_part(shared)
        queries, _ = clusters(20, 1, seed=4)
        mask = np.zeros(20, np.uint8)
        mask[allowed] = 1
        reach = 30 * len(allowed)
        count = min(reach, 200)
        ids, cosines = part.nearest(queries, count, allowed=mask, reach=reach, exact=exact)
        assert set(part.labels[ids[ids >= 0]].tolist()) <= set(allowed)
        expected = brute_force(part.vectors.astype(np.float32), queries)[:, np.isin(part.labels, allowed)]
        best = -np.sort(-expected, axis=1)[:, :10]
        assert (np.abs(cosines[:, :10] - best) < 1e-5).mean() > 0.95

    def test_a_removed_entry_on_the_disk_is_not_found(self, tmp_path: Path) -> None:
        vectors, labels = clusters(4, 30)
        labels[::2] = -1
        part = open_part(build(tmp_path / "bundle", vectors, labels))
        for exact in (False, None, True):
            ids, _ = part.nearest(vectors[:20:2], 60, ef=120, exact=exact)
            assert (ids % 2 == 1).all()
        assert part.counts.tolist() == [15] * 4
        assert part.gone == 60


class TestGrowth:
    """A part that changed equals one that was built so."""

    def test_added_entries_are_found_among_the_built(self, shared: Path) -> None:
        part = open_part(shared)
        vectors, labels = clusters(20, 3, seed=6)
        grown = part.appended(vectors.astype(np.float16), labels, [f"later {i}" for i in range(60)])
        queries, _ = clusters(20, 1, seed=8)
        both = np.vstack([part.vectors.astype(np.float32), vectors])
        for exact in (None, True):
            check(grown.nearest(queries, 660, exact=exact), brute_force(both, queries), 660)
        assert grown.labels_of(np.array([0, 599, 600, 659])).tolist() == [0, 19, 0, 19]
        assert (grown.source(599), grown.source(600), grown.source(659)) == ("pictures 599", "later 0", "later 59")
        assert grown.entries(3) == [*range(90, 120), 609, 610, 611]
        np.testing.assert_allclose(grown.vector(601), vectors[1], atol=1e-3)
        assert grown.counts.tolist() == [33] * 20

    def test_an_earlier_view_stays_as_it_is(self, shared: Path) -> None:
        views = [open_part(shared)]
        vectors, labels = clusters(20, 3, seed=6)
        for i in range(60):
            one = slice(i, i + 1)
            views.append(views[-1].appended(vectors[one].astype(np.float16), labels[one], [f"later {i}"]))
        for i, view in enumerate(views):
            assert len(view) == 600 + i
            np.testing.assert_array_equal(view.added.vectors, vectors[:i].astype(np.float16))
            assert list(view.added.sources) == [f"later {j}" for j in range(i)]

    def test_classes_are_numbered_anew(self, shared: Path) -> None:
        part = open_part(shared)
        part = part.appended(part.vectors[:2], np.array([4, 5], np.int32), ["x", "y"])
        moves = np.arange(21, dtype=np.int32)
        moves[5:] -= 1  # class 4 goes, 5 becomes 4
        moves[[4, 20]] = -1
        part = part.moved(moves, 19)
        again = np.arange(20, dtype=np.int32)
        again[[0, 19]] = 18, -1  # class 0 goes up in 18, which is 19 by its first number
        part = part.moved(again, 19)
        assert part.labels[[0, 119, 120, 150, 599]].tolist() == [18, 3, -1, 4, 18]
        assert part.added.labels.tolist() == [-1, 4]
        assert part.counts.tolist() == [0, *[30] * 3, 31, *[30] * 13, 60]
        assert part.gone == 31

    def test_single_entries_go(self, shared: Path) -> None:
        part = open_part(shared)
        part = part.appended(part.vectors[:2], np.array([4, 5], np.int32), ["x", "y"])
        part = part.without([7, 601])
        assert 7 not in part.entries(0)
        assert part.added.labels.tolist() == [4, -1]
        assert (part.counts[0], part.counts[4], part.counts[5]) == (29, 31, 30)

    def test_a_part_that_was_never_built(self) -> None:
        part = Part.empty(24, 2)
        queries, _ = clusters(3, 1)
        assert part.nearest(queries, 5)[0].shape == (3, 0)
        vectors, _ = clusters(2, 4)
        part = part.appended(vectors.astype(np.float16), np.repeat([0, 1], 4).astype(np.int32), ["a"] * 8)
        for exact in (False, None, True):
            check(part.nearest(queries, 20, exact=exact), brute_force(vectors, queries), 8)
        assert part.labels_of(np.array([[0, 7]])).tolist() == [[0, 1]]


class TestOfEarlierReleases:
    @pytest.mark.parametrize(
        "former", [{"reducer": "whitened"}, {"reducer": "random"}, *({"index_dtype": d} for d in ("f32", "bf16", "b1"))]
    )
    def test_what_is_no_longer_read_is_said_with_the_command(
        self, own: Path, former: dict[str, str], edit_manifest: Callable[..., None]
    ) -> None:
        edit_manifest(own, lambda manifest: manifest["components"]["memory"]["info"]["pictures"].update(former))
        (value,) = former.values()
        with pytest.raises(
            BundleError, match=rf"has .*'{value}'.*build the memory again with `rar-export memory .*bundle`"
        ):
            open_part(own)


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


def write_anew(path: Path, content: bytes) -> None:
    path.unlink()  # a new file: the old one may be mapped
    path.write_bytes(content)


@pytest.fixture(scope="module")
def any_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("any") / "bundle", *clusters(6, 20))


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

    def test_a_header_that_is_no_python(self, own: Path) -> None:
        path = own / "memory" / "pictures" / "vectors.npy"
        content = path.read_bytes()
        for at in range(10, content.index(b"\n")):
            for to in b"\"'(#\\":
                write_anew(path, content[:at] + bytes([to]) + content[at + 1 :])
                with suppress(BundleError):
                    Memory.open(own)

    @settings(max_examples=150)
    @given(st.data())
    def test_an_altered_byte_is_an_error_or_another_answer(self, any_bundle: Path, data: st.DataObject) -> None:
        """Never a crash: of the large files nothing is hashed when they are opened. `verify` finds each."""
        name = data.draw(st.sampled_from(FILES))
        path = any_bundle / "memory" / "pictures" / name
        content = path.read_bytes()
        at = data.draw(st.integers(0, len(content) - 1))
        altered = bytearray(content)
        altered[at] ^= data.draw(st.integers(1, 255))
        try:
            write_anew(path, bytes(altered))
            with pytest.raises(BundleError, match=f"{name}: altered"):
                Bundle.open(any_bundle).verify()
            try:
                memory = Memory.open(any_bundle)
                for exact in (False, True):
                    for candidates in memory.search(clusters(6, 1)[0], 2, exact=exact):
                        assert len({c.label for c in candidates}) == len(candidates) <= 2
            except BundleError:
                pass
        finally:
            write_anew(path, content)

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
            ("entries.npy", np.full(30, -2, np.int32)),
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
            Memory.open(own).search(clusters(2, 1)[0], 2, exact=False)

    def test_the_mapped_index_may_be_replaced_while_it_is_read(self, own: Path) -> None:
        part = open_part(own)
        queries, _ = clusters(4, 1, seed=2)
        before = part.nearest(queries, 5)[0]
        build(own, *clusters(6, 9, seed=1))
        np.testing.assert_array_equal(part.nearest(queries, 5)[0], before)
        assert len(open_part(own)) == 54
