"""One modality of a memory: full vectors, their classes, and the index over their reduced form."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from usearch.index import Index, MetricKind  # type: ignore[attr-defined]  # not in the stub's exports

from .bundle import Bundle, Staging
from .errors import BundleError, InputError
from .reduction import Floats, Reduction, fit_pca

Modality = Literal["pictures", "texts"]
MODALITIES: tuple[Modality, ...] = ("pictures", "texts")
_INDEX_DTYPE = "f16"
_REPEATABLE = 10_000


class Part:
    """The entries of one modality: full vectors and the index over the reduced ones, both mapped.

    Attributes:
        vectors: float16 [n, d], L2-normalised, mapped.
        labels: int32 [n], the class of each entry.
        reduction: From d to the index's dimension.
    """

    def __init__(
        self,
        vectors: npt.NDArray[np.float16],
        labels: npt.NDArray[np.int32],
        reduction: Reduction,
        index: Index,
    ) -> None:
        self.vectors = vectors
        self.labels = labels
        self.reduction = reduction
        self._index = index

    def __len__(self) -> int:
        return len(self.labels)

    @classmethod
    def open(cls, bundle: Bundle, name: Modality) -> Part:
        """Maps a part's files.

        Raises:
            BundleError: A file is damaged, or the files do not belong together.
        """
        # Altered vectors give other cosines, `verify` tells; an altered index makes usearch read anywhere.
        paths = {
            file: bundle.file("memory", f"{name}/{file}", check=file != "vectors.npy")
            for file in ("vectors.npy", "entries.npy", "reduction.npz", "index.usearch")
        }
        try:
            vectors = np.load(paths["vectors.npy"], mmap_mode="r", allow_pickle=False)
            labels = np.load(paths["entries.npy"], mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise BundleError(f"{bundle.root}: memory/{name} cannot be mapped ({error}); build it again") from error
        reduction = Reduction.open(paths["reduction.npz"])
        try:
            # Not Index(path=..., view=True): that is silently empty where the file is missing.
            index = Index.restore(str(paths["index.usearch"]), view=True)
        except Exception as error:  # usearch raises RuntimeError, or what its C++ core throws
            raise BundleError(f"{paths['index.usearch']}: not an index ({error}); build the memory again") from error
        if not (
            index is not None
            and (vectors.dtype, vectors.ndim) == (np.float16, 2)
            and (labels.dtype, labels.ndim) == (np.int32, 1)
            and len(index) == len(vectors) == len(labels) > 0
            and (index.ndim, vectors.shape[1]) == (reduction.dim, len(reduction.mean))
            and index.metric_kind == MetricKind.L2sq
            and int(np.max(index.keys)) < len(labels)
        ):
            raise BundleError(f"{bundle.root}: the files of memory/{name} do not belong together; build it again")
        return cls(vectors, labels, reduction, index)

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
        self._index.expansion_search = max(64, count)  # type: ignore[misc]  # the stub lacks the setter
        matches = self._index.search(reduced, count)
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


def write_part(
    staging: Staging, name: Modality, vectors: Floats, labels: npt.NDArray[np.int32], dim: int | None
) -> dict[str, Any]:
    """Writes one modality of a memory into a staged component.

    Args:
        staging: The `memory` component being written.
        name: The modality.
        vectors: float32 [n, d], L2-normalised.
        labels: int32 [n], positions in the memory's labels.
        dim: Dimensions of the index; None for all.

    Returns:
        Size, dimensions and kept variance, for the manifest.

    Raises:
        InputError: A vector is not finite or zero, or `dim` is out of range.
    """
    norms = np.linalg.norm(vectors, axis=1)
    wrong = np.flatnonzero(~(np.isfinite(norms) & (norms > 0)))
    if len(wrong):
        raise InputError(f"{name}: entry {int(wrong[0])} of {len(vectors)} embeds to NaN, infinity or zero")
    folder = staging.folder / name
    folder.mkdir()
    reduction = fit_pca(vectors, dim, cross_modal=name == "texts")
    index = Index(ndim=reduction.dim, metric="l2sq", dtype=_INDEX_DTYPE)
    # One thread makes the same graph each time; where that would take long, the cores share it.
    index.add(np.arange(len(vectors)), reduction.entries(vectors), threads=int(len(vectors) <= _REPEATABLE))
    index.save(str(folder / "index.usearch"))
    reduction.save(folder / "reduction.npz")
    np.save(folder / "vectors.npy", vectors.astype(np.float16), allow_pickle=False)
    np.save(folder / "entries.npy", labels, allow_pickle=False)
    return {
        "entries": len(vectors),
        "index_dim": reduction.dim,
        "index_dtype": _INDEX_DTYPE,
        "kept": reduction.kept,
    }
