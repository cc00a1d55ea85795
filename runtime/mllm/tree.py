"""Prompts as trees of token runs, and the packing of trees into rows with a visibility mask.

What several answers about a picture have in common (the picture, the question) stands in a row once; the answers
lie beside each other and do not see one another, because each token sees only its own run up to itself and the
runs it continues. Positions count along each branch as if it were alone, so every branch gets the logits it would
get in a call of its own. Pictures have a row each: in one row their attention, which the mask throws away, would
grow with the square of their number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]

# Stands in a run's ids for the next row of the tree's picture embeddings.
PICTURE = -1


@dataclass(frozen=True)
class Segment:
    """A run of tokens.

    Attributes:
        ids: Token ids, `PICTURE` where a row of the picture goes; not empty.
        parent: Index of the earlier segment of the tree that it continues; None where it follows the head.
    """

    ids: Sequence[int]
    parent: int | None = None


@dataclass(frozen=True)
class Tree:
    """What is asked about one picture.

    Attributes:
        segments: Parents before their children.
        places: The tokens whose next-token logits are wanted: (segment, offset in it).
    """

    segments: Sequence[Segment]
    places: Sequence[tuple[int, int]]

    def __len__(self) -> int:
        """Tokens in the row."""
        return sum(len(segment.ids) for segment in self.segments)

    def ancestors(self, segment: int) -> list[int]:
        """The segments that one continues, itself included, root first."""
        chain = [segment]
        while (parent := self.segments[chain[-1]].parent) is not None:
            chain.append(parent)
        return chain[::-1]


@dataclass(frozen=True)
class Pack:
    """Several trees as one row of L tokens.

    Attributes:
        ids: int64 [L]; `PICTURE` where a row of picture embeddings goes.
        trees: int64 [L], the tree that a token belongs to; -1 for the shared prefix.
        mask: bool [L, L], True where the row's token may see the column's.
        positions: int64 [dims, L].
        places: For each tree int64 [M], where in the row its wanted logits are.
    """

    ids: Ints
    trees: Ints
    mask: Bools
    positions: Ints
    places: Sequence[Ints]


@dataclass(frozen=True)
class Positions:
    """How a model counts positions.

    Attributes:
        dims: 1, or 3 for M-RoPE (time, row, column).
        grid: M-RoPE only: rows and columns of a picture's tokens.
    """

    dims: int = 1
    grid: tuple[int, int] | None = None

    def count(self, ids: Sequence[int], start: int) -> tuple[Ints, int]:
        """Positions int64 [dims, n] of a run that begins at `start`, and the position after it.

        M-RoPE is Qwen2.5-VL's (transformers `get_rope_index`): a picture's tokens share the time at which it
        begins and count rows and columns from there; the text goes on after the largest of them.
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
    """Lays trees beside each other in one row.

    Args:
        trees: The trees; none sees another.
        start: Position of the row's first token: the length of the head whose KV is cached.
        prefix: Text tokens in front that all trees continue, where the head is not cached.
        positions: How the model counts; one dimension by default.
    """
    positions = positions or Positions()
    length = len(prefix) + sum(map(len, trees))
    row = Pack(
        np.empty(length, np.int64),
        np.full(length, -1, np.int64),
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
    for number, tree in enumerate(trees):
        spans: list[slice] = []
        ends: list[int] = []  # the position after each segment
        for index, segment in enumerate(tree.segments):
            span = slice(end, end := end + len(segment.ids))
            spans.append(span)
            row.ids[span] = segment.ids
            row.trees[span] = number
            after = start if segment.parent is None else ends[segment.parent]
            row.positions[:, span], after = positions.count(segment.ids, after)
            ends.append(after)
            for ancestor in tree.ancestors(index)[:-1]:
                row.mask[span, spans[ancestor]] = True
            row.mask[span, span] = np.tri(len(segment.ids), dtype=bool)
        places.append(np.array([spans[segment].start + offset for segment, offset in tree.places], np.int64))
    return Pack(row.ids, row.trees, row.mask, row.positions, places)


@dataclass(frozen=True)
class Rows:
    """Packs as the rows of one call, N of L tokens; shorter ones are filled up with tokens that see only themselves.

    Attributes:
        ids: int64 [N, L]; 0 in the filling.
        lengths: int64 [N], without the filling.
        mask: bool [N, L, L].
        positions: int64 [dims, N, L].
        places: int64 [N, M]; 0 where a row has fewer.
        counts: For each row how many places are its own.
    """

    ids: Ints
    lengths: Ints
    mask: Bools
    positions: Ints
    places: Ints
    counts: Sequence[int]


def stack(packs: Sequence[Pack]) -> Rows:
    """Packs of one tree each, one below the other."""
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
        own = slice(0, len(row.ids))
        rows.ids[index, own] = row.ids
        rows.mask[index, own, own] = row.mask
        rows.positions[:, index, own] = row.positions
        rows.places[index, : counts[index]] = row.places[0]
    return rows


def fork(sequences: Sequence[Sequence[int]]) -> tuple[list[int], list[list[int]]]:
    """What sequences have in common in front, and what is left of each: at least one token."""
    common = shared(sequences, min(map(len, sequences)) - 1)
    return list(sequences[0][:common]), [list(sequence[common:]) for sequence in sequences]


def shared(sequences: Sequence[Sequence[int]], limit: int) -> int:
    """Length of the common front of sequences, at most `limit`."""
    length = 0
    while length < limit and len({sequence[length] for sequence in sequences}) == 1:
        length += 1
    return length


def paths(tree: Tree) -> list[tuple[Tree, list[int]]]:
    """The tree as one tree a leaf, each without branches: what separate calls would have to compute.

    Returns:
        For each leaf its path as one segment, and which of the tree's places it answers; a place on a run that
        leaves share is the first leaf's.
    """
    parents = {segment.parent for segment in tree.segments}
    open_places = dict.fromkeys(range(len(tree.places)))
    found = []
    for leaf in range(len(tree.segments)):
        if leaf in parents:
            continue
        begins, ids = {}, list[int]()
        for segment in tree.ancestors(leaf):
            begins[segment] = len(ids)
            ids += tree.segments[segment].ids
        own = [place for place in open_places if tree.places[place][0] in begins]
        for place in own:
            del open_places[place]
        wanted = [(0, begins[tree.places[place][0]] + tree.places[place][1]) for place in own]
        found.append((Tree([Segment(ids)], wanted), own))
    return found
