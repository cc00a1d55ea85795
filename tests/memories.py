"""Memories of made-up vectors, for the tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from rar.export.fit import IndexOptions, fit
from rar.export.measure import Held
from rar.runtime.bundle import Staging
from rar.runtime.memory import Modality
from rar.runtime.memory.part import PartSettings
from rar.runtime.memory.reduction import Reduction
from rar.runtime.memory.write import check_vectors, write_part

Floats = npt.NDArray[np.float32]


def unit(raw: npt.NDArray[np.floating[Any]]) -> Floats:
    """Rows of length 1."""
    return np.asarray(raw / np.linalg.norm(raw, axis=-1, keepdims=True), np.float32)


def fit_pca(vectors: npt.NDArray[np.floating[Any]], dim: int | None, *, cross_modal: bool = False) -> Reduction:
    """Principal components of the vectors, float [n, d]."""

    def held() -> Held:
        raise AssertionError("a dimension needs no queries")

    return fit(vectors, dim, IndexOptions(), cross_modal=cross_modal, held=held)


def add_part(
    staging: Staging,
    name: Modality,
    vectors: Floats,
    labels: npt.NDArray[np.int32],
    dim: int | None = None,
    *,
    sources: Sequence[str] | None = None,
    settings: PartSettings | None = None,
    reduction: Reduction | None = None,
) -> dict[str, Any]:
    """Writes a part into a staged memory, reduced by PCA unless told otherwise."""
    check_vectors(vectors)
    reduction = reduction or fit_pca(vectors, dim, cross_modal=name == "texts")
    sources = [f"{name} {i}" for i in range(len(labels))] if sources is None else sources
    settings = settings or PartSettings(reducer="pca")
    info = write_part(staging.folder / name, [vectors], labels, sources, reduction, settings)
    staging.info[name] = info
    return info
