"""Memories of made-up vectors, for the tests."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from rar.runtime.bundle.change import Staging
from rar.runtime.memory import Modality
from rar.runtime.memory.fit.index import IndexOptions, fit
from rar.runtime.memory.fit.measure import Held
from rar.runtime.memory.fit.write import VectorWriter, check_vectors, part_info, write_entries, write_index
from rar.runtime.memory.part import Fitted, PartSettings
from rar.runtime.memory.reduction import Reduction

Floats = npt.NDArray[np.float32]


def unit(raw: npt.NDArray[np.floating[Any]]) -> Floats:
    """Rows of length 1."""
    return np.asarray(raw / np.linalg.norm(raw, axis=-1, keepdims=True), np.float32)


def npy(array: npt.NDArray[Any], *, pickled: bool = False) -> bytes:
    """The content of a `.npy`."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=pickled)
    return buffer.getvalue()


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
    settings = settings or PartSettings(reducer="pca", fitted=Fitted(len(labels), None, "2026-01-01", "pca", 1))
    folder = staging.folder / name
    folder.mkdir()
    with VectorWriter(folder, len(reduction.mean)) as writer:
        writer.append(vectors)
    write_entries(folder, labels, sources)
    settings = write_index(folder, reduction, settings)
    staging.info[name] = part_info(folder, reduction, settings)
    return staging.info[name]


def bursts(
    classes: int, each: int, nuisance: float, seed: int = 0
) -> tuple[npt.NDArray[np.float16], npt.NDArray[np.int32]]:
    """Classes of several bursts of three near copies; bursts differ along directions that tell nothing of the class."""
    chance, width = np.random.default_rng(seed), 32
    labels = np.repeat(np.arange(classes, dtype=np.int32), 3 * each)
    centres = chance.normal(size=(classes, width)) * ([0.3] * 24 + [0.0] * 8)
    places = chance.normal(size=(classes * each, width)) * ([0.1] * 24 + [nuisance] * 8)
    vectors = centres[labels] + np.repeat(places, 3, axis=0) + 0.01 * chance.normal(size=(len(labels), width))
    return unit(vectors).astype(np.float16), labels
