"""A frame put together from a memory's own pictures, and annotation files about it, for the tests."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

SIDE = 80
CLASSES = ("cat", "coffee", "grass", "rocket")

# Each picture's middle, which is what the encoder sees of it.
BOXES = [(x, y, x + SIDE, y + SIDE) for y in (0, SIDE) for x in (0, SIDE)]


def mosaic(labelled_folder: Path) -> npt.NDArray[np.uint8]:
    """The middle of one picture of each class beside and below each other, as `BOXES` says: uint8 [160, 160, 3]."""
    tiles = []
    for name in CLASSES:
        with Image.open(labelled_folder / name / "2.png") as picture:
            left, top = (picture.width - SIDE) // 2, (picture.height - SIDE) // 2
            tiles.append(np.asarray(picture.convert("RGB").crop((left, top, left + SIDE, top + SIDE))))
    return np.concatenate([np.concatenate(tiles[:2], 1), np.concatenate(tiles[2:], 1)])


def annotations(pictures: Sequence[str], categories: Sequence[str] = CLASSES) -> dict[str, Any]:
    """COCO's form: each picture with the boxes of the mosaic, of the first four categories in turn."""
    return {
        "images": [{"id": 10 + number, "file_name": name} for number, name in enumerate(pictures)],
        "categories": [{"id": 3 * number + 1, "name": name} for number, name in enumerate(categories)],
        "annotations": [
            {
                "id": 4 * number + place + 1,
                "image_id": 10 + number,
                "category_id": 3 * place + 1,
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "area": (x1 - x0) * (y1 - y0),
                "iscrowd": 0,
            }
            for number in range(len(pictures))
            for place, (x0, y0, x1, y1) in enumerate(BOXES)
        ],
    }


def write(folder: Path, content: Mapping[str, Any] | Sequence[Any], name: str = "boxes.json") -> Path:
    """Writes JSON."""
    file = folder / name
    file.write_text(json.dumps(content))
    return file
