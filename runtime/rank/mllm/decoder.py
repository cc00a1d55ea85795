"""Runs the language model: rows of packed trees in, logits out; the heads' KV is cached."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from threading import Lock

import numpy as np
import numpy.typing as npt

from ...errors import BundleError
from ...session import Device, Session, Tensor
from ...stages import in_stage
from .tree import PICTURE, Positions, Rows, Segment, Tree, pack, stack

Array = npt.NDArray[np.generic]
Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

# Tokens of the pictures in one call. SmolLM2-135M on one core: four pictures of 67 tokens together take 0.74 (int8) and
# 0.77 (fp32) of the time one by one. Eight are slower again, and pictures of 218 tokens are fastest alone.
BUDGET = 320
# The same for generation, where each step reads all weights for one token per picture: sixteen pictures together take
# 0.38 (int8) and 0.26 (fp32) of the time one by one. Fewer pictures if the cache would be larger than this.
WRITE_BUDGET = 2048
CACHE_BYTES = 256 * 2**20

# Tokens by which a cache grows at a time: growth copies it, and attention covers all of it.
_GROWTH = 64

# What heads with pictures may keep of keys and values, and the latest one in any case.
_HEADS_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Shape:
    """The dimensions of the decoder's cache."""

    layers: int
    kv_heads: int
    head_dim: int

    @property
    def token_bytes(self) -> int:
        """Bytes of one token's keys and values."""
        return self.layers * 2 * self.kv_heads * self.head_dim * 4


class Cache:
    """Keys and values of some rows, with room to grow; the unfilled part must be masked.

    They lie in one tensor of the decoder's device, [2 * layers, rows, kv_heads, room, head_dim]. So one copy handles
    all layers, and the decoder reads and writes them in place.

    Args:
        shape: The cache's dimensions.
        device: The decoder's device.
        rows: Rows.
        room: The capacity in tokens: P of the decoder's inputs.

    Attributes:
        length: Tokens held.
    """

    def __init__(self, shape: Shape, device: Device, rows: int = 1, room: int = 0) -> None:
        self._shape, self._device = shape, device
        # Zeros: masked values still take part in the sum, with weight 0.
        self._held = device.zeros((2 * shape.layers, rows, shape.kv_heads, room, shape.head_dim), np.float32)
        self.length = 0

    @classmethod
    def of(cls, shape: Shape, device: Device, held: Tensor) -> Cache:
        """A full cache of keys and values that a decoder has written: [2 * layers, rows, kv_heads, P, head_dim]."""
        cache = cls(shape, device, held.shape[1])
        cache._held, cache.length = held, held.shape[3]
        return cache

    @property
    def room(self) -> int:
        """The capacity in tokens."""
        return self._held.shape[3]

    @property
    def nbytes(self) -> int:
        """Bytes that it takes."""
        return self._held.nbytes

    def inputs(self) -> dict[str, Tensor]:
        """The decoder's inputs."""
        return self._named("past_key_values", self._held)

    def new(self, count: int) -> Tensor:
        """Space for the keys and values of new tokens in each row; `outputs` names its parts, `append` takes it."""
        layers, rows, heads, _, width = self._held.shape
        return self._device.empty((layers, rows, heads, count, width), np.float32)

    def outputs(self, new: Tensor) -> dict[str, Tensor]:
        """The decoder's outputs that are written there."""
        return self._named("present", new)

    def append(self, new: Tensor, reserve: int = 0) -> None:
        """Adds new tokens.

        Args:
            new: Their keys and values.
            reserve: Extra room to add if they do not fit.
        """
        end = self.length + new.shape[3]
        if end > self.room:
            larger = Cache(self._shape, self._device, new.shape[1], end + reserve)
            larger._write(self._held, 0)
            self._held = larger._held
        self._write(new, self.length)
        self.length = end

    def rows(self, rows: Sequence[int]) -> Cache:
        """A new cache with copies of these rows."""
        taken = Cache(self._shape, self._device, len(rows), self.room)
        taken.length = self.length
        layers, held, *_ = self._held.shape
        size = self._held.nbytes // (layers * held)
        for row, source in enumerate(rows):
            self._device.copy(
                taken._held.address + row * size,
                self._held.address + source * size,
                target_pitch=len(rows) * size,
                source_pitch=held * size,
                width=size,
                height=layers,
            )
        return taken

    def _write(self, tokens: Tensor, begin: int) -> None:
        """Copies tokens of all layers, rows and heads to a position of the cache."""
        layers, rows, heads, count, width = tokens.shape
        token = width * tokens.dtype.itemsize
        self._device.copy(
            self._held.address + begin * token,
            tokens.address,
            target_pitch=self.room * token,
            source_pitch=count * token,
            width=count * token,
            height=layers * rows * heads,
        )

    def _named(self, kind: str, parts: Tensor) -> dict[str, Tensor]:
        return {
            f"{kind}.{layer}.{part}": parts[2 * layer + index]
            for layer in range(self._shape.layers)
            for index, part in enumerate(("key", "value"))
        }


@dataclass(frozen=True)
class HeadPictures:
    """The pictures in a head.

    Attributes:
        names: What tells them from others, in their order.
        embeds: Gives those of each, float32 [T, D]; asked only where the head is computed.
    """

    names: tuple[int, ...] = ()
    embeds: Callable[[], Sequence[Floats]] = field(default=tuple, compare=False)


NO_PICTURES = HeadPictures()


class Heads:
    """The caches of heads, computed once: those of texts alone are few and stay, of those with pictures the latest."""

    def __init__(self) -> None:
        self._constant: dict[tuple[int, ...], Cache] = {}
        self._latest: OrderedDict[tuple[tuple[int, ...], tuple[int, ...]], Cache] = OrderedDict()
        self._guard = Lock()

    def of(self, head: Sequence[int], pictures: HeadPictures, compute: Callable[[], Cache]) -> Cache:
        """A head's cache; see `Decoder.logits`."""
        ids = tuple(head)
        if not pictures.names:
            if ids not in self._constant:
                self._constant[ids] = compute()
            return self._constant[ids]
        key = ids, pictures.names
        with self._guard:
            found = self._latest.pop(key, None)
        found = found or compute()
        with self._guard:
            self._latest[key] = found
            while len(self._latest) > 1 and sum(cache.nbytes for cache in self._latest.values()) > _HEADS_BYTES:
                self._latest.popitem(last=False)
        return found


class Decoder:
    """The language model of a bundle.

    Args:
        embed: `input_ids` int64 [N, L] -> `inputs_embeds` float32 [N, L, D].
        decoder: The graph of keys, values and logits.
        shape: The dimensions of its cache.
        positions: How the model counts positions.
        budget: Tokens of the pictures in one call; each call holds at least one picture.
    """

    def __init__(
        self,
        embed: Session,
        decoder: Session,
        shape: Shape,
        positions: Positions,
        *,
        budget: int | None = None,
    ) -> None:
        self._embed = embed
        self._decoder = decoder
        self._shape = shape
        self._positions = positions
        self._budget = budget
        self._heads = Heads()

    @property
    def device(self) -> Device:
        """The device that holds the keys and values."""
        return self._decoder.device

    def logits(
        self,
        head: Sequence[int],
        trees: Sequence[Tree],
        pictures: Sequence[Floats],
        before: HeadPictures = NO_PICTURES,
    ) -> Iterator[Floats]:
        """Next-token logits at each tree's places.

        Args:
            head: The ids that precede all trees, with `PICTURE` for a row of its pictures.
            trees: One per picture.
            pictures: For each tree float32 [n * T, D], the embeddings of its pictures.
            before: The head's pictures.

        Yields:
            For each tree float32 [M, V], its places' logits.

        Raises:
            BundleError: The graph does not fit its settings.
        """
        for group in _groups([len(tree) for tree in trees], self._budget or BUDGET):
            rows, cache = self._rows(head, trees[group], before)
            logits = self._run(rows, pictures[group], cache, ["logits"])["logits"]
            for of_tree, count in zip(np.asarray(logits, np.float32), rows.counts, strict=True):
                yield of_tree[:count]

    def greedy(
        self,
        head: Sequence[int],
        trees: Sequence[Tree],
        pictures: Sequence[Floats],
        limits: Sequence[int],
        done: Callable[[int, list[int]], bool],
        before: HeadPictures = NO_PICTURES,
    ) -> list[list[int]]:
        """Continues each tree's last token greedily; all pictures of a call advance together.

        Args:
            head: As for `logits`.
            trees: One per picture, each of one segment with one place, its end.
            pictures: As for `logits`.
            limits: For each tree the most tokens to generate.
            done: Takes a tree's index and its tokens so far; returns whether they are complete.
            before: As for `logits`.

        Returns:
            For each tree the generated tokens.

        Raises:
            BundleError: The graph does not fit its settings.
        """
        written: list[list[int]] = [[] for _ in trees]
        most = CACHE_BYTES // self._shape.token_bytes
        # Each row has a copy of the head, which is long where it holds pictures.
        held, budget = (len(head), most) if before.names else (0, min(WRITE_BUDGET, most))
        for group in _groups([held + len(tree) for tree in trees], self._budget or budget):
            rows, cache = self._rows(head, trees[group], before)
            active = list(range(len(trees))[group])
            begin = cache.length
            new = cache.new(rows.ids.shape[1])
            outputs = self._run(rows, pictures[group], cache, ["logits"], new)
            cache.append(new, _GROWTH)
            # The part of the cache that each row sees, and the position of its next token.
            seen = np.arange(cache.room) < begin + rows.lengths[:, None]
            position = rows.positions.max(0)[np.arange(len(active)), rows.places[:, 0]] + 1
            while True:
                for index, token in zip(active, outputs["logits"][:, 0].argmax(-1).tolist(), strict=True):
                    written[index].append(token)
                going = [
                    row
                    for row, index in enumerate(active)
                    if len(written[index]) < limits[index] and not done(index, written[index])
                ]
                if not going:
                    break
                if len(going) < len(active):
                    active = [active[row] for row in going]
                    cache, seen, position = cache.rows(going), seen[going], position[going]
                step = _step([written[index][-1] for index in active], position, self._positions.dims)
                begin, new = cache.length, cache.new(1)
                outputs = self._run(step, [], cache, ["logits"], new, seen)
                cache.append(new, _GROWTH)
                seen = np.pad(seen, ((0, 0), (0, cache.room - seen.shape[1])))
                seen[:, begin] = True
                position = position + 1
        return written

    def _rows(self, head: Sequence[int], trees: Sequence[Tree], before: HeadPictures) -> tuple[Rows, Cache]:
        """Trees as rows, and the cache that precedes them."""
        _, start = self._positions.count(head, 0)
        packs = [pack([tree], start=start, positions=self._positions) for tree in trees]
        return stack(packs), self._head(head, before).rows([0] * len(trees))

    def _head(self, head: Sequence[int], before: HeadPictures) -> Cache:
        def compute() -> Cache:
            cache = Cache(self._shape, self.device)
            if head:
                rows = stack([pack([Tree([Segment(head)], [(0, len(head) - 1)])], positions=self._positions)])
                new = cache.new(len(head))
                self._run(rows, before.embeds(), cache, [], new)
                cache.append(new)
            return cache

        return self._heads.of(head, before, compute)

    def _run(
        self,
        rows: Rows,
        pictures: Sequence[Floats],
        cache: Cache,
        outputs: Sequence[str],
        new: Tensor | None = None,
        seen: Bools | None = None,
    ) -> dict[str, Array]:
        """One call of the decoder.

        Args:
            rows: The new tokens.
            pictures: Each float32 [n, D], the embeddings that replace the ids `PICTURE`, in order.
            cache: The cache that precedes them.
            outputs: What to fetch.
            new: Space for the new tokens' keys and values, from the cache's `new`; None to discard them.
            seen: bool [N, P], which tokens of the cache each row sees; all by default.
        """
        with in_stage("prefill" if rows.ids.shape[1] > 1 else "write"):
            embeds = embed_rows(self._embed, rows.ids, pictures)
            count, length = rows.ids.shape
            seen = np.ones((count, cache.room), bool) if seen is None else seen
            past = np.broadcast_to(seen[:, None], (count, length, cache.room))
            return self._decoder.run(
                {
                    "inputs_embeds": embeds,
                    "attention_mask": np.concatenate([past, rows.mask], 2)[:, None],
                    "position_ids": rows.positions[0] if self._positions.dims == 1 else rows.positions,
                    "logit_positions": rows.places,
                    **cache.inputs(),
                },
                outputs,
                cache.outputs(new) if new is not None else None,
            )


def embed_rows(embed: Session, ids: Ints, pictures: Sequence[Floats]) -> Floats:
    """The embeddings of rows of tokens: float32 [N, L, D].

    Args:
        embed: See `Decoder`.
        ids: int64 [N, L].
        pictures: Each float32 [n, D], what replaces the ids `PICTURE`, in order.

    Raises:
        BundleError: There are more or fewer of them, or of another width.
    """
    spots = ids == PICTURE
    embeds = np.array(embed.run({"input_ids": np.where(spots, 0, ids)})["inputs_embeds"], np.float32)
    width, count = embeds.shape[-1], sum(map(len, pictures))
    if count != spots.sum() or any(one.shape[1:] != (width,) for one in pictures):
        raise BundleError(
            f"the MLLM's pictures are {[list(one.shape) for one in pictures[:2]]} and so on, {count} rows in all, "
            f"where its prompt takes {int(spots.sum())} tokens of {width}; export the model again"
        )
    if count:
        embeds[spots] = np.concatenate(list(pictures))
    return embeds


def _step(tokens: Sequence[int], position: Ints, dims: int) -> Rows:
    """One more token per row."""
    count = len(tokens)
    return Rows(
        np.array(tokens, np.int64)[:, None],
        np.ones(count, np.int64),
        np.ones((count, 1, 1), bool),
        np.repeat(position[None, :, None], dims, 0),
        np.zeros((count, 1), np.int64),
        [1] * count,
    )


def _groups(lengths: Sequence[int], budget: int) -> Iterator[slice]:
    """Groups neighbours whose rows, padded to the longest, hold at most `budget` tokens; or one alone."""
    start, longest = 0, 0
    for index, length in enumerate(lengths):
        longest = max(longest, length)
        if index > start and longest * (index + 1 - start) > budget:
            yield slice(start, index)
            start, longest = index, length
    if start < len(lengths):
        yield slice(start, len(lengths))
