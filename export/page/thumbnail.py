"""Small pictures that a page holds itself."""

from __future__ import annotations

import base64
import io
from pathlib import Path

from PIL import Image

from rar.runtime.errors import ImageError
from rar.runtime.picture.load import load_image

_SIDE = 96
_QUALITY = 60


def thumbnail(path: Path, folder: Path) -> str | None:
    """A small picture as a `data:` URI; None if it is not in the folder or cannot be read.

    Whoever names the pictures may be a stranger: a page that is passed on must not hold one that nobody meant.
    """
    try:
        path = path.resolve()
        if not path.is_relative_to(folder.resolve()):
            return None
        small = Image.fromarray(load_image(path, draft=_SIDE))
    except (ImageError, OSError, RuntimeError, ValueError):  # a name may be no path, or go round in links
        return None
    small.thumbnail((_SIDE, _SIDE))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
