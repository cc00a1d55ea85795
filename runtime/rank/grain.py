"""GRAIN's regions (arXiv 2412.04429) as a ranker of the k candidates.

The picture is compared with the class and its regions with the class's descriptions:

    s = alpha <image, class> + (1 - alpha) mean_q max_j <region_q, description_j>

The released code does the same (shaunak27/grain-clip, our_eval.py; its default, alpha 1, ignores the regions). A class
is the mean of the unit text vectors of its name and descriptions, as in evaluate.py there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..encoder.clip import Clip
from ..errors import InputError
from ..memory import Retrieval
from .protocol import DescribedRegion, Opened, Query, RankerOptions, Ranking, Spec

Floats = npt.NDArray[np.float32]

# Shares of the whole picture that `rar-export tune` tries.
_ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class GrainOptions:
    """Settings of the GRAIN ranker.

    Attributes:
        alpha: Weight of the whole picture's score against its regions'; 1 ignores the regions, 0 uses only them.
            `rar-export tune` fits it.
        normalize: Scales the class vectors to unit length; False is the paper's evaluation, where a class with
            dissimilar descriptions has a shorter vector.

    Raises:
        InputError: Alpha is not between 0 and 1.
    """

    alpha: float = 0.5
    normalize: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise InputError(f"GRAIN's alpha is {self.alpha}; give 0 to 1")

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> GrainOptions:
        """See `RankerOptions`."""
        return cls(float(stored["alpha"]))

    def stored(self) -> dict[str, Any]:
        """See `RankerOptions`."""
        return {"alpha": self.alpha}

    def same(self, other: RankerOptions) -> bool:
        """See `RankerOptions`."""
        return self == other


@dataclass(frozen=True)
class _Class:
    """The ranker's form of a class: its vector, and its descriptions (or its name if it has none)."""

    made_of: Sequence[str]
    vector: Floats
    descriptions: Sequence[str]
    texts: Floats


class Grain:
    """The GRAIN ranker over the texts of a memory, for a bundle whose encoder gives regions.

    Raises:
        InputError: The encoder gives no regions.
    """

    def __init__(self, clip: Clip, memory: Retrieval, options: GrainOptions | None = None) -> None:
        if not clip.has_regions:
            raise InputError("the encoder gives no regions, which GRAIN ranks by; export one with `rar-export grain`")
        self._clip = clip
        self._memory = memory
        self._options = options or GrainOptions()
        self._classes: dict[str, _Class] = {}

    def rank(self, queries: Sequence[Query]) -> list[Ranking]:
        """GRAIN's score of each candidate, and the candidate that each region supports most."""
        return [self._rank(query) for query in queries]

    def _rank(self, query: Query) -> Ranking:
        if query.regions is None:
            raise InputError("GRAIN ranks by the encoder's regions; pass them with each query")
        alpha, boxes = self._options.alpha, query.regions.boxes
        classes = [self._class(candidate.label) for candidate in query.candidates]
        # For each class the similarity of each region, [q], to each description, [m].
        similarity = [query.regions.embeddings @ one.texts.T for one in classes]
        best = np.stack([of_class.max(1) for of_class in similarity], 1)
        whole = np.array([query.embedding @ one.vector for one in classes])
        height, width = query.pixels.shape[:2]
        spoken = []
        for region, place in enumerate(best.argmax(1).tolist()):
            x0, y0, x1, y1 = (boxes[region] * (width, height, width, height)).tolist()
            text = classes[place].descriptions[int(similarity[place][region].argmax())]
            label = query.candidates[place].label
            spoken.append(DescribedRegion(label, (x0, y0, x1, y1), text, float(best[region, place])))
        scores = alpha * whole + (1 - alpha) * best.mean(0)
        return Ranking(scores.astype(np.float32), regions=sorted(spoken, key=lambda one: -one.score))

    def _class(self, label: str) -> _Class:
        stored = self._memory.texts(label)
        made_of = [source for source, _ in stored]
        if label not in self._classes or self._classes[label].made_of != made_of:  # or the memory was changed
            # A class that was added as vectors, or was just removed, has no text.
            texts = stored or [(label, self._clip.embed_names([label])[0])]
            described = [pair for pair in texts if pair[0] != label] or texts
            vector = np.mean([text for _, text in texts], axis=0)
            if self._options.normalize:
                vector = vector / np.linalg.norm(vector)
            descriptions = [source for source, _ in described]
            vectors = np.stack([text for _, text in described]).astype(np.float32)
            self._classes[label] = _Class(made_of, vector.astype(np.float32), descriptions, vectors)
        return self._classes[label]


def _open(opened: Opened, options: GrainOptions) -> Grain:
    return Grain(opened.clip, opened.memory, options)


def _trials(opened: Opened) -> Iterator[tuple[GrainOptions, Grain]]:
    if opened.clip.has_regions:
        for alpha in _ALPHAS:
            yield GrainOptions(alpha), _open(opened, GrainOptions(alpha))


SPEC = Spec(GrainOptions, _open, lambda _: "regions", _trials)
