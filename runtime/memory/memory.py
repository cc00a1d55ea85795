"""The memory: embedded pictures and texts, searched for the k most similar classes.

A memory has up to two parts, pictures and texts, each with its own reduction and index. They are kept apart
because the two lie in different regions of a dual encoder's space (the modality gap): one PCA centred between
them would spend its dimensions on the gap, and in one index the texts would never be among the nearest.

    memory/labels.json
    memory/pictures/  vectors.npy  entries.npy  sources.npy  sources.utf8  reduction.npz
                      index.usearch  (index-1.usearch and on: further shards)
    memory/texts/     the same
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..bundle import Bundle
from ..errors import BundleError, InputError
from .part import MODALITIES, Modality, Part
from .reduction import Floats

# How many of the index's nearest are scored again at full dimension.
RESCORE = 50


@dataclass(frozen=True)
class Candidate:
    """One class that may be in the picture.

    Attributes:
        label: The class's name.
        similarity: The retrieval's score: cosine, or the weighed cosines where both modalities speak.
        rank_score: The ranker's score; None where nothing ranked.
    """

    label: str
    similarity: float
    rank_score: float | None = None


class Memory:
    """Classes and the pictures and texts that stand for them.

    Attributes:
        labels: The classes' names; entries refer to them by position.
        parts: The modalities there are. A class's texts are adjacent, its name first.
        text_weight: Share w of the texts in a class's similarity (1 - w) * best picture + w * best text;
            0 is RAR's picture-picture retrieval, 1 its picture-text retrieval.
        classes: How many classes the search can find under that weight.

    Raises:
        InputError: The weight is out of range, or needs a modality that is not there.
    """

    def __init__(self, labels: Sequence[str], parts: Mapping[Modality, Part], text_weight: float) -> None:
        if misfit := _misfit(parts, text_weight):
            raise InputError(misfit)
        self.labels = list(labels)
        self.parts = dict(parts)
        self.text_weight = text_weight
        weights: dict[Modality, float] = {"pictures": 1 - text_weight, "texts": text_weight}
        self._weights = {name: weight for name, weight in weights.items() if weight > 0}
        active = [np.bincount(self.parts[name].labels, minlength=len(self.labels)) > 0 for name in self._weights]
        self.classes = int(np.logical_or.reduce(active).sum())

    @classmethod
    def open(cls, bundle: Bundle | str | os.PathLike[str], text_weight: float | None = None) -> Memory:
        """Maps a bundle's memory.

        Args:
            bundle: The bundle or its path.
            text_weight: Replaces the stored weight of the texts, 0 to 1.

        Raises:
            BundleError: There is no memory, or it is damaged.
            InputError: The weight needs a modality that is not there.
        """
        bundle = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
        component = bundle.component("memory")
        labels = bundle.read_json("memory", "labels.json")
        if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
            raise BundleError(f"{bundle.root}: memory/labels.json is no list of names; build the memory again")
        parts = {name: Part.open(bundle, name) for name in MODALITIES if f"{name}/vectors.npy" in component.files}
        for name, part in parts.items():
            if not 0 <= int(part.labels.min()) <= int(part.labels.max()) < len(labels):
                raise BundleError(f"{bundle.root}: memory/{name} refers to classes that are not there; build it again")
        if len({part.vectors.shape[1] for part in parts.values()}) != 1:
            raise BundleError(f"{bundle.root}: the memory has no parts, or parts of unlike dimension; build it again")
        if text_weight is None:
            text_weight = component.info.get("text_weight")
            misfit = _misfit(parts, text_weight) if isinstance(text_weight, (int, float)) else "no number"
            if text_weight is None or misfit:
                raise BundleError(
                    f"{bundle.root}: the memory's text_weight is {text_weight!r}: {misfit}; build it again"
                )
        return cls(labels, parts, text_weight)

    @property
    def dim(self) -> int:
        """The full dimension d."""
        return int(next(iter(self.parts.values())).vectors.shape[1])

    def search(
        self, queries: Floats, k: int = 5, *, rescore: int = RESCORE, exact: bool = False
    ) -> list[list[Candidate]]:
        """The k classes most similar to each query.

        The index's nearest `rescore` entries are scored at full dimension and collapsed to one entry a class;
        more are fetched until k classes are found.

        Args:
            queries: float32 [N, d], L2-normalised.
            k: Distinct classes a query.
            rescore: R, the entries fetched from the index and scored exactly.
            exact: Compares with every entry at full dimension instead of walking the index.

        Returns:
            For each query k candidates, one a class, best first.

        Raises:
            InputError: Queries of another shape, or with NaN; k below 1 or above the number of classes.
        """
        queries = self._check(queries, k)
        reach = max(len(self.parts[name]) for name in self._weights)
        results: list[list[Candidate]] = [[] for _ in queries]
        pending, count = np.arange(len(queries)), max(rescore, k)
        while len(pending):
            found = {name: self.parts[name].nearest(queries[pending], count, exact=exact) for name in self._weights}
            unfinished = []
            for row, query in enumerate(pending.tolist()):
                scores = self._collapse({name: (ids[row], cos[row]) for name, (ids, cos) in found.items()})
                if len(scores) < k and count < reach:
                    unfinished.append(query)
                    continue
                best = sorted(scores.items(), key=lambda item: -item[1])[:k]
                results[query] = [Candidate(self.labels[label], score) for label, score in best]
            pending, count = np.array(unfinished, int), count * 4
        return results

    def check_k(self, k: int) -> None:
        """Passes a number of candidates that the memory can give.

        Raises:
            InputError: It is below 1 or above the number of classes.
        """
        if not 1 <= k <= self.classes:
            raise InputError(f"k={k}, but the memory holds {self.classes} classes; choose 1 to {self.classes}")

    def _collapse(self, found: Mapping[Modality, tuple[npt.NDArray[np.int64], Floats]]) -> dict[int, float]:
        """Best cosine of each class in each modality, weighed together.

        A class that a modality's search did not bring up counts there with the lowest cosine it did bring up:
        an upper bound where the class has such entries, and no advantage where it has none.
        """
        best: dict[Modality, dict[int, float]] = {}
        for name, (ids, cosines) in found.items():
            valid = ids >= 0
            labels, first = np.unique(self.parts[name].labels[ids[valid]], return_index=True)
            best[name] = dict(zip(labels.tolist(), cosines[valid][first].tolist(), strict=True))
        if len(best) == 1:
            return next(iter(best.values()))
        floors = {name: min(scores.values()) for name, scores in best.items()}
        return {
            label: sum(self._weights[name] * scores.get(label, floors[name]) for name, scores in best.items())
            for label in set().union(*best.values())
        }

    def _check(self, queries: Floats, k: int) -> Floats:
        queries = np.asarray(queries, np.float32)
        if queries.ndim != 2 or queries.shape[1] != self.dim:
            raise InputError(f"queries must have shape [N, {self.dim}], not {list(queries.shape)}")
        if not np.isfinite(queries).all():
            raise InputError("a query holds NaN or infinity; check the embedding")
        self.check_k(k)
        return queries


def _misfit(parts: Mapping[Modality, Part], text_weight: float) -> str | None:
    """Why a memory of these parts cannot be searched with this weight of its texts; None where it can."""
    if not 0 <= text_weight <= 1:
        return f"text_weight {text_weight} is not between 0 (pictures only) and 1 (texts only)"
    needed: dict[Modality, bool] = {"pictures": text_weight < 1, "texts": text_weight > 0}
    missing = [name for name, need in needed.items() if need and name not in parts]
    return f"text_weight {text_weight} needs {missing[0]}, of which this memory has none" if missing else None
