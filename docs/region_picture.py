"""Draws docs/region.jpg: one box of a frame, and the ways its region can reach the model.

    python docs/region_picture.py

The photo is scikit-image's astronaut (NASA, public domain).
"""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from skimage.data import astronaut

from rar.runtime.picture.boxes import grown
from rar.runtime.picture.preprocess import Preprocess

BOX = (165, 60, 285, 200)
SIDE = 256
GAP = 8
WAYS: dict[str, dict[str, Any]] = {
    "grow 1.5, no blur": {"blur": None},
    "blur 0.1 of the box": {},
    "grow 2.5": {"grow": 2.5},
}


def captioned(pixels: np.ndarray[Any, np.dtype[np.uint8]], text: str) -> Image.Image:
    """A picture of SIDE x SIDE over its caption."""
    tile = Image.new("RGB", (SIDE, SIDE + 20), "white")
    tile.paste(Image.fromarray(pixels).resize((SIDE, SIDE)))
    ImageDraw.Draw(tile).text((2, SIDE + 4), text, fill="black")
    return tile


def main() -> None:
    """Writes the picture."""
    frame = np.ascontiguousarray(astronaut())
    height, width, _ = frame.shape
    shown = Image.fromarray(frame)
    draw = ImageDraw.Draw(shown)
    draw.rectangle(BOX, outline="red", width=4)
    draw.rectangle(grown(BOX, 1.5, width, height, square=True), outline="yellow", width=2)
    tiles = [captioned(np.asarray(shown), "frame: box, and box grown")]
    prepare = Preprocess(SIDE, (0, 0, 0), (1, 1, 1))
    for text, options in WAYS.items():
        region = prepare.regions(frame, [BOX], square=True, **options)[0]
        tiles.append(captioned(np.rint(region.transpose(1, 2, 0) * 255).astype(np.uint8), text))
    sheet = Image.new("RGB", (len(tiles) * (SIDE + GAP) - GAP, SIDE + 20), "white")
    for position, tile in enumerate(tiles):
        sheet.paste(tile, (position * (SIDE + GAP), 0))
    sheet.save(Path(__file__).with_name("region.jpg"), quality=88)


if __name__ == "__main__":
    main()
