"""What stands in the scenes of `scenes.py`, as words and as pixels: shapes with attributes, and grocery products."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw
from tqdm import tqdm

from rar.export.pictures.labelled import read_descriptions, read_images
from rar.runtime.picture.load import Pixels, load_image

SHAPES = ("circle", "square", "triangle", "star", "cross", "ring", "heart", "crescent")
COLOURS: Mapping[str, tuple[int, int, int]] = {
    "red": (215, 40, 40), "orange": (240, 140, 30), "yellow": (240, 220, 50), "green": (50, 165, 60),
    "cyan": (60, 200, 210), "blue": (45, 75, 210), "purple": (140, 60, 180), "pink": (245, 150, 190),
}  # fmt: skip
# How a caption and how a description says it.
TEXTURES = {"plain": "", "striped": " with stripes", "dotted": " with dots", "checked": " with checks"}
SIZES: Mapping[str, tuple[int, int]] = {"small": (18, 28), "large": (32, 46)}

_PRODUCT_SIDES = (28, 48)
_THUMBNAIL = 96
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
    return [Product(name, descriptions[name], paths) for name, paths in sorted(photos.items())]


@dataclass(frozen=True)
class Drawing:
    """What is pasted, uint8 [h, w, 3], and its coverage, float32 [h, w], 0 to 1."""

    name: str
    description: str
    pixels: Pixels
    coverage: npt.NDArray[np.float32]


def draw(thing: Kind | Product, chance: np.random.Generator) -> Drawing:
    """One view of a thing: of a random size, paint and texture, or a cut of a photo."""
    if isinstance(thing, Product):
        side = int(chance.integers(*_PRODUCT_SIDES))
        photo = thing.photos[int(chance.integers(len(thing.photos)))]
        cut = int(chance.uniform(0.6, 1.0) * len(photo))
        top, left = (int(start) for start in chance.integers(0, len(photo) - cut + 1, 2))
        shown = Image.fromarray(photo).resize(
            (side, side), Image.Resampling.BILINEAR, (left, top, left + cut, top + cut)
        )
        description = thing.descriptions[int(chance.integers(len(thing.descriptions)))]
        return Drawing(thing.name, description, np.asarray(shown), np.ones((side, side), np.float32))
    which = int(chance.integers(len(SIZES)))
    low, high = list(SIZES.values())[which]
    height, width = (int(side) for side in chance.integers(low, high + 1, 2))
    covered = mask(thing.shape).resize((width, height), Image.Resampling.BOX)
    coverage = np.asarray(np.asarray(covered, np.float32) / 255, np.float32)
    paint = np.array(COLOURS[thing.colour]) + chance.uniform(-15, 15, 3)
    lit = 1 - (1 - _DARK) * pattern(thing.texture, height, width, chance)
    pixels = np.clip(paint * lit[..., None], 0, 255).astype(np.uint8)
    return Drawing(thing.name, thing.descriptions[which], pixels, coverage)


def pattern(texture: str, height: int, width: int, chance: np.random.Generator) -> npt.NDArray[np.float32]:
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


@cache
def mask(shape: str) -> Image.Image:
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
