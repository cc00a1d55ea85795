"""How pictures and texts count in a class's similarity, fitted on held-out pictures."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rar.runtime.bundle import Bundle
from rar.runtime.memory import MODALITIES, Memory

Floats = npt.NDArray[np.float32]

_WEIGHTS = [step / 10 for step in range(11)]
# By so many standard deviations of a fair coin the best of two dozen settings must be ahead: one, which is enough for
# a single comparison, some of them exceed by chance.
_AHEAD = 2.0


@dataclass(frozen=True)
class Weighing:
    """What is stored with the memory.

    Attributes:
        text_weight: Share of the texts in a class's similarity.
        centred: Whether the modalities' means are taken off first.
        top1: Percent of the held-out pictures that are right with it.
        before: The same as it was.
    """

    text_weight: float
    centred: bool
    top1: float
    before: float


def fit_weighing(
    path: str | os.PathLike[str], embeddings: Floats, truth: Sequence[str], *, threads: int | None = None
) -> Weighing | None:
    """The weight of the texts, and whether to centre, with the most held-out pictures right.

    What is stored stays unless another setting gains more than chance would give.

    Args:
        path: The bundle.
        embeddings: float32 [N, d], of held-out pictures.
        truth: The class of each.
        threads: Threads of a search.

    Returns:
        None where the memory has one modality only, so that there is nothing to weigh.
    """
    stored = Memory.open(path, threads=threads)
    if any(name not in stored.parts or not len(stored.parts[name].built) for name in MODALITIES):
        return None
    before = _hits(stored, embeddings, truth)
    centred = bool(Bundle.open(path).component("memory").info.get("centred", False))
    best, hits = (stored.text_weight, centred), before
    for centred in (False, True):
        for weight in _WEIGHTS:
            found = _hits(Memory.open(path, weight, centred=centred, threads=threads), embeddings, truth)
            if found.sum() > hits.sum() and _ahead(found, before):
                best, hits = (weight, centred), found
    return Weighing(*best, *(round(100 * float(right.mean()), 2) for right in (hits, before)))


def _hits(memory: Memory, embeddings: Floats, truth: Sequence[str]) -> npt.NDArray[np.bool_]:
    found = memory.search(embeddings, 1)
    return np.array([row[0].label == label for row, label in zip(found, truth, strict=True)])


def _ahead(found: npt.NDArray[np.bool_], before: npt.NDArray[np.bool_]) -> bool:
    won, lost = int((found & ~before).sum()), int((before & ~found).sum())
    return won - lost > _AHEAD * math.sqrt(won + lost)
