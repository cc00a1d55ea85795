"""An engine whose programs each take a fixed number of pictures, used for any number."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.float32]
# Pixels, float32 [size, 3, S, S] -> embeddings, float32 [size, d].
Embed: TypeAlias = Callable[[Floats], Floats]


class ByBatch:
    """Embeds any number of pictures; a program is opened when the first batch for it comes.

    Args:
        opener: Opens the program for a number of pictures.
        sizes: The numbers that there are programs for, smallest first.
    """

    def __init__(self, opener: Callable[[int], Embed], sizes: Sequence[int]) -> None:
        self._opener, self._sizes = opener, sizes
        self._programs: dict[int, Embed] = {}

    def __call__(self, pixels: Floats) -> Floats:
        """Float32 [N, 3, S, S] -> float32 [N, d]; the last batch is filled up with zeros."""
        most = self._sizes[-1]
        return np.concatenate([self._one(pixels[start : start + most]) for start in range(0, len(pixels), most)])

    def _one(self, pixels: Floats) -> Floats:
        count = len(pixels)
        size = next(size for size in self._sizes if size >= count)
        if size not in self._programs:
            self._programs[size] = self._opener(size)
        if count < size:
            pixels = np.concatenate([pixels, np.zeros((size - count, *pixels.shape[1:]), np.float32)])
        return self._programs[size](pixels)[:count]
