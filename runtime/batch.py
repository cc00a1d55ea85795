"""What goes through the loop together: decoded pictures, their tensor, and what each stage took."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter

import numpy as np
import numpy.typing as npt

from . import stages
from .errors import ImageError
from .images import Pixels
from .regions import Edges


@dataclass
class Batch:
    """Pictures that were decoded and prepared together; a broken one has an error in place of pixels.

    The batch was picked up at `start`: when the one before was answered, or the stream began. Where the pictures are
    regions of others, `around` says which: one a picture, also of the broken ones.
    """

    pixels: list[Pixels | ImageError]
    tensor: npt.NDArray[np.float32]
    timings: dict[str, float]
    start: float = 0.0
    around: Sequence[Edges] = ()

    @property
    def good(self) -> list[Pixels]:
        """Those that are not broken."""
        return [pixels for pixels in self.pixels if isinstance(pixels, np.ndarray)]


@contextmanager
def timed(timings: dict[str, float], stage: str) -> Iterator[None]:
    """Adds the seconds of what it encloses to a stage's."""
    start = perf_counter()
    with stages.stage(stage):
        yield
    timings[stage] = timings.get(stage, 0.0) + perf_counter() - start
