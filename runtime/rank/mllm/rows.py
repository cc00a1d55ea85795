"""Runs a language model whose graph has no mask for each token, as model hubs hold them: a tree becomes rows.

What the branches of a picture's tree share, the picture and the question, is run once. Each branch is then a row after
it. A graph that hides padding takes several of them in one call, each with a copy of the shared keys and values; one
with GroupQueryAttention takes them one after the other. `Decoder` needs one call for all pictures that fit its budget.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from ...session import Device, Session, Tensor
from ...stages import in_stage
from .decoder import CACHE_BYTES, NO_PICTURES, Cache, HeadPictures, Heads, Shape, embed_rows
from .tree import Tree

Floats = npt.NDArray[np.float32]


class RowDecoder:
    """The language model of a bundle, see the module.

    Args:
        embed: `input_ids` int64 [N, L] -> `inputs_embeds` float32 [N, L, D].
        decoder: The graph of keys, values and logits. Its mask is int64 [N, P + L], and the keys and values that it
            gives are those of all P + L tokens.
        shape: The dimensions of its cache.
        padded: Whether rows of several lengths may follow a cache in one call.
    """

    def __init__(self, embed: Session, decoder: Session, shape: Shape, *, padded: bool) -> None:
        self._embed = embed
        self._decoder = decoder
        self._shape = shape
        self._padded = padded
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
            head: As for `Decoder.logits`.
            trees: One per picture, each with one root.
            pictures: As for `Decoder.logits`.
            before: As for `Decoder.logits`.

        Yields:
            For each tree float32 [M, V], its places' logits.

        Raises:
            BundleError: The graph does not fit its settings.
        """
        for index, tree in enumerate(trees):
            yield self._tree(self._head(head, before), tree, pictures[index : index + 1])

    def greedy(
        self,
        head: Sequence[int],
        trees: Sequence[Tree],
        pictures: Sequence[Floats],
        limits: Sequence[int],
        done: Callable[[int, list[int]], bool],
        before: HeadPictures = NO_PICTURES,
    ) -> list[list[int]]:
        """Continues each tree's last token greedily, one picture after the other; see `Decoder.greedy`.

        Raises:
            BundleError: The graph does not fit its settings.
        """
        written: list[list[int]] = []
        for index, tree in enumerate(trees):
            (root,) = tree.segments
            answer: list[int] = []
            start = self._head(head, before)
            logits, held = self._run([root.ids], start, pictures[index : index + 1], [[len(root.ids) - 1]])
            while True:
                answer.append(int(logits[0, 0].argmax()))
                if len(answer) >= limits[index] or done(index, answer):
                    break
                logits, held = self._run([answer[-1:]], held, [], [[0]])
            written.append(answer)
        return written

    def _tree(self, head: Cache, tree: Tree, picture: Sequence[Floats]) -> Floats:
        """A tree's logits at its places: float32 [M, V]."""
        found: dict[int, Floats] = {}
        root = [offset for segment, offset in tree.places if segment == 0]
        # A graph gives logits at one place at least.
        logits, stem = self._run([tree.segments[0].ids], head, picture, [root or [0]])
        found.update(zip((i for i, (segment, _) in enumerate(tree.places) if segment == 0), logits[0], strict=False))
        for group in self._groups(tree, stem.length, logits.shape[-1]):
            rows = [self._branch(tree, segment) for segment in group]
            asked = [[i for i, (at, _) in enumerate(tree.places) if at == segment] for segment in group]
            places = [
                [len(row) - len(tree.segments[segment].ids) + tree.places[i][1] for i in one]
                for row, segment, one in zip(rows, group, asked, strict=True)
            ]
            before = stem if len(rows) == 1 else stem.rows([0] * len(rows))
            logits, _ = self._run(rows, before, [], places, keep=False)
            for of_row, one in zip(logits, asked, strict=True):
                found.update(zip(one, of_row, strict=False))
        return np.stack([found[i] for i in range(len(tree.places))])

    def _groups(self, tree: Tree, before: int, vocabulary: int) -> Iterator[list[int]]:
        """The segments after the root whose logits are asked for, as many in one call as memory allows.

        Each has a copy of the cache, and logits float32 for as many places as the one with most.
        """
        segments = sorted({segment for segment, _ in tree.places} - {0})
        longest = before + max((len(self._branch(tree, segment)) for segment in segments), default=0)
        asked = max(Counter(segment for segment, _ in tree.places).values(), default=1)
        a_row = max(self._shape.token_bytes * longest, 4 * vocabulary * asked)
        most = max(1, CACHE_BYTES // a_row) if self._padded else 1
        for start in range(0, len(segments), most):
            yield segments[start : start + most]

    def _branch(self, tree: Tree, segment: int) -> list[int]:
        """The ids from the root's end to a segment's."""
        return [token for ancestor in tree.ancestors(segment)[1:] for token in tree.segments[ancestor].ids]

    def _head(self, head: Sequence[int], before: HeadPictures) -> Cache:
        def compute() -> Cache:
            cache = Cache(self._shape, self.device)
            return self._run([head], cache, before.embeds(), [[0]])[1] if head else cache

        return self._heads.of(head, before, compute)

    def _run(
        self,
        rows: Sequence[Sequence[int]],
        cache: Cache,
        pictures: Sequence[Floats],
        places: Sequence[Sequence[int]],
        *,
        keep: bool = True,
    ) -> tuple[Floats, Cache]:
        """One call of the decoder.

        Args:
            rows: The new tokens; shorter rows are padded.
            cache: What precedes them, of as many rows.
            pictures: Each float32 [n, D], the embeddings that replace the ids `PICTURE`, in order.
            places: For each row the tokens whose logits are wanted.
            keep: Whether the new tokens' keys and values are wanted.

        Returns:
            float32 [N, M, V], and the cache of all tokens; the old one without `keep`.
        """
        count, length, before = len(rows), max(map(len, rows)), cache.length
        ids = np.zeros((count, length), np.int64)
        mask = np.ones((count, before + length), np.int64)
        asked = np.zeros((count, max(map(len, places))), np.int64)
        for number, (row, spots) in enumerate(zip(rows, places, strict=True)):
            ids[number, : len(row)] = row
            mask[number, before + len(row) :] = 0
            asked[number, : len(spots)] = spots
        held: Tensor | None = None
        if keep:
            shape = self._shape
            held = self.device.empty(
                (2 * shape.layers, count, shape.kv_heads, before + length, shape.head_dim), np.float32
            )
        with in_stage("prefill" if length > 1 else "write"):
            outputs = self._decoder.run(
                {
                    "inputs_embeds": embed_rows(self._embed, ids, pictures),
                    "attention_mask": mask,
                    "position_ids": np.repeat(np.arange(before, before + length)[None], count, 0),
                    "logit_positions": asked,
                    **cache.inputs(),
                },
                ["logits"],
                cache.outputs(held) if held is not None else None,
            )
        logits = np.asarray(outputs["logits"], np.float32)
        return logits, cache if held is None else Cache.of(self._shape, self.device, held)
