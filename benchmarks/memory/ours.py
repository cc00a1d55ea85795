"""This project's memory in `rar-bench memory`: its variants, and what opening and searching one costs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from rar.runtime.bundle.change import stage
from rar.runtime.bundle.files import write_json
from rar.runtime.bundle.manifest import Bundle
from rar.runtime.memory import Memory
from rar.runtime.memory.fit.index import IndexOptions
from rar.runtime.memory.fit.part import build_part
from rar.runtime.memory.fit.write import VectorWriter
from rar.runtime.memory.part import IndexDtype, Reducer

from .. import record, usage
from ..process import in_a_process
from .data import CLASSES, NEAREST, DataSet, Floats, Ids, read_queries
from .sweep import Contender, Search, Setting

_WIDTHS = (10, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
_RESCORED = (10, 20, 35, 50, 100, 200, 400)
# A walk keeps at least as many as are scored again.
SWEEP = tuple(Setting(ef, rescore) for rescore in _RESCORED for ef in _WIDTHS if ef >= rescore)
OPENINGS = 7


@dataclass(frozen=True)
class Variant:
    """How a memory is reduced and stored.

    Attributes:
        dim: As `rar-export memory --dim`.
        reducer: As `--reducer`.
        dtype: As `--dtype`.
    """

    dim: str = "1/9"
    reducer: Reducer = "pca"
    dtype: IndexDtype = "f16"

    @property
    def name(self) -> str:
        """A readable name."""
        return f"rar {self.reducer} {self.dim} {self.dtype}"

    def contender(self, settings: tuple[Setting, ...] = ()) -> Contender:
        """The variant as one way to search, to be measured at some settings."""
        folder = self.name.replace(" ", "-").replace("/", "_")
        return Contender(self.name, folder, vars(self), partial(_build, self), _open, settings)


DEFAULT, SMALLER = Variant(), Variant(dtype="i8")
# One thing changed at a time.
OTHERS = (
    Variant(dim="64"),
    Variant(reducer="truncate"),
    Variant(dim="none", reducer="none"),
)
NAMES = {variant.name for variant in (DEFAULT, SMALLER, *OTHERS)}


def _build(variant: Variant, data: DataSet, folder: Path) -> None:
    options = IndexOptions(variant.reducer, variant.dtype)
    dim = None if variant.reducer == "none" else variant.dim
    names = data.classes
    with stage(folder / "bundle", "memory") as staging:
        part = staging.folder / "pictures"
        part.mkdir()
        labels = []
        with VectorWriter(part, data.dim) as writer:
            for vectors, classes in data.blocks():
                writer.append(vectors)
                labels.append(classes)
        sources = (f"{data.name}/{entry}" for entry in range(data.count))
        target = options.target(dim, data.dim)
        info = build_part(part, np.concatenate(labels), sources, target, options)
        staging.info.update(encoder="none", dim=data.dim, text_weight=0.0, pool=1, classes=len(names), pictures=info)
        write_json(staging.folder / "labels.json", names)


def _open(folder: Path, dim: int) -> Search:
    part = Memory.open(folder / "bundle", threads=1).parts["pictures"]

    def search(queries: Floats, setting: Setting) -> Ids:
        ids, _ = part.nearest(queries, setting.rescore or NEAREST, ef=setting.ef, exact=False)
        return ids[:, :NEAREST]

    return search


def stored(folder: Path) -> dict[str, Any]:
    """The build's stored settings of a variant's index and search."""
    return dict(Bundle.open(folder / "bundle").component("memory").info["pictures"])


def chosen(folder: Path) -> Setting:
    """The best walk of a variant's index, as the build measured it."""
    info = stored(folder)
    return Setting(int(info["ef"]), int(info["rescore"]))


def file_bytes(folder: Path) -> int:
    """Bytes of a variant's files."""
    return sum(record.bytes for record in Bundle.open(folder / "bundle").component("memory").files.values())


def opening(folder: Path) -> dict[str, Any]:
    """The cost of opening a variant's memory, in fresh processes.

    Returns:
        `milliseconds`, `resident_bytes`, by which the process grows, and `first_search_ms`.
    """
    told = []
    for _ in range(OPENINGS):
        with in_a_process(partial(_open_once, folder)) as ask:
            told.append(ask(None))
    return {name: record.spread([one[name] for one in told]) for name in told[0]}


def _open_once(folder: Path) -> Callable[[None], dict[str, float]]:
    query = read_queries(folder.parent / "queries").warm[:1]

    def run(_: None) -> dict[str, float]:
        before, began = usage.memory().resident, perf_counter()
        memory = Memory.open(folder / "bundle", threads=1)
        opened, after = perf_counter(), usage.memory().resident
        memory.search(query, CLASSES)
        return {
            "milliseconds": 1e3 * (opened - began),
            "resident_bytes": after - before,
            "first_search_ms": 1e3 * (perf_counter() - opened),
        }

    return run


def searching(folder: Path, setting: Setting, blocks: int) -> dict[str, Any]:
    """Time and recall of `Memory.search` for five classes, one query at a time, after a warm-up.

    Args:
        folder: The variant's.
        setting: To search with.
        blocks: How many times the queries are asked, each in a fresh process.
    """
    told = []
    for _ in range(blocks):
        with in_a_process(partial(_search_once, folder, setting)) as ask:
            told.append(ask(None))
    times = {name: record.spread([one[name] for one in told]) for name in ("p50_us", "p99_us")}
    return {"classes_recall": told[0]["classes_recall"], **times}


def _search_once(folder: Path, setting: Setting) -> Callable[[None], dict[str, float]]:
    queries = read_queries(folder.parent / "queries")
    memory = Memory.open(folder / "bundle", threads=1)
    positions = {name: position for position, name in enumerate(memory.labels)}
    search = partial(memory.search, k=CLASSES, ef=setting.ef, rescore=setting.rescore, exact=False)

    def run(_: None) -> dict[str, float]:
        for query in queries.warm:
            search(query[None])
        seconds, classes = [], np.empty((len(queries.measured), CLASSES), np.int64)
        for row, query in enumerate(queries.measured):
            began = perf_counter()
            best = search(query[None])[0]
            seconds.append(perf_counter() - began)
            classes[row] = [positions[one.label] for one in best]
        p50, p99 = (1e6 * float(value) for value in np.percentile(seconds, [50, 99]))
        return {"p50_us": p50, "p99_us": p99, "classes_recall": queries.classes_recall(classes)}

    return run
