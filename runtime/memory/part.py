"""One modality of a memory: full vectors, their classes, and the index over their reduced form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
from usearch.index import Index, MetricKind  # type: ignore[attr-defined]  # not in the stub's exports

from ..bundle import MANIFEST, Bundle
from ..errors import BundleError
from .files import map_npy
from .reduction import Floats, Reduction
from .sources import OFFSETS, TEXT, Sources

Modality = Literal["pictures", "texts"]
MODALITIES: tuple[Modality, ...] = ("pictures", "texts")
IndexDtype = Literal["f32", "f16", "bf16", "i8", "b1"]
INDEX_DTYPES: tuple[IndexDtype, ...] = get_args(IndexDtype)


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


class Part:
    """The entries of one modality: full vectors and the index over the reduced ones, both mapped.

    Attributes:
        vectors: float16 [n, d], L2-normalised, mapped.
        labels: int32 [n], the class of each entry.
        sources: Where each entry came from.
        reduction: From d to the index's dimension.
        settings: How it is indexed and searched.
    """

    def __init__(
        self,
        vectors: npt.NDArray[np.float16],
        labels: npt.NDArray[np.int32],
        sources: Sources,
        reduction: Reduction,
        settings: PartSettings,
        shards: Sequence[Index],
    ) -> None:
        self.vectors = vectors
        self.labels = labels
        self.sources = sources
        self.reduction = reduction
        self.settings = settings
        self._shards = list(shards)

    def __len__(self) -> int:
        return len(self.labels)

    @classmethod
    def open(cls, bundle: Bundle, name: Modality) -> Part:
        """Maps a part's files.

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
        # Altered vectors give other cosines, `verify` tells; an altered index makes usearch read anywhere.
        vectors_path, entries_path, offsets_path, text_path = (
            bundle.file("memory", f"{name}/{file}", check=False)
            for file in ("vectors.npy", "entries.npy", OFFSETS, TEXT)
        )
        try:
            vectors, labels = map_npy(vectors_path), map_npy(entries_path)
            sources = Sources.open(offsets_path, text_path)
        except (OSError, ValueError, EOFError) as error:
            raise BundleError(f"{bundle.root}: memory/{name} cannot be mapped ({error}); build it again") from error
        reduction = Reduction.open(bundle.file("memory", f"{name}/reduction.npz"))
        shards = [_open_index(bundle.file("memory", f"{name}/{shard_name(i)}")) for i in range(settings.shards)]
        if not (
            (vectors.dtype, vectors.ndim) == (np.float16, 2)
            and (labels.dtype, labels.ndim) == (np.int32, 1)
            and sum(len(shard) for shard in shards) == len(vectors) == len(labels) == len(sources) > 0
            and all(shard.ndim == reduction.dim for shard in shards)
            and vectors.shape[1] == len(reduction.mean)
            and all(int(np.max(shard.keys)) < len(labels) for shard in shards)
        ):
            raise BundleError(f"{bundle.root}: the files of memory/{name} do not belong together; build it again")
        return cls(vectors, labels, sources, reduction, settings, shards)

    def nearest(self, queries: Floats, count: int, *, exact: bool = False) -> tuple[npt.NDArray[np.int64], Floats]:
        """The entries nearest to each query, re-scored at full dimension.

        Args:
            queries: float32 [N, d], L2-normalised.
            count: How many the index is asked for.
            exact: Scores every entry at full dimension instead of asking the index; so does a count that asks
                for all of them, which a graph walk need not reach.

        Returns:
            Entries int64 [N, count] and cosines float32 [N, count], or all entries if exact, best first; entry
            -1 with cosine -inf fills a row for which the index found fewer.
        """
        if exact or count >= len(self):
            found = np.broadcast_to(np.arange(len(self)), (len(queries), len(self)))
            cosines = queries @ _widen(self.vectors).T
        else:
            found = self._search_index(self.reduction.queries(queries), count)
            # One gather a batch; the mapped pages that are read are those of the nearest only.
            gathered = _widen(self.vectors[np.maximum(found, 0)])
            cosines = np.matmul(gathered, queries[:, :, None])[:, :, 0]
            cosines = np.where(found < 0, np.float32(-np.inf), cosines)
        order = np.argsort(-cosines, axis=1, kind="stable")
        return np.take_along_axis(found, order, 1), np.take_along_axis(cosines, order, 1)

    def _search_index(self, reduced: Floats, count: int) -> npt.NDArray[np.int64]:
        return np.hstack([_search_shard(shard, reduced, count) for shard in self._shards])


def _open_index(path: Path) -> Index:
    try:
        # Not Index(path=..., view=True): that is silently empty where the file is missing.
        index = Index.restore(str(path), view=True)
    except Exception as error:  # usearch raises RuntimeError, or what its C++ core throws
        raise BundleError(f"{path}: not an index ({error}); build the memory again") from error
    if index is None or index.metric_kind != MetricKind.L2sq:
        raise BundleError(f"{path}: not an index of this program's; build the memory again")
    return index


def _search_shard(index: Index, reduced: Floats, count: int) -> npt.NDArray[np.int64]:
    index.expansion_search = max(64, count)  # type: ignore[misc]  # the stub lacks the setter
    matches = index.search(reduced, count)
    keys = np.asarray(matches.keys).reshape(len(reduced), -1).astype(np.int64)
    found = np.full((len(reduced), count), -1, np.int64)
    # A single query comes back as plain matches; of several, short rows are padded with key 0.
    counts = getattr(matches, "counts", [keys.shape[1]])
    for row, (own, valid) in enumerate(zip(keys, counts, strict=True)):
        found[row, : int(valid)] = own[: int(valid)]
    return found


# Every float16 there is, as float32: looking values up is three times as fast as NumPy's own conversion.
_WIDE = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)


def _widen(half: npt.NDArray[np.float16]) -> Floats:
    return np.take(_WIDE, half.view(np.uint16))
