"""NumPy's files from strangers: whatever is wrong with one is a ValueError.

NumPy parses a `.npy`'s header as Python text, and `.npz` is any archive. So damage raises what the parser and the
decompressors raise: SyntaxError, TokenError, RecursionError, OverflowError, zlib.error and others by release.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .regular import open_regular

# What `map_npy` and `load_npz` raise, and what comes of looking for an array that is not there or of another kind.
DAMAGED = (OSError, ValueError, TypeError, LookupError, ArithmeticError)
# What an `.npz` may unpack to if it is larger than twice the file: the files of bundles are hardly compressed.
_UNPACKED = 1 << 28


def map_npy(path: Path) -> npt.NDArray[Any]:
    """Maps a `.npy` read-only.

    Raises:
        OSError: The file is missing, or cannot be mapped.
        ValueError: The file is damaged, is no `.npy`, or holds a pickle.
    """
    with _damage():
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        if not isinstance(array, np.ndarray):
            array.close()
            raise ValueError("it holds several arrays")
        # asarray gives a plain array; its views cost a tenth of a memmap's.
        return np.asarray(array)


def load_npz(path: Path) -> dict[str, npt.NDArray[Any]]:
    """The arrays of an `.npz`, none of which is an object. A small file cannot unpack to more than memory holds.

    Raises:
        OSError: The file cannot be read.
        ValueError: The file is damaged, is no `.npz`, or holds a pickle.
    """
    with os.fdopen(open_regular(path, links=True), "rb") as file, _damage():
        with zipfile.ZipFile(file) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
        if unpacked > max(_UNPACKED, 2 * os.fstat(file.fileno()).st_size):
            raise ValueError(f"unpacks to {unpacked} bytes")
        file.seek(0)
        with np.load(file, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}


@contextmanager
def _damage() -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError):
        raise
    except Exception as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error
