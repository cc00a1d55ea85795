"""A memory at one time: its classes, their tags, and its parts. It is immutable: a change makes a new state."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from .changes import Change
from .discriminant import Discriminant, Fit
from .names import composed
from .part import Modality, Part
from .replay import replayed

# Candidates where no number is asked for and there are as many classes.
USUAL_K = 5


@dataclass(frozen=True)
class Scope:
    """What a search may find.

    Attributes:
        allowed: uint8 [classes], 0 for excluded classes; None if all are allowed.
        classes: How many classes it can find.
        reach: How many entries of each modality count.
    """

    allowed: npt.NDArray[np.uint8] | None
    classes: int
    reach: Mapping[Modality, int]

    def check_k(self, k: int | None) -> int:
        """The number of candidates for k: itself, or for None 5, or all classes of fewer.

        Raises:
            InputError: k is below 1 or above the number of classes.
        """
        if k is None:
            k = max(1, min(USUAL_K, self.classes))
        if not 1 <= k <= self.classes:
            allowed = "the memory holds" if self.allowed is None else "the filter leaves"
            raise InputError(f"k={k}, but {allowed} {self.classes} classes; choose 1 to {self.classes}")
        return k


@dataclass(frozen=True, eq=False)
class State:
    """Classes and the entries that represent them.

    Attributes:
        names: The classes' names; entries refer to them by position.
        tags: The classes that have each tag.
        parts: The memory's modalities.
        weights: The weights of the modalities that take part in a search; each has a part.
        fit: The discriminant of the built pictures; None where none was fitted.
    """

    names: tuple[str, ...]
    tags: Mapping[str, frozenset[str]]
    parts: Mapping[Modality, Part]
    weights: Mapping[Modality, float]
    fit: Fit | None = None

    @property
    def dim(self) -> int:
        """The full dimension d."""
        return int(next(iter(self.parts.values())).vectors.shape[1])

    @cached_property
    def positions(self) -> dict[str, int]:
        """The position of each class among the names."""
        return {name: position for position, name in enumerate(self.names)}

    def known(self, name: str) -> str | None:
        """The class of this name as the memory writes it, composed or not; None if there is none."""
        if name in self.positions or not isinstance(name, str):
            return name if name in self.positions else None
        name = composed(name)
        return name if name in self.positions else self._decomposed.get(name)

    @cached_property
    def _decomposed(self) -> dict[str, str]:
        """Names as earlier releases wrote them, by their composed form."""
        return {whole: name for name in self.names if (whole := composed(name)) != name}

    @cached_property
    def discriminant(self) -> Discriminant | None:
        """The discriminant of the present classes; None where none was fitted."""
        if self.fit is None or "pictures" not in self.parts:
            return None
        return Discriminant(self.fit, self.parts["pictures"], self.positions)

    @cached_property
    def everything(self) -> Scope:
        """The scope of a search without a filter."""
        return Scope(
            None,
            int(np.count_nonzero(self.present)),
            {name: int(self.parts[name].counts.sum()) for name in self.weights},
        )

    @cached_property
    def present(self) -> npt.NDArray[np.bool_]:
        """Which classes have an entry that a search could find."""
        return np.asarray(np.logical_or.reduce([self.parts[name].counts > 0 for name in self.weights]))

    def scope(self, labels: Collection[str] | None, tags: Collection[str] | None, *, missing_ok: bool = False) -> Scope:
        """The classes among the given labels that have one of the given tags; None selects all.

        Raises:
            InputError: A label or tag is unknown, unless `missing_ok`.
        """
        if labels is None and tags is None:
            return self.everything
        for what, given in (("labels", labels), ("tags", tags)):
            if isinstance(given, str):
                raise InputError(f"{what}={given!r}: give a list of {what}, even of one")
        allowed = np.zeros(len(self.names), np.uint8)
        if labels is not None and missing_ok:
            labels = [label for label in labels if label in self.positions]
        wanted = [self.position(label) for label in labels] if labels is not None else slice(None)
        allowed[wanted] = 1
        if tags is not None:
            tagged = np.zeros(len(self.names), np.uint8)
            for given in tags:
                tag = composed(given) if isinstance(given, str) and given not in self.tags else given
                if tag not in self.tags:
                    if missing_ok:
                        continue
                    raise InputError(f"the memory has no tag {tag!r}; it has {', '.join(sorted(self.tags)) or 'none'}")
                tagged[[self.positions[name] for name in self.tags[tag]]] = 1
            allowed &= tagged
        reach = {name: int(self.parts[name].counts[allowed != 0].sum()) for name in self.weights}
        return Scope(allowed, int(np.count_nonzero(self.present & (allowed != 0))), reach)

    def position(self, label: str) -> int:
        """The position of a class among the names.

        Raises:
            InputError: The class is unknown.
        """
        known = self.known(label)
        if known is None:
            raise InputError(
                f"the memory has no class {label!r} ({len(self.names)} others)"
                "; `rar-export inspect` with --html lists them"
            )
        return self.positions[known]

    def apply(self, *changes: Change) -> State:
        """The state after some changes, in order.

        Raises:
            InputError: A change names an unknown class.
        """
        return replayed(self, changes)


def weights_of(text_weight: float) -> dict[Modality, float]:
    """The weights of the modalities that take part, given the texts' weight."""
    weights: dict[Modality, float] = {"pictures": 1 - text_weight, "texts": text_weight}
    return {name: weight for name, weight in weights.items() if weight > 0}


def misfit(parts: Collection[Modality], text_weight: float) -> str | None:
    """Why a memory of these parts cannot be searched with this weight of its texts; None if it can."""
    if not 0 <= text_weight <= 1:
        return f"text_weight {text_weight} is not between 0 (pictures only) and 1 (texts only)"
    missing = [name for name in weights_of(text_weight) if name not in parts]
    return f"text_weight {text_weight} needs {missing[0]}, of which this memory has none" if missing else None
