"""Measures a GRAIN model on held-out examples: retrieval by captions, and its regions against the truth."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .boxes import overlap, to_corners
from .data import Collator, Example, Examples
from .losses import match
from .model import Grain, Seen

_BATCH = 64


@dataclass(frozen=True)
class Metrics:
    """Shares, 0 to 1, over held-out examples.

    Attributes:
        text_to_image: Captions whose nearest picture is their own.
        image_to_text: Pictures whose nearest caption is their own.
        description: Matched regions whose nearest description, of all distinct ones of these examples, is their own.
        iou: Mean intersection over union of matched boxes.
        pictures: The number of pictures.
        regions: The number of matched regions.
        descriptions: The number of distinct descriptions.
    """

    text_to_image: float
    image_to_text: float
    description: float
    iou: float
    pictures: int
    regions: int
    descriptions: int

    def to_dict(self) -> dict[str, float]:
        """The figures in the form of the log."""
        return {key: round(value, 4) for key, value in asdict(self).items()}


@torch.no_grad()
def measure(model: Grain, collator: Collator, examples: Examples, places: Sequence[int]) -> Metrics:
    """Measures a model, in eval mode, on held-out examples.

    Recall counts an equal caption or picture as right. Without boxes, `description` and `iou` are 0.
    """
    images: list[Tensor] = []
    captions: list[str] = []
    regions: list[Tensor] = []
    ious: list[Tensor] = []
    described: list[str] = []
    for batch, seen in look(model, collator, examples, places):
        images.append(seen.images)
        captions += [example.caption for example in batch]
        truth = [torch.from_numpy(boxes).to(seen.boxes.device) for boxes in collator(batch).boxes]
        texts = [text for example in batch for text in example.descriptions]
        matches = match(seen.boxes[-1], truth)
        regions.append(seen.regions[matches.pictures, matches.queries])
        predicted = to_corners(seen.boxes[-1][matches.pictures, matches.queries])
        ious.append(overlap(predicted, to_corners(torch.cat(truth)[matches.targets]))[0])
        described += [texts[target] for target in matches.targets.tolist()]
    similarity = (torch.cat(images) @ embed_texts(model, collator, captions).T).cpu().numpy()
    distinct = list(dict.fromkeys(described))
    right = [False]
    if distinct:
        nearest = (torch.cat(regions) @ embed_texts(model, collator, distinct).T).argmax(1).tolist()
        right = [distinct[place] == text for place, text in zip(nearest, described, strict=True)]
    return Metrics(
        text_to_image=_recall(similarity.T, captions),
        image_to_text=_recall(similarity, captions),
        description=float(np.mean(right)),
        iou=float(torch.cat(ious).mean()) if described else 0.0,
        pictures=len(captions),
        regions=len(described),
        descriptions=len(distinct),
    )


def look(
    model: Grain, collator: Collator, examples: Examples, places: Sequence[int]
) -> Iterator[tuple[list[Example], Seen]]:
    """Batches of examples with the model's outputs for their pictures."""
    device = next(model.parameters()).device
    for start in range(0, len(places), _BATCH):
        batch = examples(places[start : start + _BATCH])
        pixels = collator.preprocess([example.pixels for example in batch])
        with torch.no_grad():
            yield batch, model.see(torch.from_numpy(pixels).to(device))


@torch.no_grad()
def embed_texts(model: Grain, collator: Collator, texts: Sequence[str]) -> Tensor:
    """float32 [n, d], L2-normalised."""
    device = next(model.parameters()).device
    runs = [
        model.read(torch.from_numpy(collator.tokenize(texts[start : start + _BATCH])).to(device))
        for start in range(0, len(texts), _BATCH)
    ]
    return torch.cat(runs)


def _recall(similarity: npt.NDArray[np.float32], captions: Sequence[str]) -> float:
    nearest = similarity.argmax(1)
    return float(np.mean([captions[best] == caption for best, caption in zip(nearest, captions, strict=True)]))
