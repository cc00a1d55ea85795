"""The walk over files that usearch saved, at every instruction set, against usearch itself and exact search."""

import gc
import mmap
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from usearch.index import Index

from rar.runtime import _native
from rar.runtime._native import Graph, search

LEVELS = _native.simd_levels()
DTYPES = ("f32", "f16", "i8")
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Built:
    """An index of usearch, what it saves, and its rows as they are stored, widened."""

    index: Index
    file: npt.NDArray[np.uint8]
    rows: Floats

    @property
    def labels(self) -> npt.NDArray[np.int32]:
        return np.zeros(len(self.rows), np.int32)

    def distances(self, queries: Floats) -> npt.NDArray[np.float64]:
        return ((np.float64(queries)[:, None] - np.float64(self.rows)) ** 2).sum(-1)


def build(vectors: Floats, dtype: str, first: int = 0, *, shuffled: bool = False, **options: Any) -> Built:
    """One thread gives slots by the order of adding, which is that of the keys unless shuffled.

    Vectors for i8 come in the scale of the bytes.
    """
    index = Index(ndim=vectors.shape[1], metric="l2sq", dtype=dtype, **options)
    order = np.random.default_rng(5).permutation(len(vectors)) if shuffled else np.arange(len(vectors))
    added: Any = np.rint(vectors).astype(np.int8) if dtype == "i8" else vectors
    index.add(first + order, added[order], threads=1)
    file = np.frombuffer(index.save(), np.uint8).copy()
    count, width = (int(side) for side in file[:8].view(np.uint32))
    stored = file[8 : 8 + count * width].reshape(count, width)
    kinds: dict[str, Any] = {"f32": np.float32, "f16": np.float16, "i8": np.int8}
    values = stored.view(kinds[dtype])
    rows = np.empty(values.shape, np.float32)
    rows[order] = values
    return Built(index, file, rows)


def clustered(count: int, dim: int, seed: int = 0) -> Floats:
    chance = np.random.default_rng(seed)
    centres = np.random.default_rng(99).standard_normal((40, dim)) * 20
    return np.float32(centres[chance.integers(0, 40, count)] + chance.standard_normal((count, dim)) * 12)


@cache
def filtered_index() -> Built:
    return build(clustered(400, 16), "f32", connectivity=8)


@pytest.fixture(scope="module", params=DTYPES)
def built(request: pytest.FixtureRequest) -> Built:
    return build(clustered(3000, 85), request.param, shuffled=True)


@pytest.fixture(params=LEVELS)
def level(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("RAR_SIMD", request.param)
    return str(request.param)


def recall(found: npt.NDArray[Any], distances: npt.NDArray[np.float64]) -> float:
    """Of the distances asked for; entries as near as the last of the truth are as good."""
    last = np.sort(distances, axis=1)[:, found.shape[1] - 1 : found.shape[1]]
    return float(np.mean(np.take_along_axis(distances, found.astype(np.int64), 1) <= last * (1 + 1e-5)))


@pytest.mark.parametrize("simd", LEVELS)
@pytest.mark.parametrize("dtype", DTYPES)
@given(dim=st.integers(1, 130), count=st.integers(1, 12), seed=st.integers(0, 2**16))
@settings(deadline=None, max_examples=60)
def test_distances_of_any_dimension_are_those_of_numpy(simd: str, dtype: str, dim: int, count: int, seed: int) -> None:
    vectors = clustered(count + 2, dim, seed)
    one = build(vectors[:count], dtype)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAR_SIMD", simd)
        entries, distances = search([Graph(one.file)], vectors[count:], count, count, one.labels, None)
    reference = np.take_along_axis(one.distances(vectors[count:]), entries, 1)
    assert (np.sort(entries, axis=1) == np.arange(count)).all()
    # Each of the dim + 1 roundings of a sum of positive terms costs at most half a unit in the last place.
    np.testing.assert_allclose(distances, reference, rtol=(dim + 8) * 2.0**-24, atol=0)
    assert (np.diff(distances) >= 0).all()


def test_recall_is_that_of_usearch(built: Built, level: str) -> None:
    queries = clustered(200, 85, seed=1)
    asked: Any = queries
    if built.index.dtype.name == "I8":
        queries = np.rint(queries)
        asked = queries.astype(np.int8)
    truth = built.distances(queries)
    for ef in (10, 64):
        built.index.expansion_search = ef
        theirs = np.asarray(built.index.search(asked, 10, threads=1).keys)
        ours, _ = search([Graph(built.file)], queries, 10, ef, built.labels, None)
        assert recall(ours, truth) >= recall(theirs, truth) - 0.005
    assert recall(ours, truth) > 0.95


def test_as_many_as_there_are_is_exact(built: Built, level: str) -> None:
    queries = clustered(20, 85, seed=2)
    entries, distances = search([Graph(built.file)], queries, 10, len(built.rows), built.labels, None)
    truth = built.distances(queries)
    np.testing.assert_allclose(distances, np.sort(truth, axis=1)[:, :10], rtol=1e-5)
    np.testing.assert_allclose(np.take_along_axis(truth, entries, 1), distances, rtol=1e-5)


def test_shards_are_searched_as_one(built: Built) -> None:
    vectors = clustered(900, 85)
    dtype = built.index.dtype.name.lower()
    parts = [build(vectors[first : first + 300], dtype, first) for first in (0, 300, 600)]
    queries = clustered(30, 85, seed=3)
    labels = np.zeros(900, np.int32)
    graphs = [Graph(part.file) for part in parts]
    entries, distances = search(graphs, queries, 12, 300, labels, None)
    truth = np.concatenate([part.distances(queries) for part in parts], axis=1)
    np.testing.assert_allclose(distances, np.sort(truth, axis=1)[:, :12], rtol=1e-5)
    np.testing.assert_allclose(np.take_along_axis(truth, entries, 1), distances, rtol=1e-5)
    single = [search([graph], queries, 12, 64, labels, None) for graph in graphs]
    together = search(graphs, queries, 12, 64, labels, None)
    merged = np.sort(np.concatenate([one[1] for one in single], axis=1), axis=1)[:, :12]
    np.testing.assert_array_equal(together[1], merged)
    order = np.lexsort((np.concatenate([one[0] for one in single], 1), np.concatenate([one[1] for one in single], 1)))
    np.testing.assert_array_equal(
        together[0], np.take_along_axis(np.concatenate([one[0] for one in single], 1), order[:, :12], 1)
    )


def test_threads_and_company_change_nothing(built: Built, level: str) -> None:
    queries = clustered(50, 85, seed=4)
    graphs = [Graph(built.file), Graph(built.file)]
    reference = search(graphs, queries, 7, 20, built.labels, None)
    for threads in (2, 5):
        for one, other in zip(search(graphs, queries, 7, 20, built.labels, None, threads), reference, strict=True):
            np.testing.assert_array_equal(one, other)
    alone = [search(graphs, query[None], 7, 20, built.labels, None) for query in queries]
    np.testing.assert_array_equal(np.concatenate([one[0] for one in alone]), reference[0])
    np.testing.assert_array_equal(np.concatenate([one[1] for one in alone]), reference[1])


@given(data=st.data())
@settings(deadline=None, max_examples=100)
def test_only_what_counts_is_returned(data: st.DataObject) -> None:
    one = filtered_index()
    classes = data.draw(st.integers(1, 6))
    chance = np.random.default_rng(data.draw(st.integers(0, 2**16)))
    share = data.draw(st.sampled_from([0.0, 0.003, 0.03, 0.3, 1.0]))
    labels = np.where(chance.random(400) < share, chance.integers(0, classes, 400), -1).astype(np.int32)
    allowed = data.draw(st.none() | st.lists(st.integers(0, 1), min_size=classes, max_size=classes))
    counts = (labels >= 0) & (True if allowed is None else np.array(allowed, bool)[labels])
    queries = clustered(5, 16, seed=data.draw(st.integers(0, 99)))
    count = data.draw(st.integers(1, 12))
    mask = None if allowed is None else np.array(allowed, np.uint8)
    entries, distances = search([Graph(one.file)], queries, count, data.draw(st.integers(1, 40)), labels, mask)
    assert counts[entries[entries >= 0]].all()
    enough = min(count, int(counts.sum()))  # walking through what does not count reaches all that do
    assert (entries[:, :enough] >= 0).all()
    assert (entries[:, enough:] == -1).all()
    assert (distances[:, enough:] == np.inf).all()
    entries, distances = search([Graph(one.file)], queries, count, 400, labels, mask)
    truth = np.sort(np.where(counts, one.distances(queries), np.inf), axis=1)[:, :count]
    np.testing.assert_allclose(distances, truth, rtol=1e-5)


def test_a_filter_keeps_the_recall(built: Built) -> None:
    queries = clustered(100, 85, seed=5)
    if built.index.dtype.name == "I8":
        queries = np.rint(queries)
    labels = np.random.default_rng(0).integers(0, 10, len(built.rows)).astype(np.int32)
    allowed = np.zeros(10, np.uint8)
    allowed[[2, 5]] = 7  # any value but 0
    entries, _ = search([Graph(built.file)], queries, 10, 64, labels, allowed)
    truth = np.where(allowed[labels] != 0, built.distances(queries), np.inf)
    assert recall(entries, truth) > 0.95


def capped(
    distances: npt.NDArray[np.float64], labels: npt.NDArray[np.int32], cap: int, count: int
) -> npt.NDArray[np.float64]:
    """Of each query the `count` least distances, of a class at most `cap`; infinity fills, and does not count."""
    best = np.full((len(distances), count), np.inf)
    for row, own in zip(best, distances, strict=True):
        taken: Counter[int] = Counter()
        kept = 0
        for entry in np.argsort(own, kind="stable").tolist():
            if kept < count and np.isfinite(own[entry]) and taken[int(labels[entry])] < cap:
                taken[int(labels[entry])] += 1
                row[kept] = own[entry]
                kept += 1
    return best


@given(data=st.data())
@settings(deadline=None, max_examples=100)
def test_no_class_has_more_than_its_cap(data: st.DataObject) -> None:
    """At an ef of all there are the walk equals exact search; at less what it keeps is still sorted and counts."""
    one = filtered_index()
    chance = np.random.default_rng(data.draw(st.integers(0, 2**16)))
    classes = data.draw(st.integers(1, 30))
    near = np.argsort(one.distances(one.rows[:1])[0])
    labels = np.empty(400, np.int32)  # neighbours are of one class, in classes of unlike sizes
    labels[near] = np.sort(chance.integers(-1, classes, 400) * chance.integers(0, 2, 400))
    allowed = data.draw(st.none() | st.lists(st.integers(0, 1), min_size=classes, max_size=classes))
    counts = (labels >= 0) & (True if allowed is None else np.array(allowed, bool)[labels])
    mask = None if allowed is None else np.array(allowed, np.uint8)
    queries = clustered(4, 16, seed=data.draw(st.integers(0, 99)))
    count, cap = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 12))
    graphs = [Graph(one.file)]
    truth = capped(np.where(counts, one.distances(queries), np.inf), labels, cap, count)
    _, distances = search(graphs, queries, count, 400, labels, mask, 1, cap)
    np.testing.assert_allclose(distances, truth, rtol=1e-5)
    entries, distances = search(graphs, queries, count, data.draw(st.integers(1, 60)), labels, mask, 1, cap)
    assert counts[entries[entries >= 0]].all()
    assert ((entries >= 0) == np.isfinite(truth)).all()  # the walk goes on until it has them
    assert (distances[:, 1:] >= distances[:, :-1]).all()
    for row in entries:
        assert max(Counter(labels[row[row >= 0]].tolist()).values(), default=0) <= cap


def test_a_cap_holds_over_all_shards_and_threads(built: Built) -> None:
    vectors = clustered(900, 85)
    dtype = built.index.dtype.name.lower()
    parts = [build(vectors[first : first + 300], dtype, first) for first in (0, 300, 600)]
    queries = clustered(30, 85, seed=3)
    labels = np.arange(900, dtype=np.int32) % 7
    graphs = [Graph(part.file) for part in parts]
    truth = np.concatenate([part.distances(queries) for part in parts], axis=1)
    entries, distances = search(graphs, queries, 12, 300, labels, None, 1, 2)
    np.testing.assert_allclose(distances, capped(truth, labels, 2, 12), rtol=1e-5)
    for one, other in zip(search(graphs, queries, 12, 300, labels, None, 3, 2), (entries, distances), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_walk_gets_out_of_a_class_that_is_larger_than_it_is_wide(built: Built) -> None:
    queries = built.rows[:50]
    truth = built.distances(queries)
    labels = np.where(np.arange(3000) < 50, 0, 1 + np.arange(3000) % 400).astype(np.int32)
    labels[np.argsort(truth, axis=1)[:, :150].ravel()] = 0
    entries, distances = search([Graph(built.file)], queries, 20, 20, labels, None, 1, 4)
    assert ((labels[entries] == 0).sum(1) == 4).all()
    assert np.mean(distances <= capped(truth, labels, 4, 20)[:, -1:] * (1 + 1e-5)) > 0.9


@pytest.mark.parametrize("most", [1, 7, 60])
def test_a_walk_ends_when_it_has_passed_as_many_as_it_may(most: int) -> None:
    one = filtered_index()
    entries, _ = search([Graph(one.file)], one.rows[:20], 400, 400, one.labels, None, 1, 400, most)
    found = (entries >= 0).sum(1)
    assert ((found >= most) & (found <= most + 1)).all()  # two are passed at once
    some, _ = search([Graph(one.file)], one.rows[:20], 400, 400, one.labels, None, 1, 3, most)
    assert ((some >= 0).sum(1) <= 3).all()


def test_labels_changed_in_place_count_at_once() -> None:
    one = filtered_index()
    labels, graph = one.labels, Graph(one.file)
    first = search([graph], one.rows[:1], 1, 10, labels, None)[0][0, 0]
    assert first == 0
    labels[0] = -1
    assert search([graph], one.rows[:1], 1, 10, labels, None)[0][0, 0] != 0


@pytest.mark.parametrize("shift", [1, 2, 3, 7])
def test_any_address_will_do(built: Built, level: str, shift: int) -> None:
    memory = np.empty(shift + len(built.file), np.uint8)
    memory[shift:] = built.file
    queries = clustered(10, 85, seed=6)
    for one, other in zip(
        search([Graph(memory[shift:])], queries, 5, 20, built.labels, None),
        search([Graph(built.file)], queries, 5, 20, built.labels, None),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)


def test_a_mapped_file_is_searched_and_held(tmp_path: Path) -> None:
    one = filtered_index()
    path = tmp_path / "index.usearch"
    path.write_bytes(one.file.tobytes())
    expected = search([Graph(one.file)], one.rows[:5], 3, 20, one.labels, None)[0]
    mapped = Graph(np.memmap(path, np.uint8, "r"))
    gc.collect()  # the graph alone holds the map
    np.testing.assert_array_equal(search([mapped], one.rows[:5], 3, 20, one.labels, None)[0], expected)
    with path.open("rb") as file:
        memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    plain = Graph(memory)
    with pytest.raises(BufferError):
        memory.close()
    np.testing.assert_array_equal(search([plain], one.rows[:5], 3, 20, one.labels, None)[0], expected)
    del plain
    memory.close()


def test_what_is_in_a_file_is_told(built: Built) -> None:
    graph = Graph(built.file)
    assert (graph.size, graph.dim, graph.dtype) == (3000, 85, built.index.dtype.name.lower())
    graph.check(3000)
    with pytest.raises(ValueError, match="2999 entries"):
        graph.check(2999)


def test_an_empty_index_finds_nothing() -> None:
    graph = Graph(Index(ndim=3, metric="l2sq", dtype="f16").save())
    assert graph.size == 0
    graph.check(0)
    entries, distances = search([graph], np.zeros((2, 3), np.float32), 4, 10, np.zeros(0, np.int32), None)
    assert (entries == -1).all()
    assert (distances == np.inf).all()


QUERIES = np.zeros((2, 16), np.float32)
LABELS = np.zeros(400, np.int32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"queries": np.zeros((2, 15), np.float32)}, "15 dimensions, not 16"),
        ({"queries": np.float64(QUERIES)}, "queries is not float32"),
        ({"queries": QUERIES[0]}, "queries is not float32 of 2 dimensions"),
        ({"queries": np.zeros((2, 32), np.float32)[:, ::2]}, "contiguous"),
        ({"queries": np.full((2, 16), np.nan, np.float32)}, "query 0 holds NaN or infinity"),
        ({"queries": np.float32([[0] * 16, [np.inf] * 16])}, "query 1 holds NaN or infinity"),
        ({"count": 0}, "count is below 1"),
        ({"ef": 0}, "ef is below 1"),
        ({"labels": np.int64(LABELS)}, "labels is not int32"),
        ({"labels": LABELS[:, None]}, "labels is not int32 of 1 dim"),
        ({"labels": LABELS[:1]}, "has key .* but there are 1 entries"),
        ({"labels": LABELS + 2, "allowed": np.ones(2, np.uint8)}, "is of class 2, which `allowed` does not tell of"),
        ({"allowed": np.ones(2, bool)}, "allowed is not uint8"),
        ({"cap": 0}, "cap is below 1"),
        ({"cap": 3, "most": 0}, "most is below 1"),
        ({"threads": 0}, "threads is not 1 to"),
        ({"threads": 5000}, "threads is not 1 to"),
        ({"graphs": []}, "no graph"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(change: dict[str, Any], message: str) -> None:
    arguments = {"queries": QUERIES, "count": 3, "ef": 9, "labels": LABELS, "allowed": None, "threads": 1}
    arguments["graphs"] = [Graph(filtered_index().file)]
    search(**arguments)
    with pytest.raises(ValueError, match=message):
        search(**(arguments | change))


def test_graphs_of_other_kinds_are_refused() -> None:
    graphs = [Graph(build(clustered(5, dim), dtype).file) for dim, dtype in ((4, "f32"), (4, "f16"), (5, "f32"))]
    for other in graphs[1:]:
        with pytest.raises(ValueError, match="differ in dimension or dtype"):
            search([graphs[0], other], np.zeros((1, 4), np.float32), 1, 1, np.zeros(5, np.int32), None)


def test_an_unknown_instruction_set_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAR_SIMD", "mmx")
    with pytest.raises(ValueError, match="mmx"):
        search([Graph(filtered_index().file)], QUERIES, 1, 1, LABELS, None)


@pytest.mark.parametrize(
    "memory",
    [np.zeros((9, 9), np.uint8), np.zeros(900, np.float32), np.zeros(900, np.uint8)[::2]],
    ids=["matrix", "floats", "gaps"],
)
def test_only_contiguous_bytes_are_a_file(memory: npt.NDArray[Any]) -> None:
    with pytest.raises(ValueError, match="contiguous bytes"):
        Graph(memory)


@pytest.mark.parametrize("options", [{"metric": "cos"}, {"metric": "ip"}, {"dtype": "f64"}, {"dtype": "bf16"}])
def test_an_index_of_another_kind_is_refused(options: dict[str, str]) -> None:
    index = Index(**({"ndim": 4, "metric": "l2sq", "dtype": "f32"} | options))
    index.add(np.arange(3), np.ones((3, 4), np.float32))
    with pytest.raises(ValueError, match=r"metric|scalar kind"):
        Graph(index.save())


def test_an_index_with_removed_entries_is_refused() -> None:
    index = Index(ndim=4, metric="l2sq", dtype="f32")
    index.add(np.arange(9), clustered(9, 4))
    index.remove(4)
    with pytest.raises(ValueError, match="removed entries"):
        Graph(index.save())


@dataclass(frozen=True)
class Places:
    """Where the parts of a file of 16-d float32 with connectivity 8 begin."""

    file: npt.NDArray[np.uint8]

    @property
    def head(self) -> int:
        return 8 + 400 * 64

    @property
    def levels(self) -> npt.NDArray[np.int16]:
        return self.file[self.head + 104 :][:800].view(np.int16)

    def node(self, slot: int) -> int:
        return self.head + 904 + slot * (10 + 4 * 17) + int(self.levels[:slot].sum()) * 4 * 9

    def put(self, place: int, value: Any) -> npt.NDArray[np.uint8]:
        altered = self.file.copy()
        altered[place : place + value.nbytes] = np.frombuffer(value.tobytes(), np.uint8)
        return altered


def places() -> Places:
    return Places(filtered_index().file)


@pytest.mark.parametrize(
    ("offset", "value", "message"),
    [
        (0, np.uint8(0), "mark is missing"),
        (7, np.uint16(3), "written by usearch 3"),
        (13, np.uint8(ord("c")), "metric"),
        (14, np.uint8(99), "scalar kind 99"),
        (14, np.uint8(1), "scalar kind 1 "),  # bits
        (15, np.uint8(15), "keys or slots"),
        (16, np.uint8(2), "keys or slots"),
        (17, np.uint64(399), "number of entries"),
        (33, np.uint64(17), "do not have the dimensions"),
        (33, np.uint64(0), "0 dimensions"),
        (33, np.uint64(2**63), "dimensions"),
        (64, np.uint64(401), "number of entries"),
        (72, np.uint64(2**62), "connectivity is out of range"),
        (72, np.uint64(9), "ends within its nodes"),
        (80, np.uint64(15), "does not end where"),
        (88, np.uint64(12), "not on the highest level"),
        (96, np.uint64(400), "entry slot is out of range"),
        (104, np.int16(-1), "levels are out of range"),
        (104, np.int16(16), "levels are out of range"),
    ],
)
def test_a_head_that_does_not_fit_is_refused(offset: int, value: Any, message: str) -> None:
    file = places()
    with pytest.raises(ValueError, match=message):
        Graph(file.put(file.head + offset, value))


def test_a_file_is_refused_wherever_it_is_cut() -> None:
    file = filtered_index().file
    cuts = [*range(0, 120), *np.random.default_rng(0).integers(0, len(file), 300).tolist(), len(file) - 1]
    for cut in cuts:
        with pytest.raises(ValueError, match=r"truncated|no usearch|does not end|dimensions"):
            Graph(file[:cut])
    with pytest.raises(ValueError, match="does not end where"):
        Graph(np.append(file, np.uint8(0)))


def test_links_and_keys_that_lead_nowhere_are_refused() -> None:
    file = places()
    upper = int(np.flatnonzero(file.levels > 0)[0])
    lower = int(np.flatnonzero(file.levels == 0)[0])
    for place, value, message in (
        (file.node(5), np.uint64(400), "slot 5 has key 400"),
        (file.node(5), np.uint64(2**64 - 1), "slot 5 has key"),
        (file.node(5) + 10, np.uint32(17), "slot 5 has more links"),
        (file.node(5) + 14, np.uint32(400), "slot 5 is linked with a slot that is not there"),
        (file.node(5) + 14, np.uint32(2**32 - 1), "slot 5 is linked"),
    ):
        damaged = Graph(file.put(place, value))
        with pytest.raises(ValueError, match=message):
            damaged.check(400)
        with pytest.raises(ValueError, match=message):  # walking everywhere comes by
            search([damaged], QUERIES, 1, 400, LABELS, None)
    for place, value, message in (
        (file.node(5), np.uint64(6), "has key 6, which another"),
        (file.node(5) + 8, np.int16(7), "another level in its node"),
        (file.node(upper) + 78 + 4, np.uint32(lower), "not on its level"),
    ):
        with pytest.raises(ValueError, match=message):
            Graph(file.put(place, value)).check(400)


@given(
    flips=st.lists(st.tuples(st.integers(0, 2**30), st.integers(1, 255)), min_size=1, max_size=12),
    where=st.sampled_from(["anywhere", "head", "nodes"]),
)
@settings(deadline=None, max_examples=400)
def test_altered_bytes_give_an_error_or_entries_there_are(flips: list[tuple[int, int]], where: str) -> None:
    file = places()
    first, last = {
        "anywhere": (0, len(file.file)),
        "head": (file.head, file.head + 104),
        "nodes": (file.node(0), len(file.file)),
    }[where]
    altered = file.file.copy()
    for place, bits in flips:
        altered[first + place % (last - first)] ^= bits
    try:
        graph = Graph(altered)
        entries, distances = search([graph], clustered(4, 16, seed=7), 9, 30, LABELS, None)
    except ValueError:
        return
    assert ((entries >= -1) & (entries < 400)).all()
    assert not np.isnan(distances).any()


def test_vectors_of_nan_are_farthest() -> None:
    file = places()
    altered = file.put(8 + 64 * 3, np.full(16, np.nan, np.float32))
    entries, distances = search([Graph(altered)], clustered(1, 16), 400, 400, LABELS, None)
    there = entries[0, entries[0] >= 0]
    assert len(set(there.tolist())) == len(there) >= 390
    assert (distances[0][entries[0] == 3] == np.inf).all()
