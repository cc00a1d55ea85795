"""WCA, weighted visual-text cross alignment (arXiv 2406.02915), as a ranker of the k candidates.

Crops of the picture and descriptions of a class are compared pairwise. Each is weighted by its similarity to the whole
picture or to the class's name:

    s = sum_ij w_i v_j cos(crop_i, description_j) = <sum_i w_i crop_i, sum_j v_j description_j>

The right side is computed, so the N x M matrix never exists. Defaults are the released code's (tmlr-group/WCA,
main.py). There alpha has no effect on the cropping; here it has.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..encoder.clip import Clip
from ..errors import InputError
from ..memory import Retrieval
from ..picture.load import Pixels
from .protocol import Flag, Opened, Query, RankerOptions, Ranking, Spec

Floats = npt.NDArray[np.float32]

_CROPS_A_RUN = 64


@dataclass(frozen=True)
class WcaOptions:
    """Settings of the WCA ranker.

    Attributes:
        crops: N, random square crops per picture.
        alpha: Least crop side, as a share of the picture's shorter side.
        beta: Largest crop side, likewise.
        image_scale: Multiplier of the cosines under the softmax over crops; the code's exp(4).
        text_scale: Multiplier of the cosines under the softmax over descriptions; the code's exp(2).
        normalize: Scales both weighted sums to unit length, as the code does; on the class side this changes
            the order. False is the paper's double sum.
        seed: Seed of the crops; the same picture gets the same crops in any batch.

    Raises:
        InputError: A value is out of range.
    """

    crops: int = 60
    alpha: float = 0.5
    beta: float = 0.9
    image_scale: float = math.exp(4)
    text_scale: float = math.exp(2)
    normalize: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        scales = math.isfinite(self.image_scale) and math.isfinite(self.text_scale)
        if self.crops < 1 or self.seed < 0 or not scales or not 0 < self.alpha <= self.beta <= 1:
            raise InputError(
                f"WCA needs at least one crop, 0 < alpha <= beta <= 1, finite scales and a seed from 0; not {self}"
            )

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> WcaOptions:
        """See `RankerOptions`."""
        return cls()

    def stored(self) -> dict[str, Any]:
        """See `RankerOptions`."""
        return {}

    def same(self, other: RankerOptions) -> bool:
        """See `RankerOptions`."""
        return isinstance(other, WcaOptions)


class Wca:
    """The WCA ranker over a bundle's encoder and the texts of its memory.

    Raises:
        InputError: The memory holds no texts.
    """

    def __init__(self, clip: Clip, memory: Retrieval, options: WcaOptions | None = None) -> None:
        if "texts" not in memory.parts:
            raise InputError("WCA needs texts; build the memory with --classes or --descriptions")
        self._clip = clip
        self._memory = memory
        self._options = options or WcaOptions()
        # For each class the texts that it was made of, and its side of the score.
        self._class_vectors: dict[str, tuple[list[str], Floats]] = {}

    def rank(self, queries: Sequence[Query]) -> list[Ranking]:
        """WCA's score of each candidate."""
        options = self._options
        crops = [crop for query in queries for crop in random_crops(query.pixels, options)]
        embeddings = np.concatenate(
            [
                self._clip.embed_pixels(self._clip.preprocess(crops[start : start + _CROPS_A_RUN]))
                for start in range(0, len(crops), _CROPS_A_RUN)
            ]
        ).reshape(len(queries), options.crops, -1)
        rankings = []
        for query, views in zip(queries, embeddings, strict=True):
            image = weighted_sum(views, query.embedding, options.image_scale, options.normalize)
            classes = np.stack([self._class_vector(candidate.label) for candidate in query.candidates])
            rankings.append(Ranking(classes @ image))
        return rankings

    def _class_vector(self, label: str) -> Floats:
        stored = self._memory.texts(label)
        sources = [source for source, _ in stored]
        made_of, vector = self._class_vectors.get(label, (None, np.empty(0, np.float32)))
        if made_of != sources:  # not made yet, or the memory was changed
            names = [text for source, text in stored if source == label]
            # A class that was added as vectors, or was just removed, has no text.
            name = names[0] if names else self._clip.embed_names([label])[0]
            descriptions = [text for source, text in stored if source != label]
            # A class without descriptions is described by its name.
            texts = np.stack(descriptions or [name])
            options = self._options
            vector = weighted_sum(texts, name, options.text_scale, options.normalize)
            self._class_vectors[label] = (sources, vector)
        return vector


def weighted_sum(vectors: Floats, anchor: Floats, scale: float, normalize: bool) -> Floats:
    """One side of WCA's factored score: sum_i softmax_i(scale * cos(vectors_i, anchor)) vectors_i.

    Args:
        vectors: float32 [n, d], unit rows: crops, or descriptions.
        anchor: float32 [d], unit: the whole picture, or the class's name.
        scale: Multiplier under the softmax.
        normalize: Scales the sum to unit length.

    Returns:
        float32 [d].
    """
    logits = scale * (vectors @ anchor)
    weights = np.exp(logits - logits.max())
    total = (weights / weights.sum()) @ vectors
    return np.asarray(total / np.linalg.norm(total) if normalize else total, np.float32)


def random_crops(pixels: Pixels, options: WcaOptions) -> list[Pixels]:
    """N square views of one picture, sides U(alpha, beta) times the shorter side, anywhere in it; no copies."""
    height, width = pixels.shape[:2]
    chance = np.random.default_rng(options.seed)
    shares = chance.uniform(options.alpha, options.beta, options.crops)
    sides = np.maximum(1, (shares * min(height, width)).astype(int))
    tops = chance.integers(0, height - sides + 1)
    lefts = chance.integers(0, width - sides + 1)
    return [
        pixels[top : top + side, left : left + side]
        for top, left, side in zip(tops.tolist(), lefts.tolist(), sides.tolist(), strict=True)
    ]


def _open(opened: Opened, options: WcaOptions) -> Wca:
    return Wca(opened.clip, opened.memory, options)


def _trials(opened: Opened) -> Iterator[tuple[WcaOptions, Wca]]:
    if "texts" in opened.memory.parts:
        yield WcaOptions(), _open(opened, WcaOptions())


_FLAGS = (Flag("crops", f"WCA's crops a picture (default: {WcaOptions.crops})"),)

SPEC = Spec(WcaOptions, _open, lambda _: "pixels", _trials, flags=_FLAGS)
