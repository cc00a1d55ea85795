"""Seeded scenes whose captions, boxes and descriptions are known, to train a small GRAIN with and to measure it on.

A scene is one to four objects on a soft grey ground. An object is a shape of a colour and a texture (8 x 8 x 4
combinations), or a grocery product: a cut of a photo from the Grocery Store data set, with that class's own
description. 16 of the 64 pairs of shape and colour are held out, each shape and each colour twice: no training scene
shows one in any texture, so the 64 combinations of those are new to the network though each of their attributes is not.

Captions name the objects, descriptions say their size too, in other words:

    a photo of a striped red circle and a Granny Smith
    a large red circle with stripes / Granny Smith is a green apple with white, firm pulp ...
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from tqdm import tqdm

from rar.export.grain.data import Example

from .things import Kind, Product, draw, kinds

SIDE = 96

_COUNTS = (0.2, 0.3, 0.3, 0.2)  # of one to four objects
_PRODUCTS = 0.3  # share of products among the objects
_TRIES = 30


@dataclass(frozen=True)
class Scenes:
    """Scenes in memory, each also mirrored: place n + i is the mirror image of place i.

    Attributes:
        pixels: uint8 [n, 96, 96, 3].
        captions: One a scene.
        boxes: For each scene float32 [m, 4], x0, y0, x1, y1 in pixels.
        descriptions: For each scene m texts.
        labels: What each scene's first object is.
        left_out: Nothing ever is.
    """

    pixels: npt.NDArray[np.uint8]
    captions: Sequence[str]
    boxes: Sequence[npt.NDArray[np.float32]]
    descriptions: Sequence[Sequence[str]]
    labels: Sequence[str]
    left_out: Counter[str] = field(default_factory=Counter)

    def __len__(self) -> int:
        return 2 * len(self.pixels)

    def __call__(self, places: Sequence[int]) -> list[Example]:
        """See `rar.export.grain.data.Examples`."""
        return [self._example(place) for place in places]

    def _example(self, place: int) -> Example:
        number = place % len(self.pixels)
        pixels, boxes = self.pixels[number], self.boxes[number]
        if place >= len(self.pixels):
            pixels, boxes = pixels[:, ::-1], boxes.copy()
            boxes[:, [0, 2]] = SIDE - boxes[:, [2, 0]]
        return Example(np.ascontiguousarray(pixels), self.captions[number], boxes, self.descriptions[number])


def write(scenes: Scenes, folder: Path) -> Path:
    """Writes scenes as files: PNGs, and `scenes.jsonl` with `label` for a memory and the annotations of a training."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "scenes.jsonl").open("w", encoding="utf-8") as out:
        for number, label in enumerate(scenes.labels):
            name = f"{number:05d}.png"
            Image.fromarray(scenes.pixels[number]).save(folder / name, compress_level=1)
            pairs = zip(scenes.boxes[number].tolist(), scenes.descriptions[number], strict=True)
            boxes = [{"box": box, "description": text} for box, text in pairs]
            row = {"path": name, "label": label, "caption": scenes.captions[number], "boxes": boxes}
            out.write(json.dumps(row) + "\n")
    return folder / "scenes.jsonl"


def train_scenes(count: int, seed: int, products: Sequence[Product]) -> Scenes:
    """Scenes without any unseen combination."""
    return _render(count, [seed, 0], products, first=None, others=kinds(unseen=False))


def mixed_scenes(count: int, seed: int, products: Sequence[Product]) -> Scenes:
    """Scenes of all combinations, seen and unseen: for retrieval and for regions."""
    return _render(count, [seed, 1], products, first=None, others=kinds(unseen=False) + kinds(unseen=True))


def class_scenes(count: int, seed: int, *, unseen: bool = True) -> Scenes:
    """Scenes of one combination each, in turn, with up to two objects of combinations that are no class."""
    return _render(count, [seed, 2], (), first=kinds(unseen=unseen), others=kinds(unseen=not unseen))


def product_scenes(count: int, seed: int, products: Sequence[Product]) -> Scenes:
    """Scenes of one product each, in turn, with up to two shapes."""
    return _render(count, [seed, 3], (), first=products, others=kinds(unseen=False))


def _render(
    count: int,
    seed: Sequence[int],
    products: Sequence[Product],
    first: Sequence[Kind | Product] | None,
    others: Sequence[Kind],
) -> Scenes:
    """Scenes of random objects; with `first` the first of each scene is the next of those, and two more at most."""
    pixels = np.empty((count, SIDE, SIDE, 3), np.uint8)
    captions, boxes, descriptions, labels = list[str](), [], [], list[str]()
    for number in tqdm(range(count), desc="scenes", disable=None):
        chance = np.random.default_rng([*seed, number])
        if first is None:
            things = [_draw_thing(chance, products, others) for _ in range(1 + chance.choice(4, p=_COUNTS))]
        else:
            more = int(chance.integers(3))
            things = [first[number % len(first)], *(_draw_thing(chance, products, others) for _ in range(more))]
        scene = _ground(chance)
        objects = [draw(thing, chance) for thing in things]
        placed = _place([one.pixels.shape[:2] for one in objects], chance)
        for one, (top, left) in zip(objects, placed, strict=True):
            height, width = one.pixels.shape[:2]
            under = scene[top : top + height, left : left + width]
            under += one.coverage[..., None] * (one.pixels - under)
        pixels[number] = np.clip(scene + 0.5, 0, 255)
        named = [_with_article(objects[place].name) for place in chance.permutation(len(objects))]
        captions.append("a photo of " + " and ".join(named))
        corners = [
            (left, top, left + one.pixels.shape[1], top + one.pixels.shape[0])
            for one, (top, left) in zip(objects, placed, strict=True)
        ]
        boxes.append(np.array(corners, np.float32))
        descriptions.append([one.description for one in objects])
        labels.append(objects[0].name)
    return Scenes(pixels, captions, boxes, descriptions, labels)


def _with_article(name: str) -> str:
    return f"{'an' if name[0] in 'AEIOU' else 'a'} {name}"


def _draw_thing(chance: np.random.Generator, products: Sequence[Product], others: Sequence[Kind]) -> Kind | Product:
    if products and chance.random() < _PRODUCTS:
        return products[int(chance.integers(len(products)))]
    return others[int(chance.integers(len(others)))]


def _ground(chance: np.random.Generator) -> npt.NDArray[np.float32]:
    """A soft grey with a little colour: float32 [96, 96, 3]."""
    grey = chance.uniform(90, 190, (4, 4, 1)) + chance.uniform(-12, 12, (4, 4, 3))
    soft = Image.fromarray(grey.astype(np.uint8)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    return np.asarray(soft, np.float32) + chance.normal(0, 4, (SIDE, SIDE, 1)).astype(np.float32)


def _place(sides: Sequence[tuple[int, int]], chance: np.random.Generator) -> list[tuple[int, int]]:
    """Top and left of each object, apart from each other where a few tries find room."""
    taken = np.zeros((SIDE, SIDE), bool)
    places = []
    for height, width in sides:
        tries = [
            (int(chance.integers(SIDE - height + 1)), int(chance.integers(SIDE - width + 1))) for _ in range(_TRIES)
        ]
        covered = [taken[top : top + height, left : left + width].sum() for top, left in tries]
        top, left = tries[int(np.argmin(covered))]
        taken[top : top + height, left : left + width] = True
        places.append((top, left))
    return places
