"""Pictures of the memory's classes as the MLLM sees them, computed once: the bundle's component `exemplars`.

labels.json  the class of each
vectors.npy  float16 [n, d]: the encoder's vectors, by which the nearest picture of a class is found
embeds.npy   float16 [n, T, D]: what the MLLM's vision graph gave
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ...bundle.arrays import DAMAGED, map_npy
from ...bundle.manifest import Bundle
from ...errors import BundleError, InputError
from ...memory.names import composed
from .prompt import Prompt

Floats = npt.NDArray[np.float32]

COMPONENT = "exemplars"
LABELS, VECTORS, EMBEDS = "labels.json", "vectors.npy", "embeds.npy"


class Exemplars:
    """The kept pictures, mapped: each is read when it is shown.

    Args:
        labels: The class of each.
        vectors: float16 [n, d].
        embeds: float16 [n, T, D].
    """

    def __init__(self, labels: list[str], vectors: npt.NDArray[np.float16], embeds: npt.NDArray[np.float16]) -> None:
        self._vectors, self._embeds = vectors, embeds
        self._rows: dict[str, list[int]] = {}
        for row, label in enumerate(labels):
            self._rows.setdefault(composed(label), []).append(row)

    @classmethod
    def open(cls, bundle: Bundle, prompt: Prompt) -> Exemplars:
        """Maps the pictures of a bundle.

        Args:
            bundle: The bundle.
            prompt: Its MLLM's prompt format.

        Raises:
            InputError: The bundle holds none.
            BundleError: They are damaged, or were made with another encoder or MLLM.
        """
        if COMPONENT not in bundle.components:
            raise InputError(f"{bundle.root}: the bundle holds no exemplars; add them with `rar-export exemplars`")
        _check_made_with(bundle, bundle.component(COMPONENT).info)
        labels = bundle.read_json(COMPONENT, LABELS)
        try:
            vectors, embeds = (map_npy(bundle.file(COMPONENT, name, check=False)) for name in (VECTORS, EMBEDS))
            if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
                raise ValueError(f"{LABELS} is no list of names")
            if not len(labels) == len(vectors) == len(embeds) or vectors.ndim != 2 or embeds.ndim != 3:
                raise ValueError(f"{len(labels)} labels, vectors {vectors.shape} and embeddings {embeds.shape}")
            halves = all(array.dtype == np.float16 for array in (vectors, embeds))
            if not halves or embeds.shape[1] != prompt.image_tokens:
                raise ValueError(f"pictures of {embeds.shape[1]} tokens for {prompt.image_tokens}, or another type")
        except DAMAGED as error:
            raise BundleError(
                f"{bundle.root}: its exemplars are damaged ({error}); make them again with `rar-export exemplars`"
            ) from error
        return cls(labels, vectors, embeds)

    def __len__(self) -> int:
        return len(self._embeds)

    def nearest(self, label: str, embedding: Floats, count: int) -> list[int]:
        """The pictures of a class that are most similar to another picture, the most similar first.

        Args:
            label: The class.
            embedding: float32 [d], L2-normalised.
            count: How many, at most.

        Raises:
            BundleError: Their vectors have another length.
        """
        rows = self._rows.get(composed(label), [])
        if len(rows) <= count == 1:
            return rows
        if rows and self._vectors.shape[1] != len(embedding):
            raise BundleError(
                f"exemplars with vectors of {self._vectors.shape[1]} for an encoder of {len(embedding)}; make them "
                "again with `rar-export exemplars`"
            )
        cosines = self._vectors[rows].astype(np.float32) @ embedding
        return [rows[place] for place in np.argsort(-cosines, kind="stable")[:count]]

    def embeds(self, row: int) -> Floats:
        """A picture as the language model sees it: float32 [T, D]."""
        embeds: Floats = self._embeds[row].astype(np.float32)
        return embeds


def _check_made_with(bundle: Bundle, info: Mapping[str, Any]) -> None:
    for name in ("clip", "mllm"):
        if info.get(name) != bundle.component(name).fingerprint:
            raise BundleError(
                f"{bundle.root}: the exemplars were made with another {name}; make them again with "
                "`rar-export exemplars`"
            )
