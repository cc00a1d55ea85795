"""What goes through the loop together: decoded pictures, their tensor, and what each stage took."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter

import numpy as np
import numpy.typing as npt

from . import stages
from .encoder.clip import Begun
from .errors import ImageError
from .picture.boxes import Edges
from .picture.load import Pixels


@dataclass
class Batch:
    """Pictures that were decoded and prepared together; a broken one has an error in place of pixels.

    `start` is when work on the batch began: when the batch before was answered, or when its pictures were there, if
    that was later. `places` gives the place of each picture in its source, broken ones included. Where the pictures are
    regions of frames, `around` gives the region of each instead. `truncated` says of which pictures the file was cut
    off; it is empty if of none. `seeing` waits for the encoder's outputs where they were begun ahead.
    """

    pixels: list[Pixels | ImageError]
    tensor: npt.NDArray[np.float32]
    timings: dict[str, float]
    start: float = 0.0
    around: Sequence[Edges] = ()
    truncated: Sequence[bool] = ()
    places: Sequence[int] = ()
    seeing: Begun | None = None

    @property
    def good(self) -> list[Pixels]:
        """The pictures that are not broken."""
        return [pixels for pixels in self.pixels if isinstance(pixels, np.ndarray)]


@contextmanager
def timed(timings: dict[str, float], stage: str) -> Iterator[None]:
    """Adds the time spent inside to a stage's seconds."""
    start = perf_counter()
    with stages.in_stage(stage):
        yield
    timings[stage] = timings.get(stage, 0.0) + perf_counter() - start
