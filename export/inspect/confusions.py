"""Which classes of a memory lie nearest to which, told by its own entries."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from rar.runtime.memory import Memory
from rar.runtime.memory.fit.measure import spread
from rar.runtime.memory.part import Part

# Entries of a class that are looked at, and the classes that are told for each.
_LOOKED_AT = 20
_TOLD = 3
_BLOCK = 1024


@dataclass
class Near:
    """Another class, as a class's entries see it.

    Attributes:
        label: Its name.
        nearest: How many of the entries have it as the nearest other class.
        mistaken: How many of them are nearer to it than to all others of their own class.
        cosine: The highest between entries of both.
    """

    label: str
    nearest: int = 0
    mistaken: int = 0
    cosine: float = -1.0


@dataclass
class Neighbours:
    """What lies around a class.

    Attributes:
        looked_at: How many of its entries were compared.
        near: The nearest other classes, those that it is most mistaken for first.
    """

    looked_at: int = 0
    near: list[Near] = field(default_factory=list)

    @property
    def mistaken(self) -> int:
        """How many entries lie nearer to another class than to the rest of their own."""
        return sum(near.mistaken for near in self.near)


def neighbours(memory: Memory) -> list[Neighbours]:
    """The neighbours of each class, in the order of the memory's labels: by pictures, or by texts where there are none.

    No picture is read: the memory's vectors are compared with each other.
    """
    part, names = _part(memory), memory.labels
    found: list[dict[int, Near]] = [{} for _ in names]
    around = [Neighbours() for _ in names]
    for entry, label, others in _seen(part, len(names)):
        around[label].looked_at += 1
        own = max((cosine for other, owner, cosine in others if owner == label and other != entry), default=None)
        best: dict[int, float] = {}
        for _, owner, cosine in others:
            if owner not in (label, -1):
                best[owner] = max(cosine, best.get(owner, -1.0))
        for place, (owner, cosine) in enumerate(sorted(best.items(), key=lambda one: -one[1])[:_TOLD]):
            near = found[label].setdefault(owner, Near(names[owner]))
            near.cosine = max(near.cosine, cosine)
            if place == 0:
                near.nearest += 1
                near.mistaken += own is not None and cosine > own
    for one, near_by_label in zip(around, found, strict=True):
        order = sorted(near_by_label.values(), key=lambda near: (-near.mistaken, -near.nearest, -near.cosine))
        # Those beyond the limit are kept where entries are mistaken for them: the count must be whole.
        one.near = [near for place, near in enumerate(order) if place < _TOLD or near.mistaken]
    return around


def by_class(part: Part, classes: int) -> list[npt.NDArray[np.int64]]:
    """The entries of each class: int64, in the order of their addition."""
    labels = np.concatenate([part.labels, part.added.labels])
    order = np.argsort(labels, kind="stable")
    return np.split(order, np.searchsorted(labels[order], np.arange(classes + 1)))[1:-1]


def _part(memory: Memory) -> Part:
    parts = memory.parts
    pictures = parts.get("pictures")
    return pictures if pictures is not None and pictures.counts.any() else parts["texts"]


def _seen(part: Part, classes: int) -> Iterator[tuple[int, int, list[tuple[int, int, float]]]]:
    """Of each entry that is looked at: itself, its class, and what is nearest (entry, class, cosine), two a class."""
    entries = [
        (int(there[place]), label)
        for label, there in enumerate(by_class(part, classes))
        for place in spread(len(there), _LOOKED_AT)
    ]
    for start in range(0, len(entries), _BLOCK):
        block = entries[start : start + _BLOCK]
        queries = np.stack([part.vector(entry) for entry, _ in block])
        # Of its own class it finds itself and one more; of each other class up to two.
        ids, cosines = part.nearest(queries, min(2 + 2 * _TOLD, len(part)), cap=2)
        owners = np.where(ids < 0, -1, part.labels_of(np.maximum(ids, 0)))
        for (entry, label), *row in zip(block, ids.tolist(), owners.tolist(), cosines.tolist(), strict=True):
            yield entry, label, list(zip(*row, strict=True))
