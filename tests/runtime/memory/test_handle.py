"""The memory: k distinct classes, weighed as documented."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from memories import add_part, unit

from rar.runtime import Bundle, BundleError, Candidate, InputError, Memory
from rar.runtime.bundle.change import annotate, stage
from rar.runtime.bundle.files import write_json
from rar.runtime.memory import MODALITIES, Entry

Floats = npt.NDArray[np.float32]
Entries = tuple[Floats, npt.NDArray[np.int32]]

WIDTH = 24


def clusters(sizes: list[int], seed: int = 0, spread: float = 0.4, classes: list[int] | None = None) -> Entries:
    """As many unit vectors a class as `sizes` says; the centres depend on the class only."""
    chance = np.random.default_rng(seed)
    own = list(range(len(sizes))) if classes is None else classes
    labels = np.repeat(np.array(own, np.int32), sizes)
    centres = np.random.default_rng(77).normal(size=(max(own) + 1, WIDTH))
    return unit(centres[labels] + spread * chance.normal(size=(len(labels), WIDTH))), labels


def build(
    root: Path,
    pictures: Entries | None = None,
    texts: Entries | None = None,
    *,
    dim: int | None = 8,
    text_weight: float | None = None,
    pool: int = 1,
    tags: dict[str, list[str]] | None = None,
) -> Path:
    parts = {name: part for name, part in zip(MODALITIES, (pictures, texts), strict=True) if part is not None}
    count = 1 + max(int(labels.max()) for _, labels in parts.values())
    with stage(root, "memory") as staging:
        staging.info.update(text_weight=float(pictures is None) if text_weight is None else text_weight, pool=pool)
        for name, (vectors, labels) in parts.items():
            add_part(staging, name, vectors, labels, dim)
        write_json(staging.folder / "labels.json", [f"class {i}" for i in range(count)])
        if tags is not None:
            write_json(staging.folder / "tags.json", tags)
    return root


def brute_force(entries: Entries, queries: Floats, classes: int) -> npt.NDArray[np.float64]:
    """Best cosine a class at full dimension, from the vectors as they are stored: [N, classes], -inf for none."""
    vectors, labels = entries
    cosines = queries.astype(np.float64) @ vectors.astype(np.float16).astype(np.float64).T
    best = np.full((len(queries), classes), -np.inf)
    for column, label in enumerate(labels):
        best[:, label] = np.maximum(best[:, label], cosines[:, column])
    return best


def check(found: list[list[Candidate]], expected: npt.NDArray[np.float64], k: int, atol: float = 1e-5) -> None:
    """The k best of the expected scores, best first; equal scores in any order."""
    assert len(found) == len(expected)
    for candidates, scores in zip(found, expected, strict=True):
        assert len(candidates) == len({c.label for c in candidates}) == k
        np.testing.assert_allclose([c.similarity for c in candidates], np.sort(scores)[::-1][:k], atol=atol)
        own = [scores[int(c.label.split()[1])] for c in candidates]
        np.testing.assert_allclose([c.similarity for c in candidates], own, atol=atol)
        assert all(c.rank_score is None for c in candidates)


@pytest.fixture(scope="module")
def pictures() -> Entries:
    return clusters([12, 3, 25, 1, 40, 8, 8, 19])


@pytest.fixture(scope="module")
def texts() -> Entries:
    return clusters([2] * 8, seed=3, spread=0.8)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory, pictures: Entries, texts: Entries) -> Path:
    return build(tmp_path_factory.mktemp("both") / "bundle", pictures, texts, text_weight=0.3)


@pytest.fixture(scope="module")
def queries() -> Floats:
    return clusters([2] * 8, seed=5)[0]


@pytest.mark.parametrize(
    "opened", [{"text_weight": 0.0}, {"text_weight": 1.0}, {"text_weight": 0.5}, {"centred": True}]
)
@pytest.mark.parametrize("pool", [1, 3])
def test_nothing_is_more_similar_than_the_same(tmp_path: Path, opened: Any, pool: int) -> None:
    """Stored vectors are rounded: about half of them have a dot product above 1 with the vector that they are of."""
    entries = clusters([40] * 5, seed=4)
    root = build(tmp_path / "bundle", entries, entries, text_weight=0.5, pool=pool)
    memory = Memory.open(root, **opened)
    for signs in (1, -1):
        for exact in (True, False):
            for row in memory.search(np.asarray(signs * entries[0], np.float32), 5, exact=exact):
                assert all(-1 <= candidate.similarity <= 1 for candidate in row)


class TestSearch:
    @pytest.mark.parametrize("k", [1, 3, 8])
    @pytest.mark.parametrize("exact", [False, True])
    def test_equals_brute_force_when_all_are_scored_again(
        self, both: Path, pictures: Entries, queries: Floats, k: int, exact: bool
    ) -> None:
        found = Memory.open(both, text_weight=0.0).search(queries, k, rescore=10_000, exact=exact)
        check(found, brute_force(pictures, queries, 8), k)

    def test_the_default_finds_the_same_on_clusters(self, both: Path, queries: Floats) -> None:
        memory = Memory.open(both, text_weight=0.0)
        found, exact = memory.search(queries, 1), memory.search(queries, 1, exact=True)
        assert [row[0].label for row in found] == [row[0].label for row in exact]

    @pytest.mark.parametrize("crowd", [60, 300, 2000])
    @pytest.mark.parametrize("spread", [1e-4, 0.0])
    def test_k_distinct_classes_even_where_one_fills_the_nearest(
        self, tmp_path: Path, crowd: int, spread: float
    ) -> None:
        near, labels = clusters([crowd], spread=spread)
        far = clusters([1] * 4, classes=[1, 2, 3, 4])
        root = build(tmp_path / "bundle", (np.vstack([near, far[0]]), np.concatenate([labels, far[1]])))
        for rescore in (1, 50):
            found = Memory.open(root).search(near[:1], 5, rescore=rescore)[0]
            assert found[0].label == "class 0"
            assert sorted(c.label for c in found) == [f"class {i}" for i in range(5)]

    @pytest.mark.parametrize("added", [0, 300])
    @pytest.mark.parametrize("removed", [False, True])
    @pytest.mark.parametrize("tags", [None, ["even"]])
    def test_large_classes_do_not_hide_the_next_ones(
        self, tmp_path: Path, added: int, removed: bool, tags: list[str] | None
    ) -> None:
        """Whether they were built, came later or lost the class between; at a walk that sees much the classes are those
        of exact search."""
        count = 40
        entries = clusters([120] * count, spread=0.3)
        names = [f"class {i}" for i in range(count)]
        root = build(tmp_path / "bundle", entries, dim=16, tags={"even": names[::2]})
        queries = clusters([1] * count, seed=9, spread=0.3)[0]
        with closing(Memory.open(root)) as memory:
            if added:
                vectors, labels = clusters([0, 0, added], seed=11, spread=0.3)
                memory.add(vectors, [names[label] for label in labels])
            if removed:
                memory.remove("class 4")
            exact = memory.search(queries, 5, exact=True, tags=tags)
            found = memory.search(queries, 5, exact=False, ef=300, tags=tags)
            default = memory.search(queries, 5, exact=False, tags=tags)
        pairs = list(zip(found, exact, strict=True))
        assert np.mean([[c.label for c in a] == [c.label for c in b] for a, b in pairs]) > 0.8
        for row in (*found, *default):
            assert len({c.label for c in row}) == len(row) == 5
            assert [c.similarity for c in row] == sorted((c.similarity for c in row), reverse=True)
            assert tags is None or all(c.label in names[::2] for c in row)
            assert not removed or all(c.label != "class 4" for c in row)

    def test_where_copies_of_one_picture_fill_every_class(self, tmp_path: Path) -> None:
        one = clusters([1])[0]
        labels = np.repeat(np.arange(6, dtype=np.int32), 100)
        root = build(tmp_path / "bundle", (np.repeat(one, 600, 0), labels))
        assert len({c.label for c in Memory.open(root).search(one, 6)[0]}) == 6

    @settings(max_examples=25)
    @given(st.lists(st.integers(1, 30), min_size=1, max_size=8), st.integers(1, 60), st.data())
    def test_any_memory_gives_k_distinct_classes_best_first(
        self, tmp_path_factory: pytest.TempPathFactory, sizes: list[int], rescore: int, data: st.DataObject
    ) -> None:
        k = data.draw(st.integers(1, len(sizes)))
        root = build(tmp_path_factory.mktemp("any") / "bundle", clusters(sizes), dim=data.draw(st.integers(1, WIDTH)))
        for row in Memory.open(root).search(clusters([1] * 3, seed=1)[0], k, rescore=rescore):
            assert len({c.label for c in row}) == len(row) == k
            assert [c.similarity for c in row] == sorted((c.similarity for c in row), reverse=True)

    def test_a_single_query_equals_its_row_in_a_batch(self, both: Path, queries: Floats) -> None:
        memory = Memory.open(both)
        together = memory.search(queries, 4)
        for row, query in enumerate(queries):
            alone = memory.search(query[None], 4)[0]
            assert [c.label for c in alone] == [c.label for c in together[row]]

    def test_no_query(self, both: Path) -> None:
        assert Memory.open(both).search(np.empty((0, WIDTH), np.float32), 3) == []

    def test_other_floats_and_lists_do(self, both: Path, queries: Floats) -> None:
        memory = Memory.open(both)
        expected = [c.label for c in memory.search(queries[:1], 3)[0]]
        for other in (queries[:1].astype(np.float64), queries[:1].tolist(), np.asfortranarray(queries)[:1]):
            assert [c.label for c in memory.search(other, 3)[0]] == expected

    def test_from_many_threads_as_from_one(self, both: Path, queries: Floats) -> None:
        memory = Memory.open(both)
        expected = memory.search(queries, 5)
        with ThreadPoolExecutor(8) as pool:
            for found in pool.map(lambda count: memory.search(queries, 5, rescore=count), [50] * 40):
                assert found == expected


class TestBounds:
    @pytest.mark.parametrize("k", [0, -1, 9, 10**9])
    def test_k(self, both: Path, queries: Floats, k: int) -> None:
        with pytest.raises(InputError, match=f"k={k}, but the memory holds 8 classes; choose 1 to 8"):
            Memory.open(both).search(queries, k)

    @pytest.mark.parametrize(
        "shape", [(WIDTH,), (1, WIDTH + 1), (1, WIDTH - 1), (1, 1, WIDTH), (WIDTH, 1), ()], ids=str
    )
    def test_queries_of_another_shape(self, both: Path, shape: tuple[int, ...]) -> None:
        with pytest.raises(InputError, match=r"queries must have shape \[N, 24\]"):
            Memory.open(both).search(np.zeros(shape, np.float32), 1)

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_queries_with_nan_or_infinity(self, both: Path, queries: Floats, value: float) -> None:
        wrong = queries.copy()
        wrong[-1, 3] = value
        with pytest.raises(InputError, match="NaN or infinity"):
            Memory.open(both).search(wrong, 1)

    def test_a_class_without_entries_does_not_count(self, tmp_path: Path, queries: Floats) -> None:
        root = build(tmp_path / "bundle", clusters([2, 2], classes=[0, 3]))
        memory = Memory.open(root)
        assert memory.classes == 2
        assert {c.label for c in memory.search(queries[:1], 2)[0]} == {"class 0", "class 3"}
        with pytest.raises(InputError, match="2 classes"):
            memory.search(queries[:1], 3)

    def test_dim(self, both: Path) -> None:
        assert Memory.open(both).dim == WIDTH


class TestTextWeight:
    def test_0_is_the_pictures_alone_and_1_the_texts(
        self, both: Path, pictures: Entries, texts: Entries, queries: Floats
    ) -> None:
        for weight, entries in ((0.0, pictures), (1.0, texts)):
            memory = Memory.open(both, text_weight=weight)
            check(memory.search(queries, 8, rescore=1000), brute_force(entries, queries, 8), 8)

    @pytest.mark.parametrize("weight", [None, 0.1, 0.5, 0.9])
    def test_between_it_is_the_weighed_sum(
        self, both: Path, pictures: Entries, texts: Entries, queries: Floats, weight: float | None
    ) -> None:
        memory = Memory.open(both, text_weight=weight)
        w = 0.3 if weight is None else weight
        assert memory.text_weight == w
        expected = (1 - w) * brute_force(pictures, queries, 8) + w * brute_force(texts, queries, 8)
        check(memory.search(queries, 5, rescore=1000), expected, 5)

    def test_exact_search_gives_the_weighed_sum_whatever_is_scored_again(
        self, both: Path, pictures: Entries, texts: Entries, queries: Floats
    ) -> None:
        expected = 0.5 * brute_force(pictures, queries, 8) + 0.5 * brute_force(texts, queries, 8)
        check(Memory.open(both, text_weight=0.5).search(queries, 5, exact=True), expected, 5)

    def test_a_class_of_one_modality_can_still_be_found(self, tmp_path: Path) -> None:
        root = build(tmp_path / "bundle", clusters([3, 3], classes=[0, 1]), clusters([1, 1], classes=[1, 2]))
        memory = Memory.open(root, text_weight=0.5)
        assert memory.classes == 3
        assert len({c.label for c in memory.search(clusters([1])[0], 3)[0]}) == 3

    def test_a_missing_modality_is_no_advantage(self, tmp_path: Path) -> None:
        texts = clusters([1, 1, 1])
        pictures = clusters([2, 2], classes=[0, 1])
        root = build(tmp_path / "bundle", pictures, texts)
        query = clusters([1], spread=0.1)[0]
        scores = {c.label: c.similarity for c in Memory.open(root, text_weight=0.5).search(query, 3, rescore=100)[0]}
        best_pictures = brute_force(pictures, query, 3)[0]
        text = brute_force(texts, query, 3)[0]
        assert scores["class 2"] <= 0.5 * best_pictures[:2].max() + 0.5 * text[2] + 1e-6

    @pytest.mark.parametrize("weight", [-0.1, 1.1, float("nan"), float("inf")])
    def test_out_of_range(self, both: Path, weight: float) -> None:
        with pytest.raises(InputError, match="not between 0"):
            Memory.open(both, text_weight=weight)

    def test_without_the_modality(self, tmp_path: Path, pictures: Entries, texts: Entries) -> None:
        only_pictures, only_texts = build(tmp_path / "p", pictures), build(tmp_path / "t", None, texts)
        for root, missing, weights in ((only_pictures, "texts", (0.5, 1.0)), (only_texts, "pictures", (0.0, 0.5))):
            for weight in weights:
                with pytest.raises(InputError, match=f"needs {missing}, of which this memory has none"):
                    Memory.open(root, text_weight=weight)
            assert Memory.open(root).classes == 8


class TestOpen:
    def test_by_bundle_path_or_str(self, both: Path) -> None:
        for where in (both, str(both), Bundle.open(both)):
            assert len(Memory.open(where).labels) == 8

    def test_a_bundle_without_memory(self, tiny_bundle: Path) -> None:
        with pytest.raises(BundleError, match=r"no 'memory'.*rar-export memory"):
            Memory.open(tiny_bundle)

    @pytest.fixture
    def own(self, tmp_path: Path, pictures: Entries) -> Path:
        return build(tmp_path / "bundle", pictures)

    @pytest.mark.parametrize(
        "labels", [{}, None, "abc", 3, [1] * 8, ["a", None], [["a"]] * 8, ["a"] * 7, [], [*"abcdefg", "\ud800"]]
    )
    def test_labels_that_are_no_names_or_too_few(
        self, own: Path, labels: object, replace_file: Callable[..., Path]
    ) -> None:
        replace_file(own, "memory", "labels.json", json.dumps(labels).encode())
        with pytest.raises(BundleError, match="memory"):
            Memory.open(own)

    @pytest.mark.parametrize("content", [b"", b"[", b'["\xff"]'])
    def test_labels_that_are_no_json(self, own: Path, content: bytes, replace_file: Callable[..., Path]) -> None:
        replace_file(own, "memory", "labels.json", content)
        with pytest.raises(BundleError, match=r"labels\.json"):
            Memory.open(own)

    @pytest.mark.parametrize("stored", [None, "x", [], {}, 7, -1, "missing"])
    def test_a_stored_weight_that_is_none(self, own: Path, stored: object, edit_manifest: Callable[..., None]) -> None:
        def change(manifest: dict[str, Any]) -> None:
            info = manifest["components"]["memory"]["info"]
            info["text_weight"] = stored
            if stored == "missing":
                del info["text_weight"]

        edit_manifest(own, change)
        with pytest.raises(BundleError):
            Memory.open(own)

    def test_a_memory_without_entries(self, tmp_path: Path) -> None:
        with stage(tmp_path / "bundle", "memory") as staging:
            staging.info.update(text_weight=0.0, pool=1)
            write_json(staging.folder / "labels.json", ["a"])
        with pytest.raises(BundleError, match="memory"):
            Memory.open(tmp_path / "bundle")

    def test_parts_of_different_dimensions(self, tmp_path: Path, pictures: Entries) -> None:
        narrow = unit(np.random.default_rng(0).normal(size=(8, 5)))
        root = build(tmp_path / "bundle", pictures, (narrow, np.arange(8, dtype=np.int32)), dim=3, text_weight=0.5)
        with pytest.raises(BundleError, match="memory"):
            Memory.open(root)

    def test_labels_are_data(self, tmp_path: Path, pictures: Entries, replace_file: Callable[..., Path]) -> None:
        root = build(tmp_path / "bundle", pictures)
        odd = ['"', "a,b", "[x]\n", "{}", "</s>", " ", "烤鸭", "'; DROP"]
        replace_file(root, "memory", "labels.json", json.dumps(odd).encode())
        found = Memory.open(root).search(clusters([1])[0], 8)[0]
        assert sorted(c.label for c in found) == sorted(odd)


class TestProvenance:
    def test_each_candidate_says_which_entry_brought_it_in(
        self, both: Path, pictures: Entries, texts: Entries, queries: Floats
    ) -> None:
        for weight, name, (vectors, labels) in ((0.0, "pictures", pictures), (1.0, "texts", texts)):
            cosines = queries @ vectors.astype(np.float16).astype(np.float32).T
            for row, candidates in enumerate(Memory.open(both, weight).search(queries, 8, rescore=1000)):
                for candidate in candidates:
                    own = np.flatnonzero(labels == int(candidate.label.split()[1]))
                    best = own[cosines[row, own].argmax()]
                    assert candidate.entry == Entry(name, f"{name} {best}")  # type: ignore[arg-type]

    def test_of_two_modalities_the_one_that_speaks_for_it_more(self, tmp_path: Path) -> None:
        vectors = np.eye(WIDTH, dtype=np.float32)
        root = build(
            tmp_path / "bundle",
            (vectors[:4], np.array([0, 1, 2, 3], np.int32)),
            (vectors[:4], np.array([1, 0, 2, 3], np.int32)),
            dim=None,
            text_weight=0.5,
        )
        query = unit(np.array([[1.0, 0.6] + [0.0] * (WIDTH - 2)]))
        found = {c.label: c.entry for c in Memory.open(root).search(query, 2)[0]}
        # Class 0 has the better picture, class 1 the better text.
        assert found == {"class 0": Entry("pictures", "pictures 0"), "class 1": Entry("texts", "texts 0")}

    def test_altered_sources_are_another_text_and_no_crash(
        self, tmp_path: Path, pictures: Entries, replace_file: Callable[..., Path]
    ) -> None:
        root = build(tmp_path / "bundle", pictures)
        stored = np.load(root / "memory" / "pictures" / "sources.npy")
        stored[1:-1] = np.random.default_rng(0).integers(-(2**62), 2**62, len(stored) - 2)
        np.save(tmp_path / "sources.npy", stored)
        replace_file(root, "memory", "pictures/sources.npy", (tmp_path / "sources.npy").read_bytes())
        found = Memory.open(root).search(clusters([1])[0], 8)[0]
        assert all(isinstance(c.entry and c.entry.source, str) for c in found)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Entries]:
    """6,000 entries of 200 classes: wide filters walk the index, narrow ones compare."""
    entries = clusters([30] * 200, spread=0.6)
    return build(tmp_path_factory.mktemp("many") / "bundle", entries, dim=16), entries


class TestFilter:
    @pytest.mark.parametrize("count", [1, 2, 7, 30, 100, 199, 200])
    @pytest.mark.parametrize("exact", [False, None, True])
    def test_narrow_and_wide_equals_brute_force(
        self, many: tuple[Path, Entries], count: int, exact: bool | None
    ) -> None:
        root, entries = many
        chance = np.random.default_rng(count)
        allowed = chance.permutation(200)[:count]
        queries = clusters([1] * 200, seed=6)[0][:30]
        expected = brute_force(entries, queries, 200)
        expected[:, np.setdiff1d(np.arange(200), allowed)] = -np.inf
        k = min(count, 5)
        found = Memory.open(root).search(
            queries, k, labels=[f"class {i}" for i in allowed], exact=exact, rescore=200, ef=400
        )
        assert all(len({c.label for c in row}) == k for row in found)
        best = -np.sort(-expected, axis=1)[:, :k]
        same = np.isclose([[c.similarity for c in row] for row in found], best, atol=1e-5)
        assert same.mean() > (0.95 if exact is not True else 0.9999)

    def test_with_the_stored_settings_the_best_is_found(self, many: tuple[Path, Entries]) -> None:
        root, entries = many
        queries, labels = entries[0][::30], entries[1][::30]
        memory = Memory.open(root)
        for count in (3, 40, 150):
            allowed = [f"class {i}" for i in range(count)]
            found = memory.search(queries[:count], 1, labels=allowed)
            assert np.mean([row[0].label == f"class {i}" for row, i in zip(found, labels, strict=False)]) > 0.99

    def test_tags(self, tmp_path: Path, pictures: Entries, queries: Floats) -> None:
        root = build(
            tmp_path / "bundle", pictures, tags={"fruit": ["class 1", "class 2"], "red": ["class 2", "class 5"]}
        )
        memory = Memory.open(root)
        assert memory.tags == {"fruit": ["class 1", "class 2"], "red": ["class 2", "class 5"]}
        for tags, labels, expected in (
            (["fruit"], None, {1, 2}),
            (["fruit", "red"], None, {1, 2, 5}),
            (["red"], ["class 2", "class 3"], {2}),
        ):
            k = len(expected)
            found = {c.label for c in memory.search(queries[:1], k, tags=tags, labels=labels)[0]}
            assert found == {f"class {i}" for i in expected}
            with pytest.raises(InputError, match=f"k={k + 1}, but the filter leaves {k} classes"):
                memory.search(queries[:1], k + 1, tags=tags, labels=labels)

    @pytest.mark.parametrize(
        ("within", "message"),
        [
            ({"labels": ["class 1", "nobody"]}, "no class 'nobody'"),
            ({"tags": ["fruit"]}, "no tag 'fruit'; it has none"),
            ({"labels": "class 1"}, "give a list of labels"),
            ({"tags": "fruit"}, "give a list of tags"),
            ({"labels": []}, "0 classes"),
            ({"tags": []}, "0 classes"),
        ],
        ids=str,
    )
    def test_what_is_not_there(self, both: Path, queries: Floats, within: dict[str, Any], message: str) -> None:
        with pytest.raises(InputError, match=message):
            Memory.open(both).search(queries, 1, **within)

    def test_fewer_where_there_are_fewer_and_that_is_wanted(self, both: Path, queries: Floats) -> None:
        found = Memory.open(both).search(queries, 5, labels=["class 1", "class 3"], fewer=True)
        assert {len(row) for row in found} == {2}

    def test_sets_and_tuples_do(self, both: Path, queries: Floats) -> None:
        memory = Memory.open(both)
        for labels in ({"class 1"}, ("class 1",), ["class 1", "class 1"], dict.fromkeys(["class 1"])):
            assert memory.search(queries[:1], 1, labels=labels)[0][0].label == "class 1"

    @pytest.mark.parametrize(
        "content",
        [b"[]", b"3", b'{"a": 3}', b'{"a": ["nobody"]}', b'{"a": [["class 1"]]}', b'{"a": null}', b'{"\\ud800": []}'],
    )
    def test_tags_that_are_none(
        self, tmp_path: Path, pictures: Entries, content: bytes, replace_file: Callable[..., Path]
    ) -> None:
        root = build(tmp_path / "bundle", pictures, tags={"a": ["class 1"]})
        replace_file(root, "memory", "tags.json", content)
        with pytest.raises(BundleError, match=r"tags\.json"):
            Memory.open(root)


class TestPool:
    @pytest.mark.parametrize("pool", [2, 5, 100])
    @pytest.mark.parametrize("weight", [0.0, 0.4, 1.0])
    def test_a_class_counts_by_the_mean_of_its_best(
        self, tmp_path: Path, pictures: Entries, texts: Entries, queries: Floats, pool: int, weight: float
    ) -> None:
        root = build(tmp_path / "bundle", pictures, texts, text_weight=weight, pool=pool)
        expected = np.zeros((len(queries), 8))
        for share, (vectors, labels) in ((1 - weight, pictures), (weight, texts)):
            cosines = queries.astype(np.float64) @ vectors.astype(np.float16).astype(np.float64).T
            for label in range(8):
                own = -np.sort(-cosines[:, labels == label], axis=1)[:, :pool]
                expected[:, label] += share * own.mean(1)
        check(Memory.open(root).search(queries, 5, exact=True), expected, 5)
        check(Memory.open(root).search(queries, 5, rescore=1000), expected, 5)

    def test_entries_that_were_not_fetched_count_as_the_last_that_was(self, tmp_path: Path) -> None:
        """An upper bound: what was not fetched is not nearer."""
        root = build(tmp_path / "bundle", clusters([30, 30, 30]), pool=10)
        queries = clusters([1] * 3, seed=1)[0]
        memory = Memory.open(root)
        exact = memory.search(queries, 3, exact=True)
        for few, all_ in zip(memory.search(queries, 3, rescore=12, exact=False), exact, strict=True):
            known = {c.label: c.similarity for c in all_}
            assert all(c.similarity >= known[c.label] - 1e-2 for c in few)

    @pytest.mark.parametrize("pool", [0, -1, 1.5, "2", None, True])
    def test_a_stored_number_that_is_none(
        self, tmp_path: Path, pictures: Entries, pool: Any, edit_manifest: Callable[..., None]
    ) -> None:
        root = build(tmp_path / "bundle", pictures)
        edit_manifest(root, lambda manifest: manifest["components"]["memory"]["info"].update(pool=pool))
        with pytest.raises(BundleError, match="pool"):
            Memory.open(root)


class TestCentred:
    @pytest.mark.parametrize("weight", [0.0, 0.4, 1.0])
    @pytest.mark.parametrize("exact", [True, None])
    def test_similarities_are_of_what_is_left_of_the_means(
        self, tmp_path: Path, pictures: Entries, texts: Entries, queries: Floats, weight: float, exact: bool | None
    ) -> None:
        root = build(tmp_path / "bundle", pictures, texts, text_weight=weight)
        mean = pictures[0].mean(0)
        asked = unit(queries - mean)
        expected = np.zeros((len(queries), 8))
        for share, (vectors, labels) in ((1 - weight, pictures), (weight, texts)):
            left = vectors.astype(np.float16).astype(np.float64) - vectors.mean(0)
            dots = asked.astype(np.float64) @ (left / np.linalg.norm(left, axis=1, keepdims=True)).T
            expected += share * np.stack([dots[:, labels == label].max(1) for label in range(8)], 1)
        # A stored vector's length is 1 up to the rounding of float16, and taken to be 1.
        check(Memory.open(root, centred=True).search(queries, 5, exact=exact, rescore=1000), expected, 5, 3e-4)
        annotate(root, "memory", centred=True)
        check(Memory.open(root).search(queries, 5, exact=exact, rescore=1000), expected, 5, 3e-4)

    def test_of_added_entries_too(self, tmp_path: Path, pictures: Entries, queries: Floats) -> None:
        root = build(tmp_path / "bundle", pictures)
        memory = Memory.open(root, centred=True)
        mean = memory.parts["pictures"].reduction.mean
        memory.add(queries[:2], ["class 1", "new"])
        left, asked = unit(queries[:2] - mean), unit(queries - mean)
        found = memory.search(queries, 9, exact=True)
        for row in range(len(queries)):
            scores = {c.label: c.similarity for c in found[row]}
            assert scores["new"] == pytest.approx(float(asked[row] @ left[1]), abs=2e-3)
            assert scores["class 1"] >= float(asked[row] @ left[0]) - 2e-3

    def test_few_of_the_nearest_are_enough(self, tmp_path: Path) -> None:
        entries = clusters([30] * 100, spread=0.6)
        memory = Memory.open(build(tmp_path / "bundle", entries, dim=16), centred=True)
        queries = clusters([1] * 100, seed=4)[0]
        found, exact = memory.search(queries, 1, exact=False), memory.search(queries, 1, exact=True)
        same = [a[0].label == b[0].label for a, b in zip(found, exact, strict=True)]
        assert np.mean(same) > 0.95

    def test_a_query_that_is_the_mean_is_answered(self, tmp_path: Path, pictures: Entries) -> None:
        root = build(tmp_path / "bundle", pictures)
        memory = Memory.open(root, centred=True)
        mean = memory.parts["pictures"].reduction.mean[None]
        assert all(np.isfinite(c.similarity) for c in memory.search(mean, 8)[0])

    def test_a_memory_without_pictures_cannot_be(self, tmp_path: Path, texts: Entries) -> None:
        root = build(tmp_path / "bundle", None, texts)
        with pytest.raises(InputError, match="built with pictures"):
            Memory.open(root, centred=True)
        annotate(root, "memory", centred=True)
        with pytest.raises(BundleError, match="centred"):
            Memory.open(root)
