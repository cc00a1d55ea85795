"""Entries added after a part was built; they stay in memory until `compact` folds them in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_ROOM = 64


@dataclass(frozen=True)
class Added:
    """A view of the first `count` rows of growing arrays. Later views share the arrays; earlier views do not change.

    Attributes:
        count: Entries that this view has.
        labels: int32 [count], the class of each entry; -1 for a removed one.
        room: float16 [more than count, d].
        named: The sources of at least `count` entries.
    """

    count: int
    labels: npt.NDArray[np.int32]
    room: npt.NDArray[np.float16]
    named: list[str]

    @classmethod
    def none(cls, dim: int) -> Added:
        """No entries of d dimensions."""
        return cls(0, np.empty(0, np.int32), np.empty((0, dim), np.float16), [])

    @property
    def vectors(self) -> npt.NDArray[np.float16]:
        """float16 [count, d], L2-normalised."""
        return self.room[: self.count]

    @property
    def sources(self) -> Sequence[str]:
        """The source of each entry."""
        return self.named[: self.count]

    def appended(
        self, vectors: npt.NDArray[np.float16], labels: npt.NDArray[np.int32], sources: Sequence[str]
    ) -> Added:
        """A view with more entries. Only the latest view may be appended to, by one thread at a time."""
        count = self.count + len(vectors)
        room = self.room
        if count > len(room):
            room = np.empty((max(_ROOM, 2 * count), room.shape[1]), np.float16)
            room[: self.count] = self.vectors
        room[self.count : count] = vectors
        # Drops what an unfinished call left behind.
        self.named[self.count :] = sources
        return Added(count, np.concatenate([self.labels, labels]), room, self.named)
