"""`make demo`: a picture of no known class is refused, and recognised once its class is taught with three others.

`python -m rar.export.starter.demo BUNDLE` needs no more than the public API: `build_memory`, `Recognizer` and its
memory. The pictures are cut from the photos that scikit-image ships.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from rar.runtime import Bundle, Recognizer
from rar.runtime.bundle.copy import copy
from rar.runtime.cli.guard import guard
from rar.runtime.cli.recognize import to_table
from rar.runtime.picture.load import load_image

from ..memory.build import MemorySource, build_memory
from ..pictures.labelled import LabelledImage
from . import packages

Pixels = npt.NDArray[np.uint8]

_KNOWN = {"cat": "chelsea.png", "cup of coffee": "coffee.png", "rocket": "rocket.jpg", "lawn": "grass.png"}
_TAUGHT = ("motorcycle", "motorcycle_left.png")
_SHOTS = 3


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point. Returns 0, or 2 with one line on stderr if there is no starter bundle."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", metavar="BUNDLE", help="the starter bundle")
    args = parser.parse_args(argv)

    def run() -> int:
        bundle = Bundle.open(args.bundle)
        with tempfile.TemporaryDirectory(dir=bundle.root.resolve().parent) as folder:
            _teach(bundle, Path(folder))
        _say_what_next(args.bundle)
        return 0

    return guard("demo", run)


def _teach(bundle: Bundle, folder: Path) -> None:
    """Builds a memory of four classes, adds a fifth, and asks for it before and after."""
    taught = copy(bundle, folder / "bundle", without="memory")
    images = [
        LabelledImage(path, label) for label, photo in _KNOWN.items() for path in _write_cuts(photo, folder / label)
    ]
    build_memory(taught, MemorySource(images=images), provider="cpu")
    label, photo = _TAUGHT
    *shown, asked = _write_cuts(photo, folder / label, _SHOTS + 1)
    recognizer = Recognizer.open(taught.root, "cpu")
    print(f"A memory of {len(_KNOWN)} classes with {_SHOTS} pictures each; a picture of none of them is refused:")
    print(to_table(asked, recognizer.recognize([asked], unknown="reject")[0]))
    recognizer.memory.add(shown, label)
    print(f"The same picture, after {_SHOTS} others were added as {label!r} (nothing was trained or exported):")
    print(to_table(asked, recognizer.recognize([asked], unknown="reject")[0]))


def _write_cuts(photo: str, folder: Path, count: int = _SHOTS) -> list[Path]:
    """Writes cuts of a photo, three quarters of it from different places, every second one mirrored."""
    pixels = load_image(packages.photos([photo])[0])
    height, width = (3 * side // 4 for side in pixels.shape[:2])
    folder.mkdir()
    paths = []
    for number in range(count):
        top, left = (
            (side - cut) * number // (count - 1) for side, cut in zip(pixels.shape, (height, width), strict=False)
        )
        cut = pixels[top : top + height, left : left + width]
        paths.append(folder / f"{number}.png")
        Image.fromarray(cut[:, ::-1] if number % 2 else cut).save(paths[-1])
    return paths


def _say_what_next(bundle: str) -> None:
    print("Next, with pictures of your own in one folder a class:")
    for command, what in (
        (f"rar-export memory {bundle} --images FOLDER --out mine", "embeds them, once"),
        ("rar-recognize mine PICTURE", "what does it show?"),
        ("rar-export add mine --images MORE", "more pictures or classes, at once"),
        ("rar-export tune mine --val HELD_OUT", "measures the rankers and keeps what gains"),
    ):
        print(f"  {command:<56}  # {what}")


if __name__ == "__main__":
    sys.exit(main())
