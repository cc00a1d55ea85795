"""Prompts as trees of token runs, and the packing of trees into rows with a visibility mask.

The common part of several answers about a picture (the picture, the question) stands in a row once. The answers lie
side by side and do not see each other: a token sees only its own run up to itself, and the runs that its run continues.
Positions count along each branch as if it were alone, so every branch gets the logits of a separate call. Each picture
has its own row: in a shared row the masked attention between pictures would grow with the square of their number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]

# The id in a run that stands for the next row of the tree's picture embeddings.
PICTURE = -1


@dataclass(frozen=True)
class Segment:
    """A run of tokens.

    Attributes:
        ids: Token ids, with `PICTURE` for a row of the picture; not empty.
        parent: Index of the earlier segment that it continues; None if it follows the head.
    """

    ids: Sequence[int]
    parent: int | None = None


@dataclass(frozen=True)
class Tree:
    """The questions about one picture.

    Attributes:
        segments: Parents before their children.
        places: The tokens whose next-token logits are needed: (segment, offset in it).
    """

    segments: Sequence[Segment]
    places: Sequence[tuple[int, int]]

    def __len__(self) -> int:
        """Tokens in the row."""
        return sum(len(segment.ids) for segment in self.segments)

    def ancestors(self, segment: int) -> list[int]:
        """The path to a segment, itself included, root first."""
        chain = [segment]
        while (parent := self.segments[chain[-1]].parent) is not None:
            chain.append(parent)
        return chain[::-1]


@dataclass(frozen=True)
class Pack:
    """Several trees as one row of L tokens.

    Attributes:
        ids: int64 [L]; `PICTURE` where a row of picture embeddings goes.
        mask: bool [L, L], True where the row's token may see the column's.
        positions: int64 [dims, L].
        places: For each tree int64 [M], the positions of its logits in the row.
    """

    ids: Ints
    mask: Bools
    positions: Ints
    places: Sequence[Ints]


@dataclass(frozen=True)
class Positions:
    """How a model counts positions, and which tokens of a run see each other.

    Attributes:
        dims: 1, or 3 for M-RoPE (time, row, column).
        grid: M-RoPE only: rows and columns of a picture's tokens.
        whole_picture: Whether each token of a picture sees the whole picture, as in Gemma 3, and not only what
            precedes it.
    """

    dims: int = 1
    grid: tuple[int, int] | None = None
    whole_picture: bool = False

    def mask(self, ids: Sequence[int] | Ints) -> Bools:
        """What a run's tokens see of each other: bool [n, n], True where the row's token may see the column's."""
        seen = np.tri(len(ids), dtype=bool)
        if self.whole_picture:
            spots = np.asarray(ids) == PICTURE
            # Pictures are numbered, so that none sees the next.
            number = np.cumsum(spots & ~np.concatenate([[False], spots[:-1]]))
            seen |= (number[:, None] == number) & spots[:, None] & spots
        return seen

    def count(self, ids: Sequence[int], start: int) -> tuple[Ints, int]:
        """Positions int64 [dims, n] of a run that begins at `start`, and the position after it.

        M-RoPE is Qwen2.5-VL's (transformers `get_rope_index`): a picture's tokens share its start as their time, and
        count rows and columns from there. The text continues after the largest of them.
        """
        if self.grid is None:
            return np.broadcast_to(np.arange(start, start + len(ids)), (self.dims, len(ids))), start + len(ids)
        rows, columns = self.grid
        spots = np.stack([np.zeros(rows * columns, int), *np.divmod(np.arange(rows * columns), columns)])
        blocks, position, done = [np.empty((3, 0), np.int64)], start, 0
        while done < len(ids):
            if ids[done] == PICTURE:
                blocks.append(spots + position)
                position, done = position + max(rows, columns), done + rows * columns
            else:
                blocks.append(np.full((3, 1), position))
                position, done = position + 1, done + 1
        return np.concatenate(blocks, 1), position


def pack(
    trees: Sequence[Tree], *, start: int = 0, prefix: Sequence[int] = (), positions: Positions | None = None
) -> Pack:
    """Packs trees side by side in one row.

    Args:
        trees: The trees; none sees another.
        start: Position of the row's first token: the length of the cached head.
        prefix: Text tokens in front of all trees, if the head is not cached.
        positions: How the model counts; one dimension by default.
    """
    positions = positions or Positions()
    length = len(prefix) + sum(map(len, trees))
    row = Pack(
        np.empty(length, np.int64),
        np.zeros((length, length), bool),
        np.empty((positions.dims, length), np.int64),
        [],
    )
    places: list[Ints] = []
    first = slice(0, len(prefix))
    row.ids[first] = prefix
    row.positions[:, first], start = positions.count(prefix, start)
    row.mask[first, first] = np.tri(len(prefix), dtype=bool)
    row.mask[len(prefix) :, first] = True
    end = len(prefix)
    for tree in trees:
        spans: list[slice] = []
        ends: list[int] = []  # the position after each segment
        for index, segment in enumerate(tree.segments):
            span = slice(end, end := end + len(segment.ids))
            spans.append(span)
            row.ids[span] = segment.ids
            after = start if segment.parent is None else ends[segment.parent]
            row.positions[:, span], after = positions.count(segment.ids, after)
            ends.append(after)
            for ancestor in tree.ancestors(index)[:-1]:
                row.mask[span, spans[ancestor]] = True
            row.mask[span, span] = positions.mask(segment.ids)
        places.append(np.array([spans[segment].start + offset for segment, offset in tree.places], np.int64))
    return Pack(row.ids, row.mask, row.positions, places)


@dataclass(frozen=True)
class Rows:
    """Packs as the N rows of one call, L tokens each; shorter ones are padded with tokens that see only themselves.

    Attributes:
        ids: int64 [N, L]; 0 in the padding.
        lengths: int64 [N], without the padding.
        mask: bool [N, L, L].
        positions: int64 [dims, N, L].
        places: int64 [N, M]; padded with 0.
        counts: The number of places of each row.
    """

    ids: Ints
    lengths: Ints
    mask: Bools
    positions: Ints
    places: Ints
    counts: Sequence[int]


def stack(packs: Sequence[Pack]) -> Rows:
    """One pack per tree, stacked as rows."""
    count, length = len(packs), max(len(row.ids) for row in packs)
    counts = [len(row.places[0]) for row in packs]
    rows = Rows(
        np.zeros((count, length), np.int64),
        np.array([len(row.ids) for row in packs]),
        np.repeat(np.eye(length, dtype=bool)[None], count, 0),
        np.zeros((len(packs[0].positions), count, length), np.int64),
        np.zeros((count, max(counts)), np.int64),
        counts,
    )
    for index, row in enumerate(packs):
        filled = slice(0, len(row.ids))
        rows.ids[index, filled] = row.ids
        rows.mask[index, filled, filled] = row.mask
        rows.positions[:, index, filled] = row.positions
        rows.places[index, : counts[index]] = row.places[0]
    return rows


def fork(sequences: Sequence[Sequence[int]]) -> tuple[list[int], list[list[int]]]:
    """The common prefix of sequences, and the rest of each: at least one token."""
    common = shared(sequences, min(map(len, sequences)) - 1)
    return list(sequences[0][:common]), [list(sequence[common:]) for sequence in sequences]


def shared(sequences: Sequence[Sequence[int]], limit: int) -> int:
    """Length of the common prefix of sequences, at most `limit`."""
    length = 0
    while length < limit and len({sequence[length] for sequence in sequences}) == 1:
        length += 1
    return length
