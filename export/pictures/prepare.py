"""The runtime's picture preparation beside a model's own: what it makes of transparency, and how far the two are."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from rar.runtime.errors import ExportError
from rar.runtime.picture.load import load_image
from rar.runtime.picture.preprocess import Preprocess

Floats: TypeAlias = npt.NDArray[np.float32]
# A model's own preparation of one picture: float32 [3, S, S].
Reference: TypeAlias = Callable[[Image.Image], Floats]

# Height and width of the cuts, as shares of the shorter side. If a crop's margin is odd, transformers and torchvision
# disagree by a pixel, and the runtime follows torchvision.
SQUARE = ((1, 1),)
UPRIGHT_AND_FLAT = ((1, 1), (0.5, 1), (1, 0.5))
_FAR = 1e-5
# What processors raise for pictures of four channels if they take none.
_TAKES_NONE = (ValueError, TypeError, IndexError, RuntimeError)
# Sides of the picture that is tried exceed the model's by so much: where nothing is resized, nothing is weighed.
_MORE = 29


def with_alpha(preprocess: Preprocess, reference: Reference) -> Preprocess:
    """The preparation with what the model's own makes of transparent pictures.

    It is found by trying: whether alpha is dropped or the picture is put over a colour, and before or after resizing.
    The colour is what shows where nothing but transparency is.
    """
    side = max(preprocess.size, preprocess.shortest_edge) + _MORE
    sample = np.random.default_rng(0).integers(0, 256, (side, side, 4), dtype=np.uint8)
    sample[:, :, 3] = _fading(side, side)
    try:
        clear = reference(Image.new("RGBA", (side, side), (10, 200, 90, 0)))
        expected = reference(Image.fromarray(sample))
    except _TAKES_NONE:
        return preprocess
    shown = clear[:, clear.shape[1] // 2, clear.shape[2] // 2]
    colour = np.rint((shown * np.array(preprocess.std) + np.array(preprocess.mean)) * 255).clip(0, 255).astype(int)
    ways = [
        Preprocess.from_dict(
            {**preprocess.to_dict(), "background": background, "weigh_alpha": weigh}, threads=preprocess.threads
        )
        for background in (None, colour.tolist())
        for weigh in (False, True)
    ]
    return min(ways, key=lambda way: float(_differences(way, expected, sample).max()))


def compare(
    preprocess: Preprocess,
    reference: Reference,
    source: str,
    pictures: Iterable[Path],
    shapes: Iterable[tuple[float, float]],
    rounded: float = 0,
) -> dict[str, float | int]:
    """Compares the runtime's picture preparation with the model's own, element by element.

    Each cut is compared opaque and half transparent; the second not where the model's own takes no such picture.

    Args:
        preprocess: The runtime's.
        reference: The model's own.
        source: The model's name, for the error.
        pictures: Files to compare with.
        shapes: Of the cuts of each, see `cuts`.
        rounded: Grey levels by which the two may differ besides.

    Raises:
        ExportError: The two differ, so the model would see other pixels than in its training.
    """
    opaque, transparent = [], []
    for path in pictures:
        for cut in cuts(load_image(path), shapes):
            opaque.append(float(_differences(preprocess, reference(Image.fromarray(cut)), cut).max()))
            faded = np.dstack([cut, _fading(*cut.shape[:2])])
            try:
                expected = reference(Image.fromarray(faded))
            except _TAKES_NONE:
                continue
            transparent.append(float(_differences(preprocess, expected, faded).max()))
    worst = max([*opaque, *transparent], default=0.0)
    if not worst <= _FAR + rounded / 255 / min(preprocess.std):  # written so that NaN fails
        raise ExportError(
            f"the runtime prepares pictures otherwise than {source} (largest difference {max(opaque):.3g}, of "
            f"transparent ones {max(transparent, default=0.0):.3g}); please report this model"
        )
    return {"max_difference": worst, "count": len(opaque), "transparent": len(transparent)}


def cuts(
    pixels: npt.NDArray[np.uint8], shapes: Iterable[tuple[float, float]] = UPRIGHT_AND_FLAT
) -> list[npt.NDArray[np.uint8]]:
    """A picture's upper left corner as large as it can be cut to these shapes."""
    side = min(pixels.shape[:2]) // 2 * 2
    return [np.ascontiguousarray(pixels[: int(height * side), : int(width * side)]) for height, width in shapes]


def _differences(preprocess: Preprocess, expected: Floats, pixels: npt.NDArray[np.uint8]) -> Floats:
    return np.asarray(np.abs(preprocess([pixels])[0] - expected), np.float32)


def _fading(height: int, width: int) -> npt.NDArray[np.uint8]:
    """An alpha of all values, from left to right: uint8 [H, W]."""
    return np.broadcast_to(np.linspace(0, 255, width).astype(np.uint8), (height, width))
