"""One modality of a memory: full vectors, their classes, and the index over their reduced form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from .. import _native
from ..bundle import MANIFEST, Bundle
from ..errors import BundleError
from ..stages import stage
from .added import Added
from .files import map_bytes, map_npy
from .reduction import Floats, Reduction
from .sources import OFFSETS, TEXT, Sources

Ids = npt.NDArray[np.int64]
Modality = Literal["pictures", "texts"]
MODALITIES: tuple[Modality, ...] = ("pictures", "texts")
IndexDtype = Literal["f32", "f16", "bf16", "i8", "b1"]
INDEX_DTYPES: tuple[IndexDtype, ...] = get_args(IndexDtype)

# A walk through n entries of which only c count passes about ef * n / c of them, comparing all c costs c: the second is
# less where c * c is below n times this.
_NARROW = 128
# A walk by classes, which goes on until it has found enough of them, passes no more than this share of what counts:
_SHARE = 1 / 16
# or so many times its width, where that is more.
_WIDTHS = 4


@dataclass(frozen=True)
class PartSettings:
    """How a part is indexed and searched; stored in the manifest.

    Attributes:
        index_dtype: What the index stores a vector in.
        reducer: How the reduction was learned; for the reader.
        search: `index` walks the graph; `exact` compares with every entry, where that was measured to be faster.
        ef: Width of the graph walk; at least `rescore` are kept.
        rescore: R, how many of the index's nearest are scored again at full dimension.
        recall: recall@10 measured at these settings; None where it was not.
        shards: Number of index files.
    """

    index_dtype: IndexDtype = "f16"
    reducer: str = "pca"
    search: Literal["index", "exact"] = "index"
    ef: int = 64
    rescore: int = 50
    recall: float | None = None
    shards: int = 1

    @classmethod
    def from_info(cls, info: Mapping[str, Any]) -> PartSettings:
        """Reads what the manifest says of a part.

        Raises:
            ValueError: It is malformed.
        """
        try:
            settings = cls(**{field.name: info[field.name] for field in fields(cls)})
        except (KeyError, TypeError) as error:
            raise ValueError(f"lacks {error}") from error
        counts = (settings.ef, settings.rescore, settings.shards)
        if not (
            settings.index_dtype in INDEX_DTYPES
            and settings.search in ("index", "exact")
            and all(type(count) is int and 1 <= count < 1 << 31 for count in counts)
        ):
            raise ValueError(f"cannot be {settings}")
        return settings

    def to_info(self) -> dict[str, Any]:
        """For the manifest."""
        return asdict(self)


def shard_name(shard: int) -> str:
    """The file of a part's shard, counted from 0."""
    return f"index-{shard}.usearch" if shard else "index.usearch"


@dataclass(frozen=True, eq=False)
class Part:
    """The entries of one modality as they are at one time; a change makes another.

    Entries 0 to n - 1 are the built ones, mapped; the added ones follow.

    Attributes:
        vectors: float16 [n, d], L2-normalised, mapped.
        built: int32 [n], the class of each entry when the part was built, -1 for none.
        sources: Where each of the n came from.
        reduction: From d to the index's dimension.
        settings: How the part is indexed and searched.
        graphs: The index, in shards of adjacent entries.
        added: Entries that came later.
        classes: How many the memory has.
        known: int64 [classes], how many entries each class has here; None where they were not counted yet.
        moves: int32 [classes when built + 1], what became of each class since; None for nothing.
        dropped: Built entries that went without their class.
    """

    vectors: npt.NDArray[np.float16]
    built: npt.NDArray[np.int32]
    sources: Sources
    reduction: Reduction
    settings: PartSettings
    graphs: Sequence[_native.Graph]
    added: Added
    classes: int
    known: Ids | None = None
    moves: npt.NDArray[np.int32] | None = None
    dropped: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.built) + self.added.count

    @classmethod
    def open(cls, bundle: Bundle, name: Modality, classes: int) -> Part:
        """Maps a part's files.

        Args:
            bundle: The bundle.
            name: The modality.
            classes: How many the memory has.

        Raises:
            BundleError: A file is damaged, or the files do not belong together.
        """
        info = bundle.component("memory").info.get(name)
        try:
            if not isinstance(info, Mapping):
                raise ValueError("is missing")
            settings = PartSettings.from_info(info)
        except ValueError as error:
            raise BundleError(f"{bundle.root}: {MANIFEST}'s entry of memory/{name} {error}; build it again") from error

        # None of the large files is hashed: an altered vector gives another cosine, an altered index another answer or
        # an error, and `verify` tells.
        files = ("vectors.npy", "entries.npy", OFFSETS, TEXT)
        paths = [bundle.file("memory", f"{name}/{file}", check=False) for file in files]
        try:
            vectors, built = map_npy(paths[0]), map_npy(paths[1])
            sources = Sources.open(paths[2], paths[3])
        except (OSError, ValueError) as error:
            raise BundleError(f"{bundle.root}: memory/{name} cannot be mapped ({error}); build it again") from error
        reduction = Reduction.open(bundle.file("memory", f"{name}/reduction.npz"))
        graphs = [_open_graph(bundle, f"{name}/{shard_name(shard)}") for shard in range(settings.shards)]
        if not (
            vectors.dtype == np.float16
            and built.dtype == np.int32
            and (vectors.ndim, built.ndim) == (2, 1)
            and sum(graph.size for graph in graphs) == len(vectors) == len(built) == len(sources)
            and all((graph.dim, graph.dtype) == (reduction.dim, settings.index_dtype) for graph in graphs)
            and vectors.shape[1] == len(reduction.mean)
        ):
            raise BundleError(f"{bundle.root}: the files of memory/{name} do not belong together; build it again")
        if len(built) and not -1 <= int(built.min()) <= int(built.max()) < classes:
            raise BundleError(f"{bundle.root}: memory/{name} refers to classes that are not there; build it again")
        return cls(vectors, built, sources, reduction, settings, graphs, Added.none(vectors.shape[1]), classes)

    @classmethod
    def empty(cls, dim: int, classes: int) -> Part:
        """A part that has only what will be added to it."""
        vectors = np.empty((0, dim), np.float16)
        built = np.empty(0, np.int32)
        settings = PartSettings(reducer="none", search="exact")
        return cls(vectors, built, Sources.none(), Reduction.none(dim), settings, (), Added.none(dim), classes)

    @cached_property
    def counts(self) -> Ids:
        """int64 [classes], how many entries each class has here."""
        if self.known is not None:
            return self.known
        labels = np.concatenate([self.labels, self.added.labels]) if self.added.count else self.labels
        return np.bincount(labels + 1, minlength=self.classes + 1)[1:]

    @property
    def gone(self) -> int:
        """How many entries were removed."""
        return len(self) - int(self.counts.sum())

    @cached_property
    def labels(self) -> npt.NDArray[np.int32]:
        """int32 [n], the class of each built entry now; -1 for one that was removed."""
        labels = self.built if self.moves is None else self.moves[self.built]
        if self.dropped:
            labels = labels.copy()
            labels[list(self.dropped)] = -1
        return labels

    def nearest(
        self,
        queries: Floats,
        count: int,
        *,
        ef: int | None = None,
        allowed: npt.NDArray[np.uint8] | None = None,
        reach: int | None = None,
        exact: bool | None = None,
        cap: int | None = None,
        threads: int = 1,
    ) -> tuple[Ids, Floats]:
        """The entries nearest to each query, scored at full dimension.

        Args:
            queries: float32 [N, d].
            count: How many the index is asked for.
            ef: Width of the graph walk; the stored one if None.
            allowed: uint8 [classes], 0 for the classes whose entries do not count; None if all do.
            reach: How many entries count, if that is known.
            exact: Compares with every entry that counts instead of walking the graph; None does it where it is
                faster, or where the walk would have to reach all.
            cap: How many of a class the index gives, and the entries that were added; None for any number. What is
                nearer but beyond its class's cap is passed over, up to a sixteenth of what counts.
            threads: That share the work.

        Returns:
            Entries int64 [N, c] and dot products float32 [N, c], best first; entry -1 with minus infinity fills a row
            for which fewer were found.

        Raises:
            BundleError: The index is damaged.
        """
        queries = np.ascontiguousarray(queries, np.float32)
        reach = len(self) if reach is None else reach
        found = []
        if len(self.built):
            if exact is None:
                exact = self.settings.search == "exact" or count >= reach or reach**2 <= _NARROW * len(self.built)
            if exact:
                most = min(count, len(self.built))
                found.append(_native.nearest(self.vectors, queries, most, self.labels, allowed, threads, cap))
            else:
                width = max(count, ef or self.settings.ef)
                passed = None if cap is None else max(_WIDTHS * width, int(_SHARE * reach))
                found.append(self._walk(queries, count, width, allowed, threads, cap, passed))
        if self.added.count:
            most = min(count, self.added.count)
            ids, cosines = _native.nearest(self.added.vectors, queries, most, self.added.labels, allowed, threads, cap)
            found.append((np.where(ids < 0, ids, ids + len(self.built)), cosines))
        if not found:
            return np.empty((len(queries), 0), np.int64), np.empty((len(queries), 0), np.float32)
        if len(found) == 1 and (exact or not len(self.built)):
            return found[0]
        ids, cosines = found[0]
        if len(found) == 2:
            ids = np.concatenate([ids, found[1][0]], axis=1)
            cosines = np.concatenate([cosines, found[1][1]], axis=1)
        order = np.argsort(-cosines, axis=1, kind="stable")
        rows = np.arange(len(queries))[:, None]
        return ids[rows, order], cosines[rows, order]

    def _walk(
        self,
        queries: Floats,
        count: int,
        ef: int,
        allowed: npt.NDArray[np.uint8] | None,
        threads: int,
        cap: int | None,
        most: int | None,
    ) -> tuple[Ids, Floats]:
        reduced = self.reduction.queries(queries)
        try:
            ids, _ = _native.search(self.graphs, reduced, count, ef, self.labels, allowed, threads, cap, most)
        except ValueError as error:
            raise BundleError(f"the memory's index is damaged ({error}); copy the bundle again") from error
        with stage("rescore"):
            return ids, _native.score(self.vectors, queries, ids, threads)

    def dots(self, vector: Floats, ids: Ids, threads: int = 1) -> Floats:
        """The dot products of one vector, float32 [d], with entries: float32, shaped as `ids` [N, c]; of id -1 any."""
        built = len(self.built)
        queries = np.repeat(vector[None], len(ids), 0)
        found = _native.score(self.vectors, queries, np.where(ids < built, ids, -1), threads)
        if not self.added.count:
            return found
        later = _native.score(self.added.vectors, queries, np.maximum(ids - built, -1), threads)
        return np.where(ids < built, found, later)

    def labels_of(self, ids: Ids) -> npt.NDArray[np.int32]:
        """The classes of entries: int32, shaped as `ids`; of id -1 any."""
        if not self.added.count:
            return self.labels[ids]
        built = len(self.built)
        if not built:
            return self.added.labels[ids]
        later = self.added.labels[np.maximum(ids - built, 0)]
        return np.where(ids < built, self.labels[np.minimum(ids, built - 1)], later)

    def entries(self, label: int) -> list[int]:
        """A class's entries, in the order in which they came."""
        built, added = np.flatnonzero(self.labels == label), np.flatnonzero(self.added.labels == label)
        return [*built.tolist(), *(added + len(self.built)).tolist()]

    def vector(self, entry: int) -> Floats:
        """float32 [d], an entry's full vector."""
        built = len(self.built)
        half = self.vectors[entry] if entry < built else self.added.vectors[entry - built]
        return np.asarray(half, np.float32)

    def source(self, entry: int) -> str:
        """Where an entry came from."""
        built = len(self.built)
        return self.sources[entry] if entry < built else self.added.named[entry - built]

    def grown(self, classes: int) -> Part:
        """The part in a memory that has more classes, of which nothing is here yet."""
        if classes == self.classes:
            return self
        return replace(self, classes=classes, known=np.pad(self.counts, (0, classes - self.classes)))

    def appended(self, vectors: npt.NDArray[np.float16], labels: npt.NDArray[np.int32], sources: Sequence[str]) -> Part:
        """The part with more entries; see `Added.appended`."""
        counts = self.counts + np.bincount(labels, minlength=self.classes)
        return replace(self, added=self.added.appended(vectors, labels, sources), known=counts)

    def moved(self, moves: npt.NDArray[np.int32], classes: int) -> Part:
        """The part with its classes numbered anew.

        Args:
            moves: int32 [classes before + 1], the new number of each, -1 for one whose entries go; the last is -1.
            classes: How many there are then.
        """
        counts = np.zeros(classes, np.int64)
        kept = moves[:-1] >= 0
        np.add.at(counts, moves[:-1][kept], self.counts[kept])
        earlier = self.moves
        if earlier is not None:
            earlier = moves[earlier]
        added = replace(self.added, labels=moves[self.added.labels])
        moves = moves if earlier is None else earlier
        return replace(self, added=added, classes=classes, known=counts, moves=moves)

    def without(self, entries: Sequence[int]) -> Part:
        """The part without some entries, whose classes stay."""
        built = len(self.built)
        counts = self.counts.copy()
        np.subtract.at(counts, self.labels_of(np.array(entries, np.int64)), 1)
        labels = self.added.labels.copy()
        labels[[entry - built for entry in entries if entry >= built]] = -1
        dropped = (*self.dropped, *(entry for entry in entries if entry < built))
        return replace(self, added=replace(self.added, labels=labels), known=counts, dropped=dropped)


def _open_graph(bundle: Bundle, name: str) -> _native.Graph:
    path = bundle.file("memory", name, check=False)
    try:
        return _native.Graph(map_bytes(path))
    except (OSError, ValueError) as error:
        raise BundleError(f"{path}: not an index that can be searched ({error}); build the memory again") from error
