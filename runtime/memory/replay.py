"""Applies many changes at once, in time in proportion to them and to the memory, not to their product.

Each class has a number that it keeps: a removed class leaves a gap, a class that is merged into another refers to it,
and a new one gets the next number. The classes are renumbered once, at the end.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from .changes import Add, Change, Drop, Entries, Remove
from .part import Modality, Part

if TYPE_CHECKING:
    from .state import State

_REMOVED = -1


@dataclass
class _Sourced:
    """The entries of a class in one modality.

    Attributes:
        unread: Their numbers, where the source is not read yet.
        read: The numbers of the others by their source.
    """

    unread: list[int] = field(default_factory=list)
    read: dict[str, list[int]] = field(default_factory=dict)


class Replay:
    """The changes of a state so far.

    Args:
        state: The state before.
    """

    def __init__(self, state: State) -> None:
        self._state = state
        self._names: list[str] = list(state.names)
        self._numbers = dict(state.positions)
        # The class that each one became: itself, another, or `_REMOVED`.
        self._became = list(range(len(state.names)))
        self._added: dict[Modality, list[tuple[Entries, list[int]]]] = defaultdict(list)
        self._counts: dict[Modality, int] = {name: len(part) for name, part in state.parts.items()}
        # Entries by class, once one of the modality is to be forgotten; and those that were.
        self._by_class: dict[Modality, dict[int, _Sourced]] = {}
        self._forgotten: dict[Modality, list[int]] = defaultdict(list)
        # The sources of all entries that were added.
        self._sources: dict[Modality, list[str]] = defaultdict(list)
        self._renamed = self._moved = False

    def apply(self, change: Change) -> None:
        """Applies a change.

        Raises:
            InputError: It names an unknown class.
        """
        if isinstance(change, Add):
            self._add(change.entries)
        elif isinstance(change, Remove):
            self._become(change.label, _REMOVED)
        elif isinstance(change, Drop):
            self._forget("pictures", self._number(change.label), change.sources)
        else:
            old = self._number(change.old)
            if change.forget:
                self._forget("texts", old, [self._names[old]])
            if (target := self._numbers.get(change.new)) is not None:
                self._become(change.old, target)
            else:
                del self._numbers[self._names[old]]
                self._names[old] = change.new
                self._numbers[change.new] = old
                self._renamed = True
            self._add(change.entries)

    def state(self) -> State:
        """The state after the changes."""
        final = self._final()
        living = np.flatnonzero(np.array(self._became, np.int64) == np.arange(len(self._became)))
        names = tuple(self._names[number] for number in living.tolist())
        parts = self._parts(final, len(names))
        tags = self._state.tags
        if self._renamed or self._moved:
            position = self._state.positions
            tags = {
                tag: frozenset(names[new] for name in tagged if (new := int(final[position[name]])) >= 0)
                for tag, tagged in tags.items()
            }
        return replace(self._state, names=names, tags=tags, parts=parts)

    def _number(self, label: str) -> int:
        number = self._numbers.get(label)
        if number is None:  # the state says what is wrong, or by what other name it knows the class
            state = self.state()
            number = self._numbers[state.names[state.position(label)]]
        return number

    def _add(self, additions: Mapping[Modality, Entries]) -> None:
        for name, entries in additions.items():
            for label in entries.labels:
                if label not in self._numbers:
                    self._numbers[label] = len(self._names)
                    self._became.append(len(self._names))
                    self._names.append(label)
            own = [self._numbers[label] for label in entries.labels]
            first = self._counts.setdefault(name, 0)
            self._counts[name] += len(own)
            self._added[name].append((entries, own))
            self._sources[name] += entries.sources
            if (by_class := self._by_class.get(name)) is not None:
                for offset, number in enumerate(own):
                    by_class[number].unread.append(first + offset)

    def _become(self, label: str, target: int) -> None:
        """Removes a class; its entries become those of the target, or are removed too."""
        number = self._number(label)
        del self._numbers[self._names[number]]
        self._became[number] = target
        self._moved = True
        for by_class in self._by_class.values():
            entries = by_class.pop(number, _Sourced())
            if target != _REMOVED:
                by_class[target] = _joined(by_class.pop(target, _Sourced()), entries)

    def _forget(self, name: Modality, number: int, sources: Iterable[str]) -> None:
        """Removes the entries of a class that have one of some sources."""
        if name not in self._counts:
            return
        if name not in self._by_class:
            self._by_class[name] = self._entries(name)
        entries = self._by_class[name][number]
        for entry in entries.unread:
            entries.read.setdefault(self._source(name, entry), []).append(entry)
        entries.unread.clear()
        for source in sources:
            self._forgotten[name] += entries.read.pop(source, ())

    def _source(self, name: Modality, entry: int) -> str:
        part = self._state.parts.get(name)
        added = entry - (0 if part is None else len(part))
        return self._sources[name][added] if part is None or added >= 0 else part.source(entry)

    def _entries(self, name: Modality) -> dict[int, _Sourced]:
        """The present entries of each class in a modality."""
        found: dict[int, _Sourced] = defaultdict(_Sourced)
        labels = [number for _, own in self._added[name] for number in own]
        if (part := self._state.parts.get(name)) is not None:
            labels = [*part.labels.tolist(), *part.added.labels.tolist(), *labels]
        final = [self._last(number) for number in range(len(self._became))]
        for entry, label in enumerate(labels):
            if label >= 0 and final[label] >= 0:
                found[final[label]].unread.append(entry)
        return found

    def _last(self, number: int) -> int:
        """What a class became in the end: a living class, or `_REMOVED`."""
        way = []
        while number != _REMOVED and self._became[number] != number:
            way.append(number)
            number = self._became[number]
        for passed in way:  # so that no way is gone twice
            self._became[passed] = number
        return number

    def _final(self) -> npt.NDArray[np.int32]:
        """int32 [numbers + 1], the position of each class after the changes; -1 for a removed one, and the last."""
        became = np.array([self._last(number) for number in range(len(self._became))] + [_REMOVED], np.int64)
        living = became[:-1] == np.arange(len(became) - 1)
        places = np.append(np.cumsum(living) - 1, _REMOVED)
        return places[became].astype(np.int32)

    def _parts(self, final: npt.NDArray[np.int32], classes: int) -> dict[Modality, Part]:
        numbers = len(self._became)
        parts: dict[Modality, Part] = {name: part.grown(numbers) for name, part in self._state.parts.items()}
        for name, additions in self._added.items():
            if not additions:
                continue
            part = parts.get(name) or Part.empty(additions[0][0].vectors.shape[1], numbers)
            vectors = np.concatenate([entries.vectors for entries, _ in additions])
            labels = np.array([number for _, own in additions for number in own], np.int32)
            parts[name] = part.appended(
                vectors, labels, [source for entries, _ in additions for source in entries.sources]
            )
        for name, forgotten in self._forgotten.items():
            if forgotten:
                parts[name] = parts[name].without(forgotten)
        if self._moved:
            parts = {name: part.moved(final, classes) for name, part in parts.items()}
        return parts


def _joined(one: _Sourced, other: _Sourced) -> _Sourced:
    """The entries of both; the smaller one is moved, so that an entry is moved only a few times in all."""
    if len(one.read) + len(one.unread) < len(other.read) + len(other.unread):
        one, other = other, one
    one.unread += other.unread
    for source, entries in other.read.items():
        one.read.setdefault(source, []).extend(entries)
    return one


def replayed(state: State, changes: Iterable[Change]) -> State:
    """The state after all changes, in order.

    Raises:
        InputError: A change names an unknown class.
    """
    replay = Replay(state)
    for change in changes:
        replay.apply(change)
    return replay.state()
