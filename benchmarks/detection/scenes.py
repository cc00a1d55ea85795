"""Seeded frames with groceries at many scales, their boxes known: what stands in where LVIS is not at hand.

    python -m rar.benchmarks.detection.scenes --grocery DIR --out DIR --seed 0

An object is a photo of the Grocery Store data set, pasted once at each of COCO's three sizes (the box's area below 32^2
pixels, below 96^2, or more). The box holds 60 to 90 % of the photo's width and height, about its middle, so that what
lies close around a box belongs to the object, as in a photo of a shelf, and what lies further out does not. The ground
is made of pieces of other photos of the same split. No two objects of a frame, and no piece of its ground, are of the
same coarse class, and no photo that could be in a memory (the train split) is anywhere.

Files: `frames/*.jpg`; `annotations.json` in LVIS' form, all categories annotated exhaustively, a category's frequency
(r, c, f) being the third it falls into by train pictures; `proposals.json`, results of a made-up detector that finds
95 % of the objects, with wrong edges, and as many things that are none.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from tqdm import tqdm

from rar.export.pictures.labelled import evenly
from rar.runtime.bundle.files import write_json
from rar.runtime.cli.guard import guard
from rar.runtime.errors import InputError
from rar.runtime.picture.load import Pixels, load_image

WIDTH, HEIGHT = 1280, 960

_OBJECTS = 6
# Root of a box's area in pixels, least and largest.
_ROOTS = {"small": (14, 31), "medium": (33, 95), "large": (98, 230)}
_SHARES = (0.6, 0.9)
_PIECES = 70
_PIECE_SIDES = (90, 340)
_GROUND_PHOTOS = 200
_TRIES = 60
_QUALITY = 90


@dataclass(frozen=True)
class Photo:
    """A photo of one split, uint8 [H, W, 3]."""

    pixels: Pixels
    label: str
    coarse: str


@dataclass(frozen=True)
class Placed:
    """An object of a frame: what it is, where its photo lies and where its box, both x0, y0, x1, y1 in pixels."""

    photo: Photo
    area: tuple[int, int, int, int]
    box: tuple[int, int, int, int]


def make(grocery: Path, out: Path, seed: int, split: str = "test", count: int | None = None) -> dict[str, Any]:
    """Makes the frames and writes their files.

    Args:
        grocery: The data set.
        out: A new or empty folder.
        seed: Seed of everything random.
        split: `val` or `test`.
        count: Photos, evenly spread over the split; None for all.

    Returns:
        The annotations, as they were written.

    Raises:
        InputError: The data set is not there, or the folder holds something.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out}: exists already; name a new folder for the frames")
    trained = Counter(row["label"] for row in _rows(grocery / "train.csv"))
    rows = _rows(grocery / f"{split}.csv")
    photos = _load(grocery, rows if count is None else evenly(rows, count))
    ground = _load(grocery, evenly(rows, _GROUND_PHOTOS))
    (out / "frames").mkdir(parents=True, exist_ok=True)
    categories = _categories(trained)
    ids = {category["name"]: category["id"] for category in categories}
    images, annotations, proposals = list[dict[str, Any]](), list[dict[str, Any]](), list[dict[str, Any]]()
    chance = np.random.default_rng([seed, 0])
    frames = list(_arrange(photos, chance))
    for number, placed in enumerate(tqdm(frames, desc="frames", disable=None), 1):
        name = f"frames/{number:05d}.jpg"
        _render(placed, ground, np.random.default_rng([seed, 1, number])).save(out / name, quality=_QUALITY)
        shown = {ids[one.photo.label] for one in placed}
        images.append(
            {
                "id": number,
                "file_name": name,
                "width": WIDTH,
                "height": HEIGHT,
                "neg_category_ids": [key for key in ids.values() if key not in shown],
                "not_exhaustive_category_ids": [],
            }
        )
        for one in placed:
            x0, y0, x1, y1 = one.box
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": ids[one.photo.label],
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "area": (x1 - x0) * (y1 - y0),
                    "iscrowd": 0,
                }
            )
        proposals += _propose(number, placed, np.random.default_rng([seed, 2, number]))
    content = {
        "info": {"description": f"groceries, split {split}, seed {seed}, {len(photos)} photos"},
        "images": images,
        "categories": categories,
        "annotations": annotations,
    }
    write_json(out / "proposals.json", proposals)
    write_json(out / "annotations.json", content)
    return content


def _rows(file: Path) -> list[dict[str, str]]:
    try:
        with file.open(encoding="utf-8", newline="") as lines:
            return list(csv.DictReader(lines))
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror}); give the Grocery Store data set") from error


def _load(grocery: Path, rows: Sequence[dict[str, str]]) -> list[Photo]:
    return [
        Photo(load_image(grocery / row["path"]), row["label"], row["coarse"])
        for row in tqdm(rows, desc="photos", disable=None)
    ]


def _categories(trained: Counter[str]) -> list[dict[str, Any]]:
    rarest = sorted(trained, key=lambda name: (trained[name], name))
    third = {name: "rcf"[3 * place // len(rarest)] for place, name in enumerate(rarest)}
    return [
        {"id": key, "name": name, "frequency": third[name], "image_count": trained[name]}
        for key, name in enumerate(sorted(trained), 1)
    ]


def _arrange(photos: Sequence[Photo], chance: np.random.Generator) -> Iterator[list[Placed]]:
    """Each photo at each size, up to six to a frame, apart from each other and of different coarse classes."""
    todo = [(photo, size) for photo in photos for size in _ROOTS]
    todo = [todo[place] for place in chance.permutation(len(todo))]
    while todo:
        placed: list[Placed] = []
        later = []
        for photo, size in todo:
            coarse = {one.photo.coarse for one in placed}
            if len(placed) < _OBJECTS and photo.coarse not in coarse and (one := _place(photo, size, placed, chance)):
                placed.append(one)
            else:
                later.append((photo, size))
        todo = later
        yield placed


def _place(photo: Photo, size: str, others: Sequence[Placed], chance: np.random.Generator) -> Placed | None:
    """The photo somewhere in the frame where it covers no other one; None where a few tries find no room."""
    across, down = chance.uniform(*_SHARES, 2)
    root = np.exp(chance.uniform(*np.log(_ROOTS[size])))
    side = min(round(root / np.sqrt(across * down)), min(photo.pixels.shape[:2]))
    width, height = max(1, round(across * side)), max(1, round(down * side))
    # In the middle half of the room there is.
    left = round((side - width) * chance.uniform(0.25, 0.75))
    top = round((side - height) * chance.uniform(0.25, 0.75))
    for _ in range(_TRIES):
        x, y = int(chance.integers(WIDTH - side + 1)), int(chance.integers(HEIGHT - side + 1))
        area = (x, y, x + side, y + side)
        if not any(_overlap(area, other.area) for other in others):
            return Placed(photo, area, (x + left, y + top, x + left + width, y + top + height))
    return None


def _overlap(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _render(placed: Sequence[Placed], ground: Sequence[Photo], chance: np.random.Generator) -> Image.Image:
    coarse = {one.photo.coarse for one in placed}
    others = [photo for photo in ground if photo.coarse not in coarse]
    frame = _piece(others, chance).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
    for _ in range(_PIECES):
        width, height = (int(side) for side in chance.integers(*_PIECE_SIDES, 2))
        piece = _piece(others, chance).resize((width, height), Image.Resampling.BICUBIC)
        frame.paste(piece, (int(chance.integers(-width // 2, WIDTH)), int(chance.integers(-height // 2, HEIGHT))))
    for one in placed:
        side = one.area[2] - one.area[0]
        photo = Image.fromarray(one.photo.pixels).resize((side, side), Image.Resampling.BICUBIC)
        frame.paste(photo, one.area[:2], _soft_edge(side))
    return frame


def _piece(photos: Sequence[Photo], chance: np.random.Generator) -> Image.Image:
    """A cut of one of the photos, maybe mirrored."""
    pixels = photos[int(chance.integers(len(photos)))].pixels
    height, width = pixels.shape[:2]
    share = chance.uniform(0.3, 0.8)
    top, left = int(chance.uniform(0, 1 - share) * height), int(chance.uniform(0, 1 - share) * width)
    cut = pixels[top : top + int(share * height), left : left + int(share * width)]
    return Image.fromarray(np.ascontiguousarray(cut[:, ::-1] if chance.random() < 0.5 else cut))


def _soft_edge(side: int) -> Image.Image:
    """How much a photo covers: all, but for a slope of a twentieth of its side."""
    slope = max(1.0, side / 20)
    along = np.minimum(np.arange(side) + 0.5, side - np.arange(side) - 0.5)
    ramp: npt.NDArray[np.floating[Any]] = np.clip(along / slope, 0, 1)
    return Image.fromarray(np.rint(255 * ramp[:, None] * ramp).astype(np.uint8))


def _propose(number: int, placed: Sequence[Placed], chance: np.random.Generator) -> Iterator[dict[str, Any]]:
    """A made-up detector's results: edges off by 5 % of a side, surer of objects than of other things."""
    for one in placed:
        x0, y0, x1, y1 = one.box
        sides = np.array([x1 - x0, y1 - y0] * 2)
        edges = np.array(one.box) + 0.05 * sides * chance.standard_normal(4)
        if chance.random() < 0.95 and (edges[2:] - edges[:2]).min() >= 2:
            yield _result(number, edges, chance.beta(6, 2))
        width, height = chance.uniform(15, 230, 2)
        x, y = chance.uniform(0, WIDTH - width), chance.uniform(0, HEIGHT - height)
        yield _result(number, np.array([x, y, x + width, y + height]), chance.beta(2, 4))


def _result(number: int, edges: npt.NDArray[np.floating[Any]], score: float) -> dict[str, Any]:
    x0, y0 = np.maximum(edges[:2], 0)
    x1, y1 = np.minimum(edges[2:], (WIDTH, HEIGHT))
    bbox = [round(float(value), 2) for value in (x0, y0, x1 - x0, y1 - y0)]
    return {"image_id": number, "category_id": 1, "bbox": bbox, "score": round(score, 4)}


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; 0, or 2 with one line on stderr where the input cannot be used."""
    parser = argparse.ArgumentParser(prog="detection.scenes", description="Makes frames with groceries, boxes known.")
    parser.add_argument("--grocery", type=Path, metavar="DIR", required=True, help="the Grocery Store data set")
    parser.add_argument("--out", type=Path, metavar="DIR", required=True, help="new folder")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--split", choices=["val", "test"], default="test", help="whose photos (default: %(default)s)")
    parser.add_argument("--photos", type=int, metavar="N", help="so many of them (default: all)")
    args = parser.parse_args(argv)

    def run() -> int:
        content = make(args.grocery, args.out, args.seed, args.split, args.photos)
        print(f"{args.out}: {len(content['images'])} frames, {len(content['annotations'])} boxes")
        return 0

    return guard("detection.scenes", run)


if __name__ == "__main__":
    sys.exit(main())
