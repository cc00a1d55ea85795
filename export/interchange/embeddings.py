"""Ready-made embeddings with a class each, read block by block."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rar.runtime.errors import InputError

Floats = npt.NDArray[np.float32]

# Rows read at once.
BLOCK = 8192


@dataclass(frozen=True)
class Block:
    """Some rows of the whole.

    Attributes:
        vectors: float [c, d], of any length but zero.
        labels: The class of each.
        sources: Where each came from: a path, or the file and row.
    """

    vectors: npt.NDArray[Any]
    labels: Sequence[str]
    sources: Sequence[str]


@dataclass(frozen=True)
class Embeddings:
    """A table of vectors that need not fit into memory.

    Attributes:
        count: Rows n.
        dim: Dimensions d.
        read: Goes through the rows from the first; raises InputError where they are not what was promised.
    """

    count: int
    dim: int
    read: Callable[[], Iterator[Block]]

    @classmethod
    def of(cls, vectors: npt.NDArray[Any], labels: Sequence[str], name: str = "embeddings") -> Embeddings:
        """Vectors in memory, or mapped.

        Args:
            vectors: float [n, d].
            labels: The class of each.
            name: Where they came from: the source of entry i is `name[i]`.

        Raises:
            InputError: Not two dimensions, not floating-point, or not as many labels.
        """
        check_numbers(vectors.dtype, name)
        if vectors.ndim != 2 or not vectors.size or len(vectors) != len(labels):
            raise InputError(f"{name}: embeddings of shape {list(vectors.shape)} do not fit {len(labels)} labels")

        def read() -> Iterator[Block]:
            for start in range(0, len(vectors), BLOCK):
                stop = min(start + BLOCK, len(vectors))
                sources = [f"{name}[{row}]" for row in range(start, stop)]
                yield Block(vectors[start:stop], labels[start:stop], sources)

        return cls(len(vectors), vectors.shape[1], read)

    def unit_blocks(self) -> Iterator[tuple[Floats, Block]]:
        """As `read`, each block beside its vectors at unit length: float32 [c, d].

        Raises:
            InputError: A vector is zero, NaN or infinite, a class name is blank, or the rows are not what was promised.
        """
        row = 0
        for block in self.read():
            # As float64: no float32 overflows or vanishes when it is squared.
            vectors = np.asarray(block.vectors, np.float64)
            if vectors.shape[1:] != (self.dim,) or not len(vectors) == len(block.labels) == len(block.sources):
                raise InputError(
                    f"embeddings from {row} on: shape {list(vectors.shape)}, where {self.dim} dimensions were promised"
                )
            norms = np.linalg.norm(vectors, axis=1, keepdims=True)
            wrong = np.flatnonzero(~(np.isfinite(norms[:, 0]) & (norms[:, 0] > 0)))
            if len(wrong):
                raise InputError(
                    f"embedding {row + int(wrong[0])} is zero, NaN or infinite ({block.sources[int(wrong[0])]})"
                )
            for offset, label in enumerate(block.labels):
                if not label.strip():
                    raise InputError(f"embedding {row + offset}: the class name is blank ({block.sources[offset]})")
            yield np.asarray(vectors / norms, np.float32), block
            row += len(vectors)
        if row != self.count:
            raise InputError(f"{row} embeddings where {self.count} were promised")


def check_numbers(dtype: np.dtype[Any], name: str) -> None:
    """Passes floating-point numbers.

    Raises:
        InputError: They are of another kind.
    """
    if not np.issubdtype(dtype, np.floating):
        raise InputError(f"{name}: holds {dtype}; embeddings are floating-point")
