"""A memory as it is at one time: its classes, their tags, and its parts. A change makes another."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from .changes import Add, Change, Entries, Remove
from .part import Modality, Part


@dataclass(frozen=True)
class Scope:
    """What a search may find.

    Attributes:
        allowed: uint8 [classes], 0 for those it may not; None if it may find all.
        classes: How many classes it can find.
        reach: How many entries of each modality count.
    """

    allowed: npt.NDArray[np.uint8] | None
    classes: int
    reach: Mapping[Modality, int]


@dataclass(frozen=True, eq=False)
class State:
    """Classes and the entries that stand for them.

    Attributes:
        names: The classes' names; entries refer to them by position.
        tags: The classes that have each tag.
        parts: The modalities there are.
        weights: Of the modalities that take part in a search; each is among the parts.
    """

    names: tuple[str, ...]
    tags: Mapping[str, frozenset[str]]
    parts: Mapping[Modality, Part]
    weights: Mapping[Modality, float]

    @property
    def dim(self) -> int:
        """The full dimension d."""
        return int(next(iter(self.parts.values())).vectors.shape[1])

    @cached_property
    def positions(self) -> dict[str, int]:
        """Each class's place among the names."""
        return {name: position for position, name in enumerate(self.names)}

    @cached_property
    def everything(self) -> Scope:
        """The scope of a search without a filter."""
        return Scope(
            None,
            int(np.count_nonzero(self._present)),
            {name: int(self.parts[name].counts.sum()) for name in self.weights},
        )

    @cached_property
    def _present(self) -> npt.NDArray[np.bool_]:
        """Which classes have an entry that a search could find."""
        return np.asarray(np.logical_or.reduce([self.parts[name].counts > 0 for name in self.weights]))

    def scope(self, labels: Collection[str] | None, tags: Collection[str] | None) -> Scope:
        """The classes that are among the labels, if any are given, and have one of the tags, if any are given.

        Raises:
            InputError: There is no such label or tag.
        """
        if labels is None and tags is None:
            return self.everything
        for what, given in (("labels", labels), ("tags", tags)):
            if isinstance(given, str):
                raise InputError(f"{what}={given!r}: give a list of {what}, even of one")
        allowed = np.zeros(len(self.names), np.uint8)
        wanted = [self.position(label) for label in labels] if labels is not None else slice(None)
        allowed[wanted] = 1
        if tags is not None:
            tagged = np.zeros(len(self.names), np.uint8)
            for tag in tags:
                if tag not in self.tags:
                    raise InputError(f"the memory has no tag {tag!r}; it has {', '.join(sorted(self.tags)) or 'none'}")
                tagged[[self.positions[name] for name in self.tags[tag]]] = 1
            allowed &= tagged
        reach = {name: int(self.parts[name].counts[allowed != 0].sum()) for name in self.weights}
        return Scope(allowed, int(np.count_nonzero(self._present & (allowed != 0))), reach)

    def position(self, label: str) -> int:
        """A class's place among the names.

        Raises:
            InputError: There is none of that name.
        """
        position = self.positions.get(label)
        if position is None:
            raise InputError(f"the memory has no class {label!r} ({len(self.names)} others)")
        return position

    def apply(self, change: Change) -> State:
        """The state after a change.

        Raises:
            InputError: It names a class that is not there.
        """
        if isinstance(change, Add):
            return self._add(change.entries)
        if isinstance(change, Remove):
            gone = self.position(change.label)
            tags = {tag: names - {change.label} for tag, names in self.tags.items()}
            return self._move(gone, -1, tags)
        old = self.position(change.old)
        state = self._forget(change.old) if change.forget else self
        tags = {tag: _renamed(names, change.old, change.new) for tag, names in self.tags.items()}
        if change.new in self.positions:
            state = state._move(old, self.position(change.new), tags)
        else:
            names = (*self.names[:old], change.new, *self.names[old + 1 :])
            state = replace(state, names=names, tags=tags)
        return state._add(change.entries)

    def _add(self, entries: Mapping[Modality, Entries]) -> State:
        wanted = dict.fromkeys(label for own in entries.values() for label in own.labels)
        new = [label for label in wanted if label not in self.positions]
        names = (*self.names, *new)
        positions = self.positions | {label: len(self.names) + i for i, label in enumerate(new)}
        parts = {name: part.grown(len(names)) for name, part in self.parts.items()}
        for name, own in entries.items():
            part = parts.get(name) or Part.empty(own.vectors.shape[1], len(names))
            labels = np.array([positions[label] for label in own.labels], np.int32)
            parts[name] = part.appended(own.vectors, labels, own.sources)
        return replace(self, names=names, parts=parts)

    def _move(self, gone: int, target: int, tags: Mapping[str, frozenset[str]]) -> State:
        """Without a class, whose entries go to another one; or go, for target -1."""
        moves = np.arange(len(self.names) + 1, dtype=np.int32)
        moves[gone + 1 :] -= 1
        moves[gone] = moves[target] if target >= 0 else -1
        moves[-1] = -1
        names = (*self.names[:gone], *self.names[gone + 1 :])
        return replace(
            self,
            names=names,
            tags=tags,
            parts={name: part.moved(moves, len(names)) for name, part in self.parts.items()},
        )

    def _forget(self, label: str) -> State:
        """Without the texts that are no more than a class's name."""
        if "texts" not in self.parts:
            return self
        part = self.parts["texts"]
        gone = [entry for entry in part.entries(self.position(label)) if part.source(entry) == label]
        return replace(self, parts={**self.parts, "texts": part.without(gone)}) if gone else self


def _renamed(names: frozenset[str], old: str, new: str) -> frozenset[str]:
    return names - {old} | {new} if old in names else names


def weights_of(text_weight: float) -> dict[Modality, float]:
    """The modalities that take part under a weight of the texts, with theirs."""
    weights: dict[Modality, float] = {"pictures": 1 - text_weight, "texts": text_weight}
    return {name: weight for name, weight in weights.items() if weight > 0}


def misfit(parts: Collection[Modality], text_weight: float) -> str | None:
    """Why a memory of these parts cannot be searched with this weight of its texts; None where it can."""
    if not 0 <= text_weight <= 1:
        return f"text_weight {text_weight} is not between 0 (pictures only) and 1 (texts only)"
    missing = [name for name in weights_of(text_weight) if name not in parts]
    return f"text_weight {text_weight} needs {missing[0]}, of which this memory has none" if missing else None
