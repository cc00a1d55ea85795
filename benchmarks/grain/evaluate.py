"""What `rar-bench grain` asks of both networks, beside `rar.export.grain.metrics`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from rar.export.encoder.model import TEMPLATES
from rar.export.grain.data import Collator
from rar.export.grain.metrics import embed_texts, look
from rar.export.grain.model import Grain

from .scenes import Scenes

_BATCH = 64


@torch.no_grad()
def zero_shot(model: Grain, collator: Collator, scenes: Scenes, names: Sequence[str]) -> float:
    """Share of scenes, 0 to 1, whose image embedding is nearest to their label's name in the template."""
    classes = embed_texts(model, collator, [TEMPLATES[0].replace("{}", name) for name in names])
    places = range(len(scenes.labels))
    images = torch.cat([seen.images for _, seen in look(model, collator, scenes, places)])
    best = (images @ classes.T).argmax(1).tolist()
    return float(np.mean([names[place] == label for place, label in zip(best, scenes.labels, strict=True)]))


@torch.no_grad()
def masked_descriptions(model: Grain, collator: Collator, scenes: Scenes, places: Sequence[int]) -> float:
    """Share of boxes, 0 to 1, whose own description is nearest to the scene with all but the box in grey.

    By the image embedding, of all distinct descriptions of these scenes: what a network that has no regions of its own
    can say of a box that it is told.
    """
    shown, told = [], []
    for example in scenes(places):
        for box, text in zip(example.boxes.astype(int), example.descriptions, strict=True):
            x0, y0, x1, y1 = box
            masked = np.full_like(example.pixels, 128)
            masked[y0:y1, x0:x1] = example.pixels[y0:y1, x0:x1]
            shown.append(masked)
            told.append(text)
    distinct = list(dict.fromkeys(told))
    device = next(model.parameters()).device
    images = [
        model.see(torch.from_numpy(collator.preprocess(shown[start : start + _BATCH])).to(device)).images
        for start in range(0, len(shown), _BATCH)
    ]
    best = (torch.cat(images) @ embed_texts(model, collator, distinct).T).argmax(1).tolist()
    return float(np.mean([distinct[place] == text for place, text in zip(best, told, strict=True)]))
