"""A GRAIN small enough to be trained and exported in a test, and pictures to train it with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from rar.export.grain.config import GrainConfig
from rar.export.grain.data import Example

MICRO = GrainConfig(
    image=32, patch=8, width=32, depth=2, heads=2, text_width=32, text_depth=1, text_heads=2, context=16, embed=24,
    hidden=32, decoder_depth=2, decoder_heads=2, feedforward=64, queries=3,
)  # fmt: skip
COLOURS = {"red": (220, 30, 30), "green": (30, 180, 40), "blue": (40, 60, 220), "white": (240, 240, 240)}


class Squares:
    """Coloured squares on black: the same place always gives the same picture; every fifth has no box."""

    def __init__(self, count: int = 40) -> None:
        self.count = count
        self.left_out: Counter[str] = Counter()

    def __len__(self) -> int:
        return self.count

    def __call__(self, places: Sequence[int]) -> list[Example]:
        return [self.example(place) for place in places]

    def example(self, place: int) -> Example:
        chance = np.random.default_rng(place)
        pixels = np.zeros((40, 40, 3), np.uint8)
        names = [str(name) for name in chance.choice(list(COLOURS), 2, replace=False)]
        boxes = []
        for name, left in zip(names, (0, 20), strict=True):
            side, top = int(chance.integers(8, 20)), int(chance.integers(0, 20))
            pixels[top : top + side, left : left + side] = COLOURS[name]
            boxes.append((left, top, left + side, top + side))
        caption = f"a {names[0]} square left of a {names[1]} square"
        if place % 5 == 4:
            return Example(pixels, caption, np.empty((0, 4), np.float32), [])
        return Example(pixels, caption, np.array(boxes, np.float32), [f"a {name} square" for name in names])


@pytest.fixture(scope="session")
def micro_bundle(pytorch: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with the encoder of a micro network of seeded random weights, no memory. Shared: copy before writing."""
    import torch

    from rar.export.encoder.export import export_clip
    from rar.export.grain.export import dual_encoder
    from rar.export.grain.model import Grain

    torch.manual_seed(0)
    out = tmp_path_factory.mktemp("grain") / "bundle"
    export_clip(dual_encoder(Grain(MICRO).eval(), "GRAIN micro"), out)
    return out
