"""Precomputed embeddings with a class each, read block by block."""

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
    """A block of rows.

    Attributes:
        vectors: float [c, d], of any length but zero.
        labels: The class of each.
        sources: The source of each: a path, or the file and row.
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
        read: Iterates over the rows from the first; raises InputError if they do not match `count` and `dim`.
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
            name: Their origin: the source of entry i is `name[i]`.

        Raises:
            InputError: The array is not two-dimensional or not floating-point, or the number of labels differs.
        """
        check_numbers(vectors.dtype, name)
        if vectors.ndim != 2 or not vectors.size or len(vectors) != len(labels):
            raise InputError(
                f"{name}: embeddings of shape {list(vectors.shape)} do not fit {len(labels)} labels"
                "; give one label a vector"
            )

        def read() -> Iterator[Block]:
            for start in range(0, len(vectors), BLOCK):
                stop = min(start + BLOCK, len(vectors))
                sources = [f"{name}[{row}]" for row in range(start, stop)]
                yield Block(vectors[start:stop], labels[start:stop], sources)

        return cls(len(vectors), vectors.shape[1], read)

    def unit_blocks(self) -> Iterator[tuple[Floats, Block]]:
        """As `read`, each block beside its vectors at unit length: float32 [c, d].

        Raises:
            InputError: A vector is zero, NaN or infinite, a class name is blank, or the rows do not match `count` and
                `dim`.
        """
        row = 0
        for block in self.read():
            # In float64 the square of a float32 neither overflows nor vanishes.
            vectors = np.asarray(block.vectors, np.float64)
            if vectors.shape[1:] != (self.dim,) or not len(vectors) == len(block.labels) == len(block.sources):
                raise InputError(
                    f"embeddings from {row} on: shape {list(vectors.shape)}, where {self.dim} dimensions were promised"
                    "; give vectors of one encoder"
                )
            norms = np.linalg.norm(vectors, axis=1, keepdims=True)
            wrong = np.flatnonzero(~(np.isfinite(norms[:, 0]) & (norms[:, 0] > 0)))
            if len(wrong):
                raise InputError(
                    f"embedding {row + int(wrong[0])} is zero, NaN or infinite ({block.sources[int(wrong[0])]})"
                    "; correct or leave out its vector"
                )
            for offset, label in enumerate(block.labels):
                if not label.strip():
                    raise InputError(
                        f"embedding {row + offset}: the class name is blank ({block.sources[offset]}); name the class"
                    )
            yield np.asarray(vectors / norms, np.float32), block
            row += len(vectors)
        if row != self.count:
            raise InputError(f"{row} embeddings where {self.count} were promised; give as many as the count says")


def check_numbers(dtype: np.dtype[Any], name: str) -> None:
    """Checks that the numbers are floating-point.

    Raises:
        InputError: They have another dtype.
    """
    if not np.issubdtype(dtype, np.floating):
        raise InputError(f"{name}: holds {dtype}; embeddings are floating-point")
