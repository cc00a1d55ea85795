"""A part that is built block by block is what it is when built at once, finds what it says, and fits into memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from rar.benchmarks.memory.synthetic import Mixture
from rar.runtime import InputError, _native
from rar.runtime.memory.files import map_bytes, map_npy
from rar.runtime.memory.fit.index import IndexOptions, Recall, Target
from rar.runtime.memory.fit.measure import Held, choose_search, spread
from rar.runtime.memory.fit.part import build_part
from rar.runtime.memory.fit.write import VectorWriter
from rar.runtime.memory.part import PartSettings
from rar.runtime.memory.reduction import Reduction

Floats = npt.NDArray[np.float32]
MIXTURE = Mixture(dim=64, intrinsic=24, clusters=60)


def entries(count: int) -> Floats:
    return np.concatenate([vectors for vectors, _ in MIXTURE.entries(count)])


def build(
    folder: Path,
    vectors: Floats,
    target: Target = 16,
    *,
    block: int = 1000,
    queries: Floats | None = None,
    **options: Any,
) -> dict[str, Any]:
    folder.mkdir()
    with VectorWriter(folder, vectors.shape[1]) as writer:
        for start in range(0, len(vectors), block):
            writer.append(vectors[start : start + block])
    labels = np.arange(len(vectors), dtype=np.int32) % 7
    cross_modal = options.pop("cross_modal", False)
    return build_part(
        folder,
        labels,
        (f"picture {i}" for i in range(len(vectors))),
        target,
        IndexOptions(**options),
        cross_modal=cross_modal,
        queries=queries,
    )


def recall(folder: Path, info: dict[str, Any], queries: Floats) -> float:
    """recall@10 of the part as it is stored, for queries that it has not seen, by NumPy."""
    vectors, reduction = map_npy(folder / "vectors.npy"), Reduction.open(folder / "reduction.npz")
    graphs = [_native.Graph(map_bytes(path)) for path in sorted(folder.glob("*.usearch"))]
    labels = np.zeros(len(vectors), np.int32)
    found, _ = _native.search(graphs, reduction.queries(queries), info["rescore"], info["ef"], labels, None)
    full = queries @ vectors.astype(np.float32).T
    truth = np.argsort(-full, axis=1)[:, :10]
    hits = 0
    for row, own in enumerate(found):
        kept = own[own >= 0]
        best = kept[np.argsort(-full[row, kept])][:10]
        hits += len(np.intersect1d(best, truth[row]))
    return hits / truth.size


class TestFiles:
    def test_blocks_do_not_matter(self, tmp_path: Path) -> None:
        vectors = entries(3000)
        for name, block in (("whole", 3000), ("blocks", 17)):
            build(tmp_path / name, vectors, block=block)
        for path in (tmp_path / "whole").iterdir():
            if path.suffix != ".npz":  # a zip keeps the time
                assert path.read_bytes() == (tmp_path / "blocks" / path.name).read_bytes(), path.name
        one, two = (Reduction.open(tmp_path / name / "reduction.npz") for name in ("whole", "blocks"))
        assert one.components is not None
        assert two.components is not None
        np.testing.assert_array_equal(one.components, two.components)
        stored = np.load(tmp_path / "whole" / "vectors.npy")
        np.testing.assert_array_equal(stored, vectors.astype(np.float16))
        centred = stored.astype(np.float64) - stored.astype(np.float64).mean(0)
        rows = np.linalg.svd(centred, full_matrices=False)[2][:16]
        np.testing.assert_allclose(np.abs((one.components * rows).sum(1)), 1, atol=1e-5)

    @pytest.mark.parametrize("count", [1, 2, 3, 5, 255, 256, 700])
    @pytest.mark.parametrize("shards", [1, 3])
    def test_every_entry_is_in_one_shard(self, tmp_path: Path, count: int, shards: int) -> None:
        info = build(tmp_path / "part", entries(count), shards=shards)
        files = sorted(path.name for path in (tmp_path / "part").iterdir())
        indices = ["index-1.usearch", "index-2.usearch", "index.usearch"] if shards > 1 and count > 200 else None
        assert files == sorted(
            ["entries.npy", "reduction.npz", "sources.npy", "sources.utf8", "vectors.npy"]
            + (indices or ["index.usearch"])
        )
        graphs = [_native.Graph(map_bytes(path)) for path in (tmp_path / "part").glob("*.usearch")]
        assert sum(graph.size for graph in graphs) == count == info["entries"]
        for graph in graphs:
            graph.check(count)
        vectors = map_npy(tmp_path / "part" / "vectors.npy").astype(np.float32)
        reduction = Reduction.open(tmp_path / "part" / "reduction.npz")
        labels = np.zeros(count, np.int32)
        found, _ = _native.search(graphs, reduction.queries(vectors), 1, 64, labels, None)
        assert (found[:, 0] == np.arange(count)).mean() > 0.99

    @pytest.mark.parametrize("dtype", ["f16", "i8"])
    @pytest.mark.parametrize("cross_modal", [False, True])
    def test_dtypes(self, tmp_path: Path, dtype: str, cross_modal: bool) -> None:
        info = build(tmp_path / "part", entries(1000), 24, index_dtype=dtype, cross_modal=cross_modal)
        graph = _native.Graph(map_bytes(tmp_path / "part" / "index.usearch"))
        assert (graph.dtype, graph.dim) == (dtype, 24 + cross_modal) == (info["index_dtype"], info["index_dim"])
        assert (info["recall"] is None) == (cross_modal and info["search"] == "index")

    def test_numbers_that_do_not_fit(self, tmp_path: Path) -> None:
        (tmp_path / "part").mkdir()
        with VectorWriter(tmp_path / "part", 64) as writer:
            writer.append(entries(10))
        with pytest.raises(InputError, match="10 vectors, 9 labels and 9 sources"):
            build_part(tmp_path / "part", np.zeros(9, np.int32), map(str, range(9)), 8, IndexOptions())


class TestMeasuring:
    @pytest.mark.parametrize(
        ("target", "options"),
        [
            (16, {}),
            (16, {"index_dtype": "i8", "shards": 3}),
            (Recall(0.97), {}),
            (48, {"reducer": "truncate"}),
        ],
        ids=str,
    )
    def test_the_recall_that_is_stored_is_that_of_new_queries(
        self, tmp_path: Path, target: Target, options: dict[str, Any]
    ) -> None:
        vectors = entries(4000)
        info = build(tmp_path / "part", vectors, target, **options)
        held = Held.of(vectors.astype(np.float16), MIXTURE.queries(400), np.arange(0))
        graphs = [_native.Graph(map_bytes(path)) for path in sorted((tmp_path / "part").glob("*.usearch"))]
        reduction = Reduction.open(tmp_path / "part" / "reduction.npz")
        reduced = reduction.queries(held.queries)
        ids, _ = _native.search(graphs, reduced, info["rescore"], info["ef"], held.labels, None)
        fresh = held.recall(_native.score(vectors.astype(np.float16), held.queries, ids))
        assert fresh == pytest.approx(recall(tmp_path / "part", info, held.queries), abs=2e-3)
        if info["search"] == "index":
            # Four standard errors, of 5,120 and of 4,000 neighbours.
            assert info["recall"] == pytest.approx(fresh, abs=4 * (fresh * (1 - fresh) / 2000) ** 0.5 + 2e-3)
        else:
            assert info["recall"] == 1

    def test_few_entries_are_compared(self, tmp_path: Path) -> None:
        info = build(tmp_path / "part", entries(255))
        assert (info["search"], info["recall"]) == ("exact", 1.0)

    def test_pictures_judge_the_index_of_texts(self, tmp_path: Path) -> None:
        queries = MIXTURE.queries(100)
        info = build(tmp_path / "part", entries(2000), cross_modal=True, queries=queries)
        assert info["recall"] is not None
        assert recall(tmp_path / "part", info, queries) > 0.95

    def test_wider_walks_for_higher_goals(self, tmp_path: Path) -> None:
        vectors = entries(4000).astype(np.float16)
        build(tmp_path / "part", entries(4000), 4)
        graph = _native.Graph(map_bytes(tmp_path / "part" / "index.usearch"))
        reduction = Reduction.open(tmp_path / "part" / "reduction.npz")
        held = Held.of(vectors, MIXTURE.queries(100), np.arange(0))
        widths = [
            choose_search([graph], vectors, reduction, PartSettings(), held, goal).rescore for goal in (0.1, 0.9, 1.0)
        ]
        assert widths == sorted(widths)
        assert widths[0] == 50
        assert widths[-1] == 400

    def test_what_is_faster_is_stored(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """On a clock that runs by the work done: a call of `nearest` takes as long as it is told to."""
        import rar.runtime.memory.fit.measure as module

        vectors = entries(1000).astype(np.float16)
        build(tmp_path / "part", entries(1000), 8)
        graph = _native.Graph(map_bytes(tmp_path / "part" / "index.usearch"))
        reduction = Reduction.open(tmp_path / "part" / "reduction.npz")
        held = Held.of(vectors, MIXTURE.queries(50), np.arange(0))
        now = exact = 0.0
        nearest, search = _native.nearest, _native.search

        def slow_nearest(*args: Any) -> Any:
            nonlocal now
            now += exact
            return nearest(*args)

        def slow_search(*args: Any) -> Any:
            nonlocal now
            now += 1.0
            return search(*args)

        monkeypatch.setattr(module, "perf_counter", lambda: now)
        monkeypatch.setattr(module._native, "nearest", slow_nearest)
        monkeypatch.setattr(module._native, "search", slow_search)
        for exact, expected in ((0.5, "exact"), (2.0, "index")):  # noqa: B007
            settings = choose_search([graph], vectors, reduction, PartSettings(), held, 0.5)
            assert settings.search == expected
            assert settings.recall == (1.0 if expected == "exact" else pytest.approx(settings.recall))

    @pytest.mark.parametrize("count", [1, 2, 511, 512, 513, 100_000])
    def test_queries_are_evenly_spread(self, count: int) -> None:
        numbers = spread(count, 512)
        assert len(numbers) == min(count, 512)
        assert (numbers[0], numbers[-1]) == (0, count - 1)
        if count > 1:
            assert np.ptp(np.diff(numbers)) <= 1


_PEAK = """
import resource, sys
import numpy as np
from pathlib import Path
from rar.benchmarks.memory.synthetic import Mixture
from rar.runtime.memory.fit.part import build_part
from rar.runtime.memory.fit.index import IndexOptions
from rar.runtime.memory.fit.write import VectorWriter

def megabytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

def build(folder, count):
    folder.mkdir()
    mixture = Mixture(dim=512, intrinsic=16, clusters=50)
    with VectorWriter(folder, 512) as writer:
        for vectors, _ in mixture.entries(count):
            writer.append(vectors)
    build_part(folder, np.zeros(count, np.int32), map(str, range(count)), 8, IndexOptions(shards=count // 10000))

build(Path(sys.argv[1]) / "small", 10000)
before = megabytes()
build(Path(sys.argv[1]) / "large", 40000)
print(before, megabytes(), (Path(sys.argv[1]) / "large" / "vectors.npy").stat().st_size / 2**20)
"""


def test_memory_does_not_grow_with_the_vectors(tmp_path: Path) -> None:
    """Four times as many: no more than the mapped file, where a copy in float32 would be twice that."""
    run = subprocess.run([sys.executable, "-c", _PEAK, str(tmp_path)], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    small, large, file = map(float, run.stdout.split())
    assert file > 35
    assert large - small < file + 15
