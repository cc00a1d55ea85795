"""The C++ extension (cpp_ext/bindings.cpp)."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

MAX_SIDE: int
MAX_SIGMA: float

def simd_levels() -> list[str]: ...

class Preprocessor:
    def __init__(
        self,
        *,
        size: int,
        shortest_edge: int,
        mean: Sequence[float],
        std: Sequence[float],
        filter: str,  # noqa: A002
        fit: str,
        fill: Sequence[int],
        threads: int,
        simd: str,
    ) -> None: ...
    def run(self, images: Sequence[npt.NDArray[np.uint8]], out: npt.NDArray[np.floating]) -> None: ...
    def run_regions(
        self,
        *,
        image: npt.NDArray[np.uint8],
        boxes: Sequence[tuple[int, int, int, int]],
        around: Sequence[tuple[int, int, int, int]],
        sigmas: Sequence[float],
        masks: Sequence[npt.NDArray[np.uint8]] | None,
        surround: str,
        method: str,
        colour: Sequence[int],
        feather: float,
        fit: str,
        out: npt.NDArray[np.floating],
    ) -> None: ...
