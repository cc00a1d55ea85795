"""The data of memory measurements: vectors with classes, separate queries, and their true neighbours."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from rar.export.pictures.embed import embed_images
from rar.export.pictures.labelled import read_images
from rar.runtime.bundle.manifest import Bundle
from rar.runtime.encoder.clip import Clip
from rar.runtime.errors import InputError
from rar.runtime.memory import Memory

from .synthetic import Mixture

Floats = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]
Labels = npt.NDArray[np.int32]

# recall@10, and of 5 distinct classes.
NEAREST = 10
CLASSES = 5
# Nearest entries stored per query, so that copies of the tenth are known.
_KEPT = 20
# Two sums over the same products may differ by this much.
_SAME = 1e-6
_BLOCK = 4096


class DataSet(Protocol):
    """Unit vectors with a class each.

    Attributes:
        name: The name of the result's rows and of a folder.
        count: Entries n.
        dim: Dimensions d.
        classes: Class names; labels refer to them by position.
    """

    @property
    def name(self) -> str:
        """See above."""

    @property
    def count(self) -> int:
        """See above."""

    @property
    def dim(self) -> int:
        """See above."""

    @property
    def classes(self) -> list[str]:
        """See above."""

    def settings(self) -> dict[str, Any]:
        """Identifies the data set."""

    def blocks(self) -> Iterator[tuple[Floats, Labels]]:
        """The entries in order: float32 [b, d] and int32 [b]."""

    def draw(self) -> tuple[Floats, Floats]:
        """Queries to warm up with, float32 [W, d], and others to measure with, float32 [Q, d]."""


@dataclass(frozen=True)
class Synthetic:
    """Seeded clustered vectors, a hundred per cluster.

    Attributes:
        count: Entries.
        queries: Number of queries to measure with, and to warm up with.
    """

    count: int
    queries: int = 2000

    @property
    def name(self) -> str:
        """`synthetic` and how many."""
        return f"synthetic-{self.count}"

    @property
    def dim(self) -> int:
        """The mixture's."""
        return self._mixture.dim

    @property
    def classes(self) -> list[str]:
        """One a cluster."""
        return [f"cluster {number}" for number in range(self._mixture.clusters)]

    @property
    def _mixture(self) -> Mixture:
        return Mixture(clusters=max(2 * CLASSES, self.count // 100))

    def settings(self) -> dict[str, Any]:
        """The mixture's."""
        return {"entries": self.count, "queries": self.queries, **asdict(self._mixture)}

    def blocks(self) -> Iterator[tuple[Floats, Labels]]:
        """See `DataSet`."""
        return self._mixture.entries(self.count)

    def draw(self) -> tuple[Floats, Floats]:
        """See `DataSet`."""
        drawn = self._mixture.queries(2 * self.queries)
        return drawn[: self.queries], drawn[self.queries :]


@dataclass(frozen=True)
class Pictures:
    """A bundle's memory of pictures, searched by others that its encoder embeds.

    Attributes:
        bundle: The bundle.
        test: Labelled pictures, the queries; a fifth of them warm up.
    """

    bundle: Path
    test: Path

    @property
    def name(self) -> str:
        """The folder's that holds the pictures' list."""
        folder = self.test.resolve()
        return folder.name if folder.is_dir() else folder.parent.name

    @property
    def count(self) -> int:
        """Built entries that have a class."""
        return int(np.count_nonzero(self._memory.parts["pictures"].labels >= 0))

    @property
    def dim(self) -> int:
        """The encoder's."""
        return self._memory.dim

    @property
    def classes(self) -> list[str]:
        """The memory's."""
        return self._memory.labels

    @property
    def _memory(self) -> Memory:
        memory = Memory.open(self.bundle)
        if "pictures" not in memory.parts or memory.classes < CLASSES:
            raise InputError(f"{self.bundle}: needs a memory of pictures of {CLASSES} classes or more")
        return memory

    def settings(self) -> dict[str, Any]:
        """The sources of the entries and the queries."""
        bundle = Bundle.open(self.bundle)
        fingerprints = {name: bundle.component(name).fingerprint for name in ("clip", "memory")}
        return {"entries": self.count, "dim": self.dim, "test": str(self.test), **fingerprints}

    def blocks(self) -> Iterator[tuple[Floats, Labels]]:
        """See `DataSet`."""
        part = self._memory.parts["pictures"]
        kept = np.flatnonzero(part.labels >= 0)
        for start in range(0, len(kept), _BLOCK):
            rows = kept[start : start + _BLOCK]
            yield part.vectors[rows].astype(np.float32), part.labels[rows]

    def draw(self) -> tuple[Floats, Floats]:
        """See `DataSet`."""
        images = read_images(self.test)
        queries = embed_images(Clip(Bundle.open(self.bundle), "cpu"), images)
        warm = np.arange(len(queries)) % 5 == 0
        if warm.all():
            raise InputError(f"{self.test}: needs two pictures or more")
        return queries[warm], queries[~warm]


@dataclass(frozen=True)
class Queries:
    """Queries and their results of an exact search over the data set.

    Attributes:
        warm: float32 [W, d], to warm up with.
        measured: float32 [Q, d].
        ids: int64 [Q, c], the ten nearest entries and copies of the tenth; -2 fills.
        classes: int64 [Q, 5], the classes of greatest cosine.
    """

    warm: Floats
    measured: Floats
    ids: Ids
    classes: Ids

    def recall(self, ids: Ids) -> float:
        """recall@10 in percent of the entries retrieved for the first queries, int64 [N, 10]."""
        right = (ids[:, :, None] == self.ids[: len(ids), None, :]).any(2)
        return 100 * float(right.sum() / (NEAREST * len(ids)))

    def classes_recall(self, ids: Ids) -> float:
        """Recall in percent of the five classes retrieved for each query, int64 [Q, 5]."""
        return 100 * float((ids[:, :, None] == self.classes[:, None, :]).any(2).mean())


def write_queries(data: DataSet, folder: Path) -> None:
    """Draws the queries, searches all entries for them, and writes both."""
    warm, measured = data.draw()
    ids, classes = find_truth(data.blocks(), measured, len(data.classes))
    np.savez(folder / "queries.npz", warm=warm, measured=measured, ids=ids, classes=classes)


def read_queries(folder: Path) -> Queries:
    """Reads the output of `write_queries`."""
    with np.load(folder / "queries.npz", allow_pickle=False) as file:
        return Queries(file["warm"], file["measured"], file["ids"], file["classes"])


def find_truth(blocks: Iterable[tuple[Floats, Labels]], queries: Floats, classes: int) -> tuple[Ids, Ids]:
    """Compares each query with every entry.

    Args:
        blocks: The entries: float32 [b, d] and int32 [b], their classes.
        queries: float32 [Q, d].
        classes: The number of classes.

    Returns:
        `ids` and `classes` of `Queries`.
    """
    count, first = len(queries), 0
    best, ids = np.full((count, _KEPT), -np.inf, np.float32), np.full((count, _KEPT), -2, np.int64)
    by_class = np.full((count, classes), -np.inf, np.float32)
    for vectors, labels in blocks:
        cosines = queries @ vectors.T
        joined = np.concatenate([best, cosines], axis=1)
        numbers = np.broadcast_to(np.arange(first, first + len(vectors)), cosines.shape)
        entries = np.concatenate([ids, numbers], axis=1)
        kept = np.argpartition(-joined, _KEPT - 1, axis=1)[:, :_KEPT]
        best, ids = np.take_along_axis(joined, kept, 1), np.take_along_axis(entries, kept, 1)
        order = np.argsort(labels, kind="stable")
        present, starts = np.unique(labels[order], return_index=True)
        nearest = np.maximum.reduceat(cosines[:, order], starts, axis=1)
        by_class[:, present] = np.maximum(by_class[:, present], nearest)
        first += len(vectors)
    order = np.argsort(-best, axis=1, kind="stable")
    best, ids = np.take_along_axis(best, order, 1), np.take_along_axis(ids, order, 1)
    ids[best < best[:, NEAREST - 1 : NEAREST] - _SAME] = -2
    return ids, np.argsort(-by_class, axis=1, kind="stable")[:, :CLASSES].astype(np.int64)
