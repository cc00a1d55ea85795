"""The peers of `rar-bench memory`: faiss, hnswlib, usearch and, where it is installed, Voyager.

Each is over the full vectors, by L2.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from rar.runtime import _native
from rar.runtime.memory.files import map_bytes

from .data import NEAREST, DataSet, Floats, Ids
from .sweep import Contender, Search, Setting

# usearch's own, which are ours too.
_LINKS, _EXPANSION = 16, 128
# faiss's own expansion: with 128 its graph is denser, and slower to walk at equal recall.
_FAISS_LINKS, _FAISS_EXPANSION = 32, 40
_WIDTHS = (10, 12, 16, 20, 24, 32, 40, 48, 64, 96, 128, 192, 256, 384, 512)
_SWEEP = tuple(Setting(ef) for ef in _WIDTHS)


def peers() -> list[Contender]:
    """Exact search, three HNSW libraries or four, and this project's own walk over usearch's graph."""
    faiss = {"library": f"faiss-cpu {version('faiss-cpu')}", "dtype": "f32"}
    graph = {"expansion": _EXPANSION, "links": _LINKS}
    hnswlib = {"library": f"hnswlib {version('hnswlib')}", "dtype": "f32", **graph}
    usearch = {"library": f"usearch {version('usearch')}", "dtype": "f16", **graph}
    linked = {**faiss, "links": _FAISS_LINKS, "expansion": _FAISS_EXPANSION}
    found = [
        Contender("faiss flat", "faiss-flat", faiss, _build_faiss_flat, _open_faiss, (Setting(_WIDTHS[0]),)),
        Contender("faiss HNSW", "faiss-hnsw", linked, _build_faiss_hnsw, _open_faiss, _SWEEP),
        Contender("usearch", "usearch", usearch, _build_usearch, _open_usearch, _SWEEP),
        Contender("our walk, all dimensions", "usearch", usearch, _build_usearch, _open_walk, _SWEEP),
        Contender("hnswlib", "hnswlib", hnswlib, _build_hnswlib, _open_hnswlib, _SWEEP),
    ]
    try:
        voyager = {"library": f"voyager {version('voyager')}", "dtype": "f32", **graph}
    except PackageNotFoundError:
        return found
    return [*found, Contender("Voyager", "voyager", voyager, _build_voyager, _open_voyager, _SWEEP)]


def _build_faiss_flat(data: DataSet, folder: Path) -> None:
    import faiss

    _fill_faiss(faiss.IndexFlat(data.dim, faiss.METRIC_L2), data, folder)


def _build_faiss_hnsw(data: DataSet, folder: Path) -> None:
    import faiss

    index = faiss.IndexHNSWFlat(data.dim, _FAISS_LINKS, faiss.METRIC_L2)
    index.hnsw.efConstruction = _FAISS_EXPANSION
    _fill_faiss(index, data, folder)


def _fill_faiss(index: Any, data: DataSet, folder: Path) -> None:
    import faiss

    for vectors, _ in data.blocks():
        index.add(vectors)
    faiss.write_index(index, str(folder / "index.faiss"))


def _open_faiss(folder: Path, dim: int) -> Search:
    import faiss

    faiss.omp_set_num_threads(1)
    index: Any = faiss.read_index(str(folder / "index.faiss"))
    graph = getattr(index, "hnsw", None)

    def search(queries: Floats, setting: Setting) -> Ids:
        if graph is not None:
            graph.efSearch = setting.ef
        ids: Ids = index.search(queries, NEAREST)[1]
        return ids

    return search


def _build_hnswlib(data: DataSet, folder: Path) -> None:
    import hnswlib

    index = hnswlib.Index("l2", data.dim)
    index.init_index(data.count, M=_LINKS, ef_construction=_EXPANSION)
    for vectors, _ in data.blocks():
        index.add_items(vectors)
    index.save_index(str(folder / "index.hnswlib"))


def _open_hnswlib(folder: Path, dim: int) -> Search:
    import hnswlib

    index = hnswlib.Index("l2", dim)
    index.load_index(str(folder / "index.hnswlib"))

    def search(queries: Floats, setting: Setting) -> Ids:
        index.set_ef(setting.ef)
        return np.asarray(index.knn_query(queries, NEAREST, num_threads=1)[0], np.int64)

    return search


def _build_voyager(data: DataSet, folder: Path) -> None:
    import voyager

    index = voyager.Index(voyager.Space.Euclidean, data.dim, M=_LINKS, ef_construction=_EXPANSION)
    for vectors, _ in data.blocks():
        index.add_items(vectors)
    index.save(str(folder / "index.voyager"))


def _open_voyager(folder: Path, dim: int) -> Search:
    import voyager

    index: Any = voyager.Index.load(str(folder / "index.voyager"))

    def search(queries: Floats, setting: Setting) -> Ids:
        return np.asarray(index.query(queries, NEAREST, num_threads=1, query_ef=setting.ef)[0], np.int64)

    return search


def _build_usearch(data: DataSet, folder: Path) -> None:
    from usearch.index import Index

    index = Index(ndim=data.dim, metric="l2sq", dtype="f16", connectivity=_LINKS, expansion_add=_EXPANSION)
    for vectors, _ in data.blocks():
        index.add(np.arange(len(index), len(index) + len(vectors)), vectors)
    index.save(str(folder / "index.usearch"))


def _open_usearch(folder: Path, dim: int) -> Search:
    from usearch.index import Index

    index: Any = Index.restore(str(folder / "index.usearch"), view=True)

    def search(queries: Floats, setting: Setting) -> Ids:
        index.expansion_search = setting.ef
        keys = index.search(queries, NEAREST, threads=1).keys
        return np.asarray(keys, np.int64).reshape(len(queries), NEAREST)

    return search


def _open_walk(folder: Path, dim: int) -> Search:
    graph = _native.Graph(map_bytes(folder / "index.usearch"))
    labels = np.zeros(graph.size, np.int32)

    def search(queries: Floats, setting: Setting) -> Ids:
        return _native.search([graph], queries, NEAREST, setting.ef, labels, None)[0]

    return search
