"""Runs the language model: packed rows in, logits out, with the constant head's keys and values kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..errors import BundleError
from ..session import Session
from .tree import PICTURE, Pack, Positions, Segment, Tree, pack, paths

Array = npt.NDArray[np.generic]
Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

# Tokens of pictures that share a call; see the measurements in `benchmarks`. Longer rows pay more for the mask,
# shorter ones for reading the weights again.
BUDGET = 512

# How far a cache grows at a time, in tokens: `generate` would copy it at each step.
_GROWTH = 256


@dataclass(frozen=True)
class Shape:
    """Of the decoder's cache."""

    layers: int
    kv_heads: int
    head_dim: int


class Cache:
    """Keys and values of a row, with room to grow; what is not filled is masked.

    Attributes:
        length: Tokens held.
    """

    def __init__(self, shape: Shape) -> None:
        self._names = [f"{i}.{kind}" for i in range(shape.layers) for kind in ("key", "value")]
        self._arrays = [np.zeros((1, shape.kv_heads, 0, shape.head_dim), np.float32) for _ in self._names]
        self.length = 0

    @property
    def room(self) -> int:
        """Tokens that the arrays have place for: P of the decoder's inputs."""
        return int(self._arrays[0].shape[2])

    @property
    def outputs(self) -> list[str]:
        """The decoder's outputs that `append` takes."""
        return [f"present.{name}" for name in self._names]

    def inputs(self) -> dict[str, Floats]:
        """The decoder's inputs."""
        return {f"past_key_values.{name}": array for name, array in zip(self._names, self._arrays, strict=True)}

    def append(self, outputs: Mapping[str, Array], reserve: int = 0) -> None:
        """Adds the keys and values of new tokens.

        Args:
            outputs: The decoder's, `present.*` float32 [1, kv_heads, L, head_dim].
            reserve: Room to make beyond them where they do not fit.
        """
        new = [np.asarray(outputs[name], np.float32) for name in self.outputs]
        end = self.length + new[0].shape[2]
        if end > self.room:
            width = ((0, 0), (0, 0), (0, end + reserve - self.room), (0, 0))
            self._arrays = [np.pad(array, width) for array in self._arrays]
        for array, part in zip(self._arrays, new, strict=True):
            array[:, :, self.length : end] = part
        self.length = end

    def copy(self) -> Cache:
        """A cache of its own arrays once either grows; `append` to a full one leaves the other untouched."""
        twin = object.__new__(Cache)
        twin._names, twin._arrays, twin.length = self._names, list(self._arrays), self.length
        return twin


class Decoder:
    """The language model of a bundle.

    Args:
        embed: `input_ids` int64 [1, L] -> `inputs_embeds` float32 [1, L, D].
        decoder: The graph of keys, values and logits.
        shape: Of its cache.
        positions: How the model counts positions.
        budget: Tokens of pictures that share a call; each call holds one picture's at least.
        reuse_head: Keeps the KV of each prompt's constant head; False computes it in every call.
        pack_branches: Scores a picture's branches in one call; False makes one call a branch.

    The switches exist so that what each saves can be measured. In fp32 none of them changes a result.
    """

    def __init__(
        self,
        embed: Session,
        decoder: Session,
        shape: Shape,
        positions: Positions,
        *,
        budget: int = BUDGET,
        reuse_head: bool = True,
        pack_branches: bool = True,
    ) -> None:
        self._embed = embed
        self._decoder = decoder
        self._shape = shape
        self._positions = positions
        self._budget = budget
        self._reuse_head = reuse_head
        self._pack_branches = pack_branches
        self._heads: dict[tuple[int, ...], Cache] = {}

    def logits(self, head: Sequence[int], trees: Sequence[Tree], pictures: Floats) -> Iterator[Floats]:
        """Next-token logits at each tree's places.

        Args:
            head: The ids that all trees follow.
            trees: One a picture.
            pictures: float32 [trees, T, D], each picture's embeddings.

        Yields:
            For each tree float32 [M, V], its places' logits.

        Raises:
            BundleError: The graph does not fit its settings.
        """
        if not self._pack_branches:
            for tree, picture in zip(trees, pictures, strict=True):
                yield self._branch_by_branch(head, tree, picture)
            return
        for group in _groups([len(tree) for tree in trees], self._budget):
            row, cache = self._pack(head, trees[group])
            logits = self._run(row, pictures[group], cache, ["logits"])["logits"][0]
            ends = np.cumsum([len(places) for places in row.places])[:-1]
            yield from np.split(np.asarray(logits, np.float32), ends)

    def greedy(
        self,
        head: Sequence[int],
        trees: Sequence[Tree],
        pictures: Floats,
        limits: Sequence[int],
        done: Callable[[int, list[int]], bool],
    ) -> list[list[int]]:
        """Continues each tree's last token greedily; all pictures of a call take each step together.

        Args:
            head: The ids that all trees follow.
            trees: One a picture, each of one segment with one place, its end.
            pictures: float32 [trees, T, D].
            limits: For each tree the most tokens to write.
            done: Given a tree's index and what was written for it, whether that is all.

        Returns:
            For each tree the tokens written.

        Raises:
            BundleError: The graph does not fit its settings.
        """
        written: list[list[int]] = [[] for _ in trees]
        for group in _groups([len(tree) for tree in trees], self._budget):
            self._write(head, trees, pictures, limits, done, written, group)
        return written

    def _write(
        self,
        head: Sequence[int],
        trees: Sequence[Tree],
        pictures: Floats,
        limits: Sequence[int],
        done: Callable[[int, list[int]], bool],
        written: list[list[int]],
        group: slice,
    ) -> None:
        row, cache = self._pack(head, trees[group])
        cache = cache.copy()
        begin = cache.length
        outputs = self._run(row, pictures[group], cache, ["logits", *cache.outputs])
        ends = [int(places[0]) for places in row.places]
        cache.append(outputs, _GROWTH)
        # What each branch sees of the cache, and the position of its next token.
        seen = np.zeros((len(ends), cache.room), bool)
        seen[:, :begin] = True
        seen[:, begin : begin + len(row.ids)] = row.mask[ends]
        position = row.positions[:, ends].max(0) + 1
        active = np.arange(len(ends))
        while True:
            for branch, token in zip(active, outputs["logits"][0].argmax(-1).tolist(), strict=True):
                written[group.start + branch].append(token)
            indices = (group.start + active).tolist()
            going = [len(written[i]) < limits[i] and not done(i, written[i]) for i in indices]
            active = active[going]
            if not len(active):
                return
            steps = Pack(
                np.array([written[group.start + branch][-1] for branch in active]),
                active,
                np.eye(len(active), dtype=bool),
                np.broadcast_to(position[active], (self._positions.dims, len(active))),
                [np.arange(len(active))],
            )
            outputs = self._run(steps, pictures[:0], cache, ["logits", *cache.outputs], seen[active])
            begin = cache.length
            cache.append(outputs, _GROWTH)
            seen = np.pad(seen, ((0, 0), (0, cache.room - seen.shape[1])))
            seen[active, begin + np.arange(len(active))] = True
            position[active] += 1

    def _branch_by_branch(self, head: Sequence[int], tree: Tree, picture: Floats) -> Floats:
        found: dict[int, Floats] = {}
        for path, places in paths(tree):
            row, cache = self._pack(head, [path])
            logits = self._run(row, picture[None], cache, ["logits"])["logits"][0]
            found.update(zip(places, np.asarray(logits, np.float32), strict=True))
        return np.stack([found[place] for place in range(len(tree.places))])

    def _pack(self, head: Sequence[int], trees: Sequence[Tree]) -> tuple[Pack, Cache]:
        if not self._reuse_head:
            return pack(trees, prefix=head, positions=self._positions), Cache(self._shape)
        return pack(trees, start=len(head), positions=self._positions), self._head(head)

    def _head(self, head: Sequence[int]) -> Cache:
        key = tuple(head)
        if key not in self._heads:
            cache = Cache(self._shape)
            if head:
                row = pack([Tree([Segment(head)], [(0, len(head) - 1)])], positions=self._positions)
                cache.append(self._run(row, np.empty((0, 0, 0), np.float32), cache, cache.outputs))
            self._heads[key] = cache
        return self._heads[key]

    def _run(
        self, row: Pack, pictures: Floats, cache: Cache, outputs: Sequence[str], seen: Bools | None = None
    ) -> dict[str, Array]:
        """One call of the decoder; `seen` says what of the cache each token sees, by default all that is filled."""
        ids = np.where(row.ids == PICTURE, 0, row.ids)[None]
        embeds = np.array(self._embed.run({"input_ids": ids})["inputs_embeds"], np.float32)
        spots = row.ids == PICTURE
        if spots.sum() != pictures.size // max(1, pictures.shape[-1]) or (
            spots.any() and pictures.shape[-1] != embeds.shape[-1]
        ):
            raise BundleError(
                f"the MLLM's pictures have shape {list(pictures.shape)}, not {int(spots.sum())} tokens of "
                f"{embeds.shape[-1]}; export the model again"
            )
        if spots.any():
            embeds[0, spots] = pictures.reshape(-1, pictures.shape[-1])
        if seen is None:
            seen = np.broadcast_to(np.arange(cache.room) < cache.length, (len(row.ids), cache.room))
        positions = row.positions if self._positions.dims == 1 else row.positions[:, None]
        return self._decoder.run(
            {
                "inputs_embeds": embeds,
                "attention_mask": np.concatenate([seen, row.mask], 1)[None, None],
                "position_ids": np.ascontiguousarray(positions),
                "logit_positions": np.concatenate(row.places)[None],
                **cache.inputs(),
            },
            outputs,
        )


def _groups(lengths: Sequence[int], budget: int) -> Iterator[slice]:
    """Neighbours whose lengths add up to the budget at most; one where a single one is longer."""
    start, total = 0, 0
    for index, length in enumerate(lengths):
        if index > start and total + length > budget:
            yield slice(start, index)
            start, total = index, 0
        total += length
    if start < len(lengths):
        yield slice(start, len(lengths))
