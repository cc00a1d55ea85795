"""The sources of a part's entries: paths of pictures as the user named them, or the texts themselves.

sources.utf8   all of them, one after another
sources.npy    int64 [n + 1]: entry i is the bytes from sources[i] to sources[i + 1]
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from .files import map_bytes, map_npy

OFFSETS, TEXT = "sources.npy", "sources.utf8"


class Sources:
    """The sources of n entries, mapped: each is read when it is requested.

    Args:
        offsets: int64 [n + 1].
        text: uint8 [bytes].

    Raises:
        ValueError: The two do not belong together.
    """

    def __init__(self, offsets: npt.NDArray[np.int64], text: npt.NDArray[np.uint8]) -> None:
        if offsets.dtype != np.int64 or offsets.ndim != 1 or not len(offsets) or offsets[-1] != len(text):
            raise ValueError(f"{OFFSETS} and {TEXT} do not belong together")
        self.offsets = offsets
        self.text = text

    @classmethod
    def open(cls, offsets: Path, text: Path) -> Sources:
        """Maps the two files.

        Raises:
            ValueError, OSError: A file is damaged or missing.
        """
        return cls(map_npy(offsets), map_bytes(text))

    @classmethod
    def none(cls) -> Sources:
        """The sources of no entries."""
        return cls(np.zeros(1, np.int64), np.empty(0, np.uint8))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, entry: int) -> str:
        # Altered offsets give another text or an empty one, never an error; `verify` detects them.
        start, stop = max(0, int(self.offsets[entry])), max(0, int(self.offsets[entry + 1]))
        return self.text[start:stop].tobytes().decode("utf-8", "replace")
