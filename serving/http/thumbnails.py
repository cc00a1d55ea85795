"""Small pictures of the memory's entries: of files in one folder, and of what the server was taught."""

from __future__ import annotations

import asyncio
import io
import secrets
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from PIL import Image

from rar.runtime.bundle.files import atomic_file
from rar.runtime.errors import BundleError, InputError, RarError
from rar.runtime.picture.load import Reading, decode, load_image

# In the bundle; the sources of what was taught begin with it.
FOLDER = "taught"
SIDE = 192
_KEPT = 512
_QUALITY = 82
_DEPTH = 64


class Thumbnails:
    """JPEGs of at most 192 pixels a side.

    Args:
        bundle: Small pictures of what is taught are kept here.
        folder: Where the memory's pictures lie; nothing outside of it is shown. None to show none of them.
        reading: How large pictures may be.
    """

    def __init__(self, bundle: Path, folder: Path | None, reading: Reading) -> None:
        self._bundle = bundle.resolve()
        self._folder = None if folder is None else folder.resolve()
        self._reading = reading
        # Few: decoding must not take the cores from the answers.
        self._threads = ThreadPoolExecutor(1, "rar-thumbnail")
        self._made = lru_cache(_KEPT)(self._make)

    async def get(self, source: str) -> bytes | None:
        """The picture of an entry's source; None where there is none to be seen."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self.find, source)

    def find(self, source: str) -> bytes | None:
        """As `get`, at once."""
        path = self._taught(source) or self._shown(source)
        if path is None:
            return None
        try:
            return self._made(str(path), path.stat().st_mtime_ns)
        except (RarError, OSError):
            return None

    def keep(self, pictures: Iterable[bytes]) -> list[str]:
        """Keeps small pictures; returns the sources that name them.

        Raises:
            InputError: A picture cannot be read; none was kept.
            BundleError: The bundle cannot be written.
        """
        made = []
        for number, picture in enumerate(pictures):
            try:
                made.append(_small(Image.fromarray(decode(picture, self._reading).pixels)))
            except ValueError as error:  # an ImageError is one
                raise InputError(f"picture {number}: {error}; nothing was added") from error
        folder = self._bundle / FOLDER
        sources = [f"{FOLDER}/{secrets.token_hex(16)}.jpg" for _ in made]
        try:
            folder.mkdir(exist_ok=True)
            if folder.resolve() != folder:
                raise BundleError(f"{folder}: is a link out of the bundle; remove it")
            for source, content in zip(sources, made, strict=True):
                with atomic_file(self._bundle / source) as file:
                    file.write(content)
        except OSError as error:
            self.forget(sources)
            raise BundleError(f"{folder}: cannot be written ({error})") from error
        return sources

    def forget(self, sources: Iterable[str]) -> None:
        """Deletes the pictures that were kept for some sources."""
        for source in sources:
            if (path := self._taught(source)) is not None:
                with suppress(OSError):
                    path.unlink()

    def close(self) -> None:
        """Ends the thread."""
        self._threads.shutdown(cancel_futures=True)

    def _taught(self, source: str) -> Path | None:
        """The file of a source that `keep` gave."""
        folder, _, name = source.partition("/")
        if folder != FOLDER or not name.removesuffix(".jpg").isalnum():
            return None
        return _inside(self._bundle / FOLDER / name, self._bundle)

    def _shown(self, source: str) -> Path | None:
        """The file of a source; the folder may have been elsewhere, or been called otherwise, where it was added."""
        folder, parts = self._folder, Path(source).parts
        if folder is None or "\0" in source or len(parts) > _DEPTH:
            return None
        ends = (folder.joinpath(*parts[start:]) for start in range(len(parts)))
        return next((found for end in ends if (found := _inside(end, folder)) is not None), None)

    def _make(self, path: str, changed: int) -> bytes:
        return _small(Image.fromarray(load_image(path, self._reading.max_pixels, draft=SIDE)))


def _inside(path: Path, folder: Path) -> Path | None:
    """A file, if it lies in a folder wherever links lead."""
    try:
        found = path.resolve()
        return found if found.is_relative_to(folder) and found.is_file() else None
    except (OSError, RuntimeError, ValueError):
        return None


def _small(image: Image.Image) -> bytes:
    image = image.convert("RGB")
    image.thumbnail((SIDE, SIDE), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=_QUALITY)
    return file.getvalue()
