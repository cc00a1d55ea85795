"""Pictures of a memory that are nearly the same: found by its own index."""

from __future__ import annotations

import filecmp
from collections.abc import Iterator
from contextlib import suppress

import numpy as np

from rar.runtime.memory import Memory

from ..pictures.check import shortened

# Copies at another JPEG quality or a little larger or smaller reach it with the starter's encoder (0.99 and more); of
# Grocery's photos no two do (0.973).
_NEAR = 0.98
# Neighbours that are looked at besides the picture itself.
_NEIGHBOURS = 4
_BLOCK = 1024


def near_duplicates(memory: Memory) -> list[str]:
    """Lines that name pairs of pictures whose embeddings are nearly equal, those of unlike classes first.

    Args:
        memory: As it was built; without pictures there are no lines.
    """
    if "pictures" not in memory.parts:
        return []
    pairs = sorted(_pairs(memory), key=lambda pair: (pair[3] == pair[4], -pair[0]))
    lines = [
        f"nearly the same (cosine {cosine:.4f}): {one} and {other}, "
        + (f"class {label!r}" if label == second else f"of the classes {label!r} and {second!r}")
        for cosine, one, other, label, second in pairs
    ]
    return shortened(lines)


def _pairs(memory: Memory) -> Iterator[tuple[float, str, str, str, str]]:
    """Cosine, both sources and both labels of each pair; copies of one file are not among them."""
    part, names = memory.parts["pictures"], memory.labels
    for start in range(0, len(part.built), _BLOCK):
        vectors = part.vectors[start : start + _BLOCK].astype(np.float32)
        entries, cosines = part.nearest(vectors, min(1 + _NEIGHBOURS, len(part.built)))
        rows, columns = np.nonzero((cosines >= _NEAR) & (entries > start + np.arange(len(vectors))[:, None]))
        for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
            one, other = start + row, int(entries[row, column])
            paths = part.source(one), part.source(other)
            if _same_file(*paths):
                continue
            yield (
                float(cosines[row, column]),
                *paths,
                names[int(part.labels[one])],
                names[int(part.labels[other])],
            )


def _same_file(one: str, other: str) -> bool:
    """Whether two files hold the same bytes."""
    with suppress(OSError, ValueError):
        return filecmp.cmp(one, other, shallow=False)
    return False
