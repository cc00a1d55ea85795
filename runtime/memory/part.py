"""One modality of a memory: full vectors, their classes, and the index over the reduced vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from .. import _native
from ..bundle.manifest import MANIFEST, Bundle
from ..errors import BundleError
from ..stages import in_stage
from .added import Added
from .files import map_bytes, map_npy
from .reduction import Floats, Reduction
from .sources import OFFSETS, TEXT, Sources

Ids = npt.NDArray[np.int64]
Modality = Literal["pictures", "texts"]
MODALITIES: tuple[Modality, ...] = ("pictures", "texts")
IndexDtype = Literal["f16", "i8"]
INDEX_DTYPES: tuple[IndexDtype, ...] = get_args(IndexDtype)
Reducer = Literal["pca", "truncate", "none"]
REDUCERS: tuple[Reducer, ...] = get_args(Reducer)

# A walk through n entries of which only c count visits about ef * n / c of them; comparing all c costs c. The second is
# cheaper if c * c is below n times this.
_NARROW = 128
# A walk that collects classes visits no more than this share of the entries that count,
_SHARE = 1 / 16
# or this many times its width, whichever is more.
_WIDTHS = 4


@dataclass(frozen=True)
class Fitted:
    """When the reduction and the way of searching were last fitted, and on what.

    Attributes:
        entries: How many entries there were.
        recall: recall@10 then; None if not measured.
        day: The date, as `2026-11-27`.
        reducer: The reducer that was asked for; a part of few entries may have none all the same.
        shards: The number of shards that was asked for.
    """

    entries: int
    recall: float | None
    day: str
    reducer: Reducer
    shards: int

    @classmethod
    def from_info(cls, info: Any) -> Fitted:
        """Reads what the manifest stores.

        Raises:
            ValueError: It is malformed.
        """
        try:
            fitted = cls(**info)
        except TypeError as error:
            raise ValueError(f"has a malformed `fitted` ({error})") from error
        counts = (fitted.entries, fitted.shards)
        if not (
            all(type(count) is int and 1 <= count < 1 << 40 for count in counts)
            and (fitted.recall is None or (isinstance(fitted.recall, (int, float)) and 0 <= fitted.recall <= 1))
            and isinstance(fitted.day, str)
            and fitted.reducer in REDUCERS
        ):
            raise ValueError(f"cannot have been fitted on {fitted}")
        return fitted


@dataclass(frozen=True)
class PartSettings:
    """How a part is indexed and searched; stored in the manifest.

    Attributes:
        index_dtype: What the index stores a vector in.
        reducer: How the reduction was learned; for information only.
        search: `index` walks the graph; `exact` compares with every entry, if that was measured to be faster.
        ef: Width of the graph walk; at least `rescore` are kept.
        rescore: R, how many of the index's nearest are scored again at full dimension.
        recall: recall@10 measured at these settings; None if not measured.
        shards: Number of index files.
        fitted: When reduction and search were fitted; None if no release that notes it has done so.
    """

    index_dtype: IndexDtype = "f16"
    reducer: Reducer = "pca"
    search: Literal["index", "exact"] = "index"
    ef: int = 64
    rescore: int = 50
    recall: float | None = None
    shards: int = 1
    fitted: Fitted | None = None

    @classmethod
    def from_info(cls, info: Mapping[str, Any]) -> PartSettings:
        """Reads a part's settings from the manifest.

        Raises:
            ValueError: They are malformed.
        """
        try:
            stored = {field.name: info[field.name] for field in fields(cls) if field.name != "fitted"}
        except (KeyError, TypeError) as error:
            raise ValueError(f"lacks {error}") from error
        settings = cls(**stored, fitted=Fitted.from_info(info["fitted"]) if info.get("fitted") is not None else None)
        # Earlier releases had more of both.
        if settings.index_dtype not in INDEX_DTYPES or settings.reducer not in REDUCERS:
            raise ValueError(
                f"has the reducer {settings.reducer!r} and the dtype {settings.index_dtype!r}; this release has the "
                f"reducers {', '.join(REDUCERS)} and the dtypes {', '.join(INDEX_DTYPES)}"
            )
        counts = (settings.ef, settings.rescore, settings.shards)
        if not (
            settings.search in ("index", "exact")
            and all(type(count) is int and 1 <= count < 1 << 31 for count in counts)
        ):
            raise ValueError(f"cannot be {settings}")
        return settings

    def to_info(self) -> dict[str, Any]:
        """The settings as the manifest stores them."""
        info = asdict(self)
        if self.fitted is None:
            del info["fitted"]
        return info


def shard_name(shard: int) -> str:
    """The file of a part's shard, counted from 0."""
    return f"index-{shard}.usearch" if shard else "index.usearch"


@dataclass(frozen=True, eq=False)
class Part:
    """The entries of one modality at one time; immutable, a change makes a new part.

    Entries 0 to n - 1 are the built ones, which are mapped; the added ones follow.

    Attributes:
        vectors: float16 [n, d], L2-normalised, mapped.
        built: int32 [n], the class of each entry when the part was built, -1 for none.
        sources: The source of each of the n.
        reduction: From d to the index's dimension.
        settings: How the part is indexed and searched.
        graphs: The index, in shards of adjacent entries.
        added: Entries that came later.
        classes: How many the memory has.
        known: int64 [classes], how many entries each class has here; None if not counted yet.
        moves: int32 [classes when built + 1], the present number of each class; None if unchanged.
        dropped: Built entries that were removed while their class stayed.
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
            raise BundleError(
                f"{bundle.root}: {MANIFEST}'s entry of memory/{name} {error}; build the memory again with "
                f"`rar-export memory {bundle.root}` and what it was made of"
            ) from error

        # The large files are not hashed: an altered vector gives another cosine, an altered index gives another answer
        # or an error, and `verify` detects both.
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
        """An empty part, to which entries will be added."""
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
        """int32 [n], the present class of each built entry; -1 for a removed one."""
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
            count: How many entries the index must return.
            ef: Width of the graph walk; the stored one if None.
            allowed: uint8 [classes], 0 for the classes whose entries do not count; None if all do.
            reach: How many entries count, if known.
            exact: Compares with every entry that counts instead of walking the graph; None does so if it is faster,
                or if the walk would have to reach all.
            cap: Most entries per class from the index, and from the added entries; None for no limit. Nearer entries
                beyond their class's cap are skipped, up to a sixteenth of those that count.
            threads: Threads that share the work.

        Returns:
            Entries int64 [N, c] and dot products float32 [N, c], best first. Entry -1 with minus infinity fills a row
            with fewer results.

        Raises:
            BundleError: The index is damaged.
        """
        queries = np.ascontiguousarray(queries, np.float32)
        reach = len(self) if reach is None else reach
        lists = []  # ids and dot products: of the built entries, of the added ones
        if len(self.built):
            if exact is None:
                exact = self.settings.search == "exact" or count >= reach or reach**2 <= _NARROW * len(self.built)
            if exact:
                most = min(count, len(self.built))
                lists.append(_native.nearest(self.vectors, queries, most, self.labels, allowed, threads, cap))
            else:
                width = max(count, ef or self.settings.ef)
                passed = None if cap is None else max(_WIDTHS * width, int(_SHARE * reach))
                lists.append(self._walk(queries, count, width, allowed, threads, cap, passed))
        if self.added.count:
            most = min(count, self.added.count)
            ids, cosines = _native.nearest(self.added.vectors, queries, most, self.added.labels, allowed, threads, cap)
            lists.append((np.where(ids < 0, ids, ids + len(self.built)), cosines))
        if not lists:
            return np.empty((len(queries), 0), np.int64), np.empty((len(queries), 0), np.float32)
        if len(lists) == 1 and (exact or not len(self.built)):
            return lists[0]
        ids, cosines = lists[0]
        if len(lists) == 2:
            ids = np.concatenate([ids, lists[1][0]], axis=1)
            cosines = np.concatenate([cosines, lists[1][1]], axis=1)
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
        with in_stage("rescore"):
            return ids, _native.score(self.vectors, queries, ids, threads)

    def dots(self, vector: Floats, ids: Ids, threads: int = 1) -> Floats:
        """Dot products of a vector, float32 [d], with entries: float32, shaped as `ids` [N, c]; arbitrary for id -1."""
        built = len(self.built)
        queries = np.repeat(vector[None], len(ids), 0)
        earlier = _native.score(self.vectors, queries, np.where(ids < built, ids, -1), threads)
        if not self.added.count:
            return earlier
        later = _native.score(self.added.vectors, queries, np.maximum(ids - built, -1), threads)
        return np.where(ids < built, earlier, later)

    def labels_of(self, ids: Ids) -> npt.NDArray[np.int32]:
        """The classes of entries: int32, shaped as `ids`; arbitrary for id -1."""
        if not self.added.count:
            return self.labels[ids]
        built = len(self.built)
        if not built:
            return self.added.labels[ids]
        later = self.added.labels[np.maximum(ids - built, 0)]
        return np.where(ids < built, self.labels[np.minimum(ids, built - 1)], later)

    def entries(self, label: int) -> list[int]:
        """A class's entries, in the order of their addition."""
        built, added = np.flatnonzero(self.labels == label), np.flatnonzero(self.added.labels == label)
        return [*built.tolist(), *(added + len(self.built)).tolist()]

    def vector(self, entry: int) -> Floats:
        """float32 [d], an entry's full vector."""
        built = len(self.built)
        half = self.vectors[entry] if entry < built else self.added.vectors[entry - built]
        return np.asarray(half, np.float32)

    def source(self, entry: int) -> str:
        """The source of an entry."""
        built = len(self.built)
        return self.sources[entry] if entry < built else self.added.named[entry - built]

    def grown(self, classes: int) -> Part:
        """The part in a memory with more classes; the new ones have no entries here yet."""
        if classes == self.classes:
            return self
        return replace(self, classes=classes, known=np.pad(self.counts, (0, classes - self.classes)))

    def appended(self, vectors: npt.NDArray[np.float16], labels: npt.NDArray[np.int32], sources: Sequence[str]) -> Part:
        """The part with more entries; see `Added.appended`."""
        counts = self.counts + np.bincount(labels, minlength=self.classes)
        return replace(self, added=self.added.appended(vectors, labels, sources), known=counts)

    def moved(self, moves: npt.NDArray[np.int32], classes: int) -> Part:
        """The part with its classes renumbered.

        Args:
            moves: int32 [classes before + 1], the new number of each, -1 for a removed class; the last is -1.
            classes: The new number of classes.
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
        """The part without some entries; their classes stay."""
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
