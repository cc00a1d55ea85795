"""Seeded scenes whose captions, boxes and descriptions are known, to train a small GRAIN with and to measure it on.

A scene is one to four objects on a soft grey ground. An object is a shape of a colour and a texture (8 x 8 x 4
combinations), or a grocery product: a cut of a photo from the Grocery Store data set, with that class's own
description. Of the 64 pairs of shape and colour 16 are held out, each shape and each colour twice: no training scene
shows one in any texture, so the 64 combinations of those are new to the network though each of their attributes is not.

Captions name the objects, descriptions say their size too, in other words:

    a photo of a striped red circle and a Granny Smith
    a large red circle with stripes / Granny Smith is a green apple with white, firm pulp ...
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw
from tqdm import tqdm

from rar.export.grain.data import Example
from rar.export.labelled import read_descriptions, read_images
from rar.runtime.images import Pixels, load_image

SIDE = 96
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring", "heart", "crescent")
COLOURS: Mapping[str, tuple[int, int, int]] = {
    "red": (215, 40, 40), "orange": (240, 140, 30), "yellow": (240, 220, 50), "green": (50, 165, 60),
    "cyan": (60, 200, 210), "blue": (45, 75, 210), "purple": (140, 60, 180), "pink": (245, 150, 190),
}  # fmt: skip
# How a caption and how a description says it.
TEXTURES = {"plain": "", "striped": " with stripes", "dotted": " with dots", "checked": " with checks"}
SIZES: Mapping[str, tuple[int, int]] = {"small": (18, 28), "large": (32, 46)}

_COUNTS = (0.2, 0.3, 0.3, 0.2)  # of one to four objects
_PRODUCTS = 0.3  # share of products among the objects
_PRODUCT_SIDES = (28, 48)
_THUMBNAIL = 96
_TRIES = 30
_DARK = 0.4

Split = Literal["train", "val", "test"]


@dataclass(frozen=True)
class Kind:
    """A combination of attributes."""

    shape: str
    colour: str
    texture: str

    @property
    def name(self) -> str:
        """As captions and classes have it."""
        return f"{self.texture} {self.colour} {self.shape}"

    @property
    def descriptions(self) -> list[str]:
        """One a size."""
        return [f"a {size} {self.colour} {self.shape}{TEXTURES[self.texture]}" for size in SIZES]


@cache
def kinds(unseen: bool) -> tuple[Kind, ...]:
    """The combinations that training shows (192), or those it does not (64)."""
    names = list(COLOURS)
    return tuple(
        Kind(shape, colour, texture)
        for row, shape in enumerate(SHAPES)
        for colour in names
        for texture in TEXTURES
        if ((names.index(colour) - row) % len(names) in (0, 3)) == unseen
    )


@dataclass(frozen=True)
class Product:
    """A class of grocery products with the photos of one split.

    Attributes:
        name: The class.
        descriptions: Its own.
        photos: uint8 [96, 96, 3] each.
    """

    name: str
    descriptions: Sequence[str]
    photos: Sequence[Pixels]


def read_products(grocery: Path, split: Split) -> list[Product]:
    """The classes of the Grocery Store data set that have photos in a split.

    Raises:
        InputError: The data set is not there, or not whole.
    """
    descriptions = read_descriptions(grocery / "descriptions.json")
    photos: dict[str, list[Pixels]] = {}
    for image in tqdm(read_images(grocery / f"{split}.csv"), desc=f"products, {split}", disable=None):
        whole = Image.fromarray(load_image(image.path)).resize((_THUMBNAIL, _THUMBNAIL), Image.Resampling.BICUBIC)
        photos.setdefault(image.label, []).append(np.asarray(whole))
    return [Product(name, descriptions[name], own) for name, own in sorted(photos.items())]


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


@dataclass(frozen=True)
class _Object:
    """What is pasted: uint8 [h, w, 3] and its coverage, float32 [h, w], 0 to 1."""

    name: str
    description: str
    pixels: Pixels
    coverage: npt.NDArray[np.float32]


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
        objects = [_make(thing, chance) for thing in things]
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


def _make(thing: Kind | Product, chance: np.random.Generator) -> _Object:
    if isinstance(thing, Product):
        side = int(chance.integers(*_PRODUCT_SIDES))
        photo = thing.photos[int(chance.integers(len(thing.photos)))]
        cut = int(chance.uniform(0.6, 1.0) * len(photo))
        top, left = (int(start) for start in chance.integers(0, len(photo) - cut + 1, 2))
        shown = Image.fromarray(photo).resize(
            (side, side), Image.Resampling.BILINEAR, (left, top, left + cut, top + cut)
        )
        description = thing.descriptions[int(chance.integers(len(thing.descriptions)))]
        return _Object(thing.name, description, np.asarray(shown), np.ones((side, side), np.float32))
    which = int(chance.integers(len(SIZES)))
    low, high = list(SIZES.values())[which]
    height, width = (int(side) for side in chance.integers(low, high + 1, 2))
    mask = _mask(thing.shape).resize((width, height), Image.Resampling.BOX)
    coverage = np.asarray(np.asarray(mask, np.float32) / 255, np.float32)
    paint = np.array(COLOURS[thing.colour]) + chance.uniform(-15, 15, 3)
    lit = 1 - (1 - _DARK) * _pattern(thing.texture, height, width, chance)
    pixels = np.clip(paint * lit[..., None], 0, 255).astype(np.uint8)
    return _Object(thing.name, thing.descriptions[which], pixels, coverage)


def _pattern(texture: str, height: int, width: int, chance: np.random.Generator) -> npt.NDArray[np.float32]:
    """Where a texture is dark, 0 or 1: float32 [height, width]."""
    period, shift = int(chance.integers(5, 8)), chance.uniform(0, 8, 2)
    y, x = np.mgrid[:height, :width] + shift[:, None, None]
    if texture == "striped":
        along = (x, y, x + y)[int(chance.integers(3))]
        return np.asarray(along // (period / 2) % 2, np.float32)
    if texture == "checked":
        return np.asarray((x // (period - 1) + y // (period - 1)) % 2, np.float32)
    if texture == "dotted":
        return np.asarray(np.hypot(x % period - period / 2, y % period - period / 2) < 0.3 * period, np.float32)
    return np.zeros((height, width), np.float32)


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


@cache
def _mask(shape: str) -> Image.Image:
    """A shape that touches all four sides of a square, white on black."""
    side = 240
    image = Image.new("L", (side, side))
    draw = ImageDraw.Draw(image)
    last = side - 1

    def polygon(*points: tuple[float, float]) -> None:
        draw.polygon([(last * x, last * y) for x, y in points], fill=255)

    if shape == "square":
        draw.rectangle((0, 0, last, last), fill=255)
    elif shape == "triangle":
        polygon((0.5, 0), (1, 1), (0, 1))
    elif shape == "cross":
        draw.rectangle((last * 0.33, 0, last * 0.67, last), fill=255)
        draw.rectangle((0, last * 0.33, last, last * 0.67), fill=255)
    elif shape == "star":
        angles = np.arange(10) * np.pi / 5 - np.pi / 2
        radii = np.where(np.arange(10) % 2, 0.42, 1.0)
        points = np.stack([np.cos(angles), np.sin(angles)], 1) * radii[:, None]
        points = (points - points.min(0)) / np.ptp(points, axis=0)
        polygon(*((float(x), float(y)) for x, y in points))
    elif shape == "heart":
        t = np.linspace(0, 2 * np.pi, 120)
        points = np.stack(
            [np.sin(t) ** 3, -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)) / 16], 1
        )
        points = (points - points.min(0)) / np.ptp(points, axis=0)
        polygon(*((float(x), float(y)) for x, y in points))
    else:
        draw.ellipse((0, 0, last, last), fill=255)
        if shape == "ring":
            draw.ellipse((last * 0.27, last * 0.27, last * 0.73, last * 0.73), fill=0)
        elif shape == "crescent":
            draw.ellipse((last * 0.3, -last * 0.05, last * 1.2, last * 0.85), fill=0)
    return image
