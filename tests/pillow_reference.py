"""Pillow's resize as release 13 does it, also where an older one is installed: 12 is the newest for Python 3.10."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import PIL
from PIL import Image

_OLDER = int(PIL.__version__.partition(".")[0]) < 13


def resize(pixels: npt.NDArray[np.uint8], width: int, height: int, name: str = "bicubic") -> npt.NDArray[np.uint8]:
    """A picture at another size, by one of Pillow's filters."""
    image, how = Image.fromarray(pixels), Image.Resampling[name.upper()]
    shrunk = image.height - height
    if _OLDER and shrunk > 0 and shrunk > 2 * (image.width - width):
        # 13 takes this pass first. A pass that changes nothing is left out, so each call here is one.
        image = image.resize((image.width, height), how)
    return np.asarray(image.resize((width, height), how))
