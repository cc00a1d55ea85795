"""The C++ extension (cpp_ext/python/)."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

MAX_SIDE: int
MAX_SIGMA: float

def simd_levels() -> list[str]: ...
def instruction_sets() -> list[str]: ...

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
        method: str | None,
        fit: str,
        out: npt.NDArray[np.floating],
    ) -> None: ...

class Graph:
    """An HNSW graph in a file that usearch 2 saved: squared L2 over float32, float16 or int8.

    Opening reads the head and the levels; a link is checked when it is followed. So a file that was altered gives
    other answers or a ValueError, and nothing outside it is read.
    """

    def __init__(self, file: npt.NDArray[np.uint8] | bytes | bytearray | memoryview) -> None:
        """Takes the whole file, mapped or read; it stays referenced.

        Raises:
            ValueError: It is truncated, no such index, or of another version; the message tells which.
        """

    @property
    def size(self) -> int: ...
    @property
    def dim(self) -> int: ...
    @property
    def dtype(self) -> str:
        """The scalar: f32, f16 or i8."""

    def check(self, entries: int) -> None:
        """Follows every link.

        Raises:
            ValueError: A link leads nowhere, or a key is there twice or not below `entries`.
        """

def search(
    graphs: Sequence[Graph],
    queries: npt.NDArray[np.float32],
    count: int,
    ef: int,
    labels: npt.NDArray[np.int32],
    allowed: npt.NDArray[np.uint8] | None,
    threads: int = 1,
    cap: int | None = None,
    most: int | None = None,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """The nearest entries of each query that HNSW finds in all the graphs together.

    An entry counts if its label is not below 0 and, where `allowed` is given, `allowed[label]` is not 0. What does
    not count is walked through. The fewer count, the farther each walk goes: until `ef` that count are passed; with
    a cap, until `ef` are passed of which no class has more, while those beyond it are walked through too.

    Args:
        graphs: Shards, alike in dimension and dtype; keys are entry numbers.
        queries: float32 [N, r]; for int8 in the scale of the entries, for bits the signs are taken (> 0).
        count: Entries a query.
        ef: How many are kept while walking, at least `count`.
        labels: int32 [n], the class of each entry, -1 for none.
        allowed: uint8 [classes].
        threads: That share the queries and shards; the answer does not depend on them.
        cap: Entries of a class that are kept at most, and returned.
        most: Entries that count and are passed at most, in each graph.

    Returns:
        Entries int64 [N, count], nearest first, and squared distances float32 [N, count];
        entry -1 at infinity fills a row for which fewer were found.

    Raises:
        ValueError: Arrays of other types or shapes, NaN or infinity in a query, or a damaged graph.
    """

def score(
    vectors: npt.NDArray[np.floating],
    queries: npt.NDArray[np.float32],
    ids: npt.NDArray[np.int64],
    threads: int = 1,
) -> npt.NDArray[np.float32]:
    """The dot products of each query with the vectors that are named for it.

    Args:
        vectors: float16 or float32 [n, d].
        queries: float32 [N, d].
        ids: int64 [N, c], rows of `vectors`; -1 for none.
        threads: That share the work.

    Returns:
        float32 [N, c], minus infinity for id -1 and where the vector holds NaN.

    Raises:
        ValueError: Arrays of other types or shapes, NaN or infinity in a query, or an id out of range.
    """

def nearest(
    vectors: npt.NDArray[np.floating],
    queries: npt.NDArray[np.float32],
    count: int,
    labels: npt.NDArray[np.int32],
    allowed: npt.NDArray[np.uint8] | None,
    threads: int = 1,
    cap: int | None = None,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """The entries of greatest dot product with each query, exactly: all that count are compared.

    Args:
        vectors: float16 or float32 [n, d].
        queries: float32 [N, d].
        count: Entries a query.
        labels: int32 [n], as for `search`.
        allowed: uint8 [classes], as for `search`.
        threads: That share the vectors; the answer does not depend on them.
        cap: Entries of a class at most.

    Returns:
        Entries int64 [N, count], best first and the lower among equals, and dot products float32 [N, count];
        entry -1 at minus infinity fills a row where fewer count.

    Raises:
        ValueError: Arrays of other types or shapes, or NaN or infinity in a query.
    """
