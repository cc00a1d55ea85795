"""What stands before a picture's question: the head, exemplars of its candidates, the picture.

Keys and values can be reused only of an exact prefix. Exemplars stand in the candidates' order, so pictures share them
where they have the same candidates in the same order, with the same nearest pictures: frames of one scene, or what is
asked again. What was met before, or twice in a batch, is computed once and kept; the others lie in their pictures'
rows, where a batch costs least.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from threading import Lock

import numpy as np
import numpy.typing as npt

from ..protocol import Query
from .decoder import NO_PICTURES, HeadPictures
from .exemplars import Exemplars
from .prompt import Mode, Prompt
from .tree import PICTURE, shared

Floats = npt.NDArray[np.float32]

# Openings that are recognised when they come again.
_RECENT = 64


@dataclass(frozen=True)
class Opening:
    """What precedes one picture's question.

    Attributes:
        head: The ids whose keys and values are kept.
        before: The exemplars in the head.
        ids: The ids from there to the question.
        exemplars: Gives the exemplars in these, each float32 [T, D].
    """

    head: Sequence[int]
    before: HeadPictures
    ids: Sequence[int]
    exemplars: Callable[[], Sequence[Floats]] = tuple


class Openings:
    """Makes the openings of pictures, with `count` exemplars a candidate.

    Args:
        prompt: The prompt format; with exemplars that `of_several`.
        mode: The mode.
        kept: Where exemplars come from; None for names alone.
        count: How many a candidate; those whose class has none appear by name only.
    """

    def __init__(self, prompt: Prompt, mode: Mode, kept: Exemplars | None = None, count: int = 0) -> None:
        self._prompt, self._mode, self._kept, self._count = prompt, mode, kept, count
        self._head, self._picture = prompt.head(mode), prompt.picture(mode)
        self._recent: OrderedDict[tuple[object, ...], None] = OrderedDict()
        self._guard = Lock()

    def of(self, queries: Sequence[Query]) -> list[Opening]:
        """One opening a picture.

        Raises:
            BundleError: The exemplars are not the encoder's.
        """
        if self._kept is None:
            return [Opening(self._head, NO_PICTURES, self._picture)] * len(queries)
        made = [self._with_exemplars(query, self._kept) for query in queries]
        again = self._again([(*rows, *ids[:end]) for ids, end, rows in made])
        # A tokenizer may join the head's last text with what follows.
        begin = shared([self._head, *(ids for ids, _, _ in made)], len(self._head)) if made else 0
        openings = []
        for (ids, end, rows), known in zip(made, again, strict=True):
            # Read where they are needed: those of a whole batch may be more than memory holds.
            embeds = partial(_embeds, self._kept, rows)
            if known and rows:
                openings.append(Opening(ids[:end], HeadPictures(rows, embeds), ids[end:]))
            else:
                openings.append(Opening(ids[:begin], NO_PICTURES, ids[begin:], embeds))
        return openings

    def _with_exemplars(self, query: Query, kept: Exemplars) -> tuple[list[int], int, tuple[int, ...]]:
        """The ids of the whole opening, where its exemplars end, and which these are."""
        nearest = [
            (candidate.label, row)
            for candidate in query.candidates
            for row in kept.nearest(candidate.label, query.embedding, self._count)
        ]
        ids = self._prompt.opening(self._mode, [label for label, _ in nearest])
        spots = [place for place, token in enumerate(ids) if token == PICTURE]
        end = spots[len(nearest) * self._prompt.image_tokens - 1] + 1 if nearest else 0
        return ids, end, tuple(row for _, row in nearest)

    def _again(self, keys: Sequence[tuple[object, ...]]) -> list[bool]:
        """Which of them were met before or are there twice; all are from now on."""
        counts = Counter(keys)
        with self._guard:
            known = [key in self._recent or counts[key] > 1 for key in keys]
            for key in keys:
                self._recent[key] = None
                self._recent.move_to_end(key)
            while len(self._recent) > _RECENT:
                self._recent.popitem(last=False)
        return known


def _embeds(kept: Exemplars, rows: Sequence[int]) -> list[Floats]:
    return [kept.embeds(row) for row in rows]


def by_head(openings: Sequence[Opening], which: Sequence[int]) -> Iterator[list[int]]:
    """Those of the openings that have one head, in turn."""
    groups: dict[tuple[tuple[int, ...], tuple[int, ...]], list[int]] = {}
    for place in which:
        one = openings[place]
        groups.setdefault((tuple(one.head), one.before.names), []).append(place)
    yield from groups.values()
