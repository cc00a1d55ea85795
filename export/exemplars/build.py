"""Chooses pictures of each class and keeps what the bundle's MLLM sees of them; needs no PyTorch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from rar.runtime.bundle.change import stage
from rar.runtime.bundle.files import write_json
from rar.runtime.bundle.manifest import Bundle
from rar.runtime.encoder.clip import Clip
from rar.runtime.errors import BundleError, InputError
from rar.runtime.picture.load import decode
from rar.runtime.rank.mllm.exemplars import COMPONENT, EMBEDS, LABELS, VECTORS
from rar.runtime.rank.mllm.model import Mllm
from rar.runtime.rank.protocol import Query

from ..pictures.embed import embed_images
from ..pictures.labelled import LabelledImage

Floats = npt.NDArray[np.float32]

_BATCH = 16
# Pictures of a class that are compared with each other; of more, as many evenly spread.
_COMPARED = 2000


def build_exemplars(
    bundle: Bundle,
    images: Sequence[LabelledImage],
    per_class: int = 1,
    provider: str = "auto",
    threads: int | None = None,
) -> dict[str, Any]:
    """Writes a bundle's exemplars, replacing the existing ones.

    Args:
        bundle: The bundle; must hold an encoder and an MLLM that takes several pictures.
        images: Labelled pictures, such as those that the memory was built of.
        per_class: How many are kept of a class; fewer of a class with fewer.
        provider: Device of the encoder and the MLLM.
        threads: Threads of each session.

    Returns:
        The manifest's entry.

    Raises:
        InputError: The bundle has no such MLLM, there are no pictures, or one cannot be read; the old ones stay.
        BundleError: The bundle cannot be written, or its MLLM's pictures are not finite.
    """
    if per_class < 1:
        raise InputError(f"per_class={per_class}; give how many pictures of a class are kept, from 1 on")
    if not images:
        raise InputError("exemplars need labelled pictures; give one or more")
    clip = Clip(bundle, provider, threads)
    model = Mllm(bundle, clip, threads)
    prompt = model.prompt.of_several()
    vectors = embed_images(clip, images)
    chosen = _choose(vectors, [image.label for image in images], per_class)
    kept = [images[row] for row in chosen]
    with np.errstate(over="ignore"):  # told below
        halves = np.concatenate(
            [
                _see(model, clip, kept[start : start + _BATCH]).astype(np.float16)
                for start in tqdm(range(0, len(kept), _BATCH), desc="exemplars", disable=None)
            ]
        )
    if not np.isfinite(halves).all():
        raise BundleError(f"{bundle.root}: its MLLM's pictures do not fit 16 bits; use another precision or model")
    with stage(bundle.root, COMPONENT) as staging:
        write_json(staging.folder / LABELS, [image.label for image in kept])
        np.save(staging.folder / VECTORS, vectors[chosen].astype(np.float16))
        np.save(staging.folder / EMBEDS, halves)
        staging.info.update(
            {name: bundle.component(name).fingerprint for name in ("clip", "mllm")},
            classes=len({image.label for image in kept}),
            pictures=len(kept),
            image_tokens=prompt.image_tokens,
            dim=halves.shape[2],
        )
    return staging.info


def cover(vectors: Floats, count: int) -> list[int]:
    """The pictures that best stand for all: each next one adds most to the similarity of every picture to its nearest.

    The first is the medoid.

    Args:
        vectors: float32 [n, d], L2-normalised.
        count: How many; fewer if there are fewer.
    """
    similarity = vectors @ vectors.T
    best = np.full(len(vectors), -1, np.float32)
    chosen: list[int] = []
    while len(chosen) < min(count, len(vectors)):
        total = np.maximum(similarity, best).sum(1)
        total[chosen] = -np.inf
        chosen.append(int(total.argmax()))
        best = np.maximum(best, similarity[chosen[-1]])
    return chosen


def _choose(vectors: Floats, labels: Sequence[str], count: int) -> list[int]:
    """Rows of the kept pictures, class by class."""
    of_classes: dict[str, list[int]] = {}
    for row, label in enumerate(labels):
        of_classes.setdefault(label, []).append(row)
    chosen = []
    for _, rows in sorted(of_classes.items()):
        compared = rows[:: math.ceil(len(rows) / _COMPARED)]
        chosen += [compared[place] for place in cover(vectors[compared], count)]
    return chosen


def _see(model: Mllm, clip: Clip, images: Sequence[LabelledImage]) -> Floats:
    """Pictures as the language model sees them: float32 [n, T, D]."""
    pixels = [decode(image.path).pixels for image in images]
    seen = clip.see(clip.preprocess(pixels))
    features = [None] * len(images) if seen.features is None else seen.features
    return model.see(
        [
            Query(picture, embedding, (), of_picture)
            for picture, embedding, of_picture in zip(pixels, seen.embeddings, features, strict=True)
        ]
    )
