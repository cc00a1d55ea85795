"""Fits the weights of pictures and texts in a class's similarity on held-out pictures."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rar.runtime.bundle.manifest import Bundle
from rar.runtime.memory import MODALITIES, Memory
from rar.runtime.memory.info import MemoryInfo

Floats = npt.NDArray[np.float32]

_WEIGHTS = [step / 10 for step in range(11)]
# The best of two dozen settings must lead by this many standard deviations of a fair coin. One is enough for a single
# comparison, but some of two dozen exceed it by chance.
_AHEAD = 2.0


@dataclass(frozen=True)
class Weighing:
    """The settings that are stored with the memory.

    Attributes:
        text_weight: Share of the texts in a class's similarity.
        centred: Whether the modalities' means are subtracted first.
        top1: Percentage of correct held-out pictures with these settings.
        before: The same with the previous settings.
    """

    text_weight: float
    centred: bool
    top1: float
    before: float


def fit_weighing(
    path: str | os.PathLike[str], embeddings: Floats, truth: Sequence[str], *, threads: int | None = None
) -> Weighing | None:
    """The texts' weight and the choice to centre that give the most correct held-out pictures.

    The stored settings stay unless others gain more than chance.

    Args:
        path: The bundle.
        embeddings: float32 [N, d], of held-out pictures.
        truth: The class of each.
        threads: Threads of a search.

    Returns:
        None if the memory has only one modality.
    """
    stored = Memory.open(path, threads=threads)
    if any(name not in stored.parts or not len(stored.parts[name].built) for name in MODALITIES):
        return None
    before = _hits(stored, embeddings, truth)
    centred = MemoryInfo.of(Bundle.open(path)).weighing.centred
    best, hits = (stored.text_weight, centred), before
    for centred in (False, True):
        for weight in _WEIGHTS:
            tried = _hits(Memory.open(path, weight, centred=centred, threads=threads), embeddings, truth)
            if tried.sum() > hits.sum() and _ahead(tried, before):
                best, hits = (weight, centred), tried
    return Weighing(*best, *(round(100 * float(right.mean()), 2) for right in (hits, before)))


def _hits(memory: Memory, embeddings: Floats, truth: Sequence[str]) -> npt.NDArray[np.bool_]:
    results = memory.search(embeddings, 1)
    return np.array([row[0].label == label for row, label in zip(results, truth, strict=True)])


def _ahead(after: npt.NDArray[np.bool_], before: npt.NDArray[np.bool_]) -> bool:
    won, lost = int((after & ~before).sum()), int((before & ~after).sum())
    return won - lost > _AHEAD * math.sqrt(won + lost)
