"""The settings that `rar-export tune` fitted on held-out pictures and stored with the memory."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

from ..errors import BundleError
from ..memory.strangers import Strangers
from .protocol import Rank, RankerOptions, Weights
from .rankers import RANKERS

GateBy: TypeAlias = Literal["similarity", "fused"]

# Earlier releases kept a ranker from harm by a weight of the similarity that left nothing of its scores.
_NOTHING_LEFT = 1e9
# A larger one has no place in the float32 of the scores.
_LARGEST_FUSION = 1e30


_ALONE = Weights()


@dataclass(frozen=True)
class Fused:
    """How scores are added up, and what of them.

    Attributes:
        weights: What counts beside the score.
        sharpness: The final score times this is a log-probability; None if that was not fitted.
    """

    weights: Weights = _ALONE
    sharpness: float | None = None


_UNFITTED = Fused()


@dataclass(frozen=True)
class Tuning:
    """Fitted settings of one ranker; they are valid only for that ranker with the same options.

    Attributes:
        rank: The ranker's name.
        options: The ranker's settings; None for one that this release does not know.
        fused: How its scores, the similarity and the discriminant's evidence are added up; None where it gains nothing
            and is not used.
        first: The same of the discriminant's evidence and the similarity, before the ranker; None where no discriminant
            took part.
        alone: Whether that is because the discriminant gains nothing.
        unused: The rankers that gain nothing however they are set.
        retrieval: The similarity times this is a log-probability; None if that was not fitted.
        gate: The margin from which gate="unsure" skips the ranker; None if no gate was fitted.
        gate_by: The kind of margin: best `similarity` minus second-best, or that of the `fused` score of similarity
            and evidence.
        strangers: How pictures of no class are told, whatever ranks; None where held-out pictures did not show it.
    """

    rank: str
    options: RankerOptions | None = None
    fused: Fused | None = _UNFITTED
    first: Fused | None = None
    alone: bool = False
    unused: tuple[Rank, ...] = ()
    retrieval: float | None = None
    gate: float | None = None
    gate_by: GateBy = "similarity"
    strangers: Strangers | None = None

    @property
    def fusion(self) -> float | None:
        """Weight of the similarity beside the ranker's scores; None where the ranker is not used."""
        return None if self.fused is None else self.fused.weights.similarity

    @classmethod
    def of(cls, stored: Any) -> Tuning | None:
        """Reads `tune` of a `MemoryInfo`; None if the bundle was not tuned.

        Raises:
            BundleError: The entry is malformed.
        """
        if stored is None:
            return None
        try:
            rank = str(stored["rank"])
            options = RANKERS[rank].options.of(stored) if rank in RANKERS else None
            fused = _fused(stored) if stored.get("fusion", 0.0) is not None else None
            first = None if stored.get("first") is None else _fused(stored["first"])
            alone, unused = bool(stored.get("alone", False)), tuple(map(str, stored.get("unused", ())))
            retrieval = _positive(stored.get("retrieval"))
            gate = None if stored.get("gate") is None else float(stored["gate"])
            gate_by = stored.get("gate_by", "similarity")
            if gate_by == "probe":  # a classifier for the gate alone, which earlier releases fitted
                gate, gate_by = None, "similarity"
            strangers = None if stored.get("unknown") is None else Strangers.of(stored["unknown"])
            if (gate is not None and math.isnan(gate)) or gate_by not in get_args(GateBy):
                raise ValueError(f"gate {gate} or gate_by {gate_by!r} cannot be")
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise BundleError(f"the memory's tune is malformed ({error!r}); run `rar-export tune` again") from error
        if fused is not None and fused.weights.similarity >= _NOTHING_LEFT:
            fused = None
        if fused is None and rank not in unused:
            unused = (*unused, rank)
        return cls(rank, options, fused, first, alone, unused, retrieval, gate, gate_by, strangers)

    def stored(self) -> dict[str, Any]:
        """What `of` reads."""
        return {
            "rank": self.rank,
            **({} if self.options is None else self.options.stored()),
            **({"fusion": None} if self.fused is None else _stored(self.fused)),
            "first": None if self.first is None else _stored(self.first),
            "alone": self.alone,
            "unused": list(self.unused),
            "retrieval": self.retrieval,
            "gate": self.gate,
            "gate_by": self.gate_by,
            "unknown": None if self.strangers is None else self.strangers.stored(),
        }

    def fits(self, rank: str, options: RankerOptions | None) -> bool:
        """Whether it was fitted for a ranker with these settings, or with some that make no difference."""
        if self.rank != rank or self.options is None or options is None:
            return False
        return self.options.same(options)


def _fused(stored: Mapping[str, Any]) -> Fused:
    weights = Weights(float(stored.get("fusion", 0.0)), float(stored.get("discriminant", 0.0)))
    if not (0 <= weights.similarity < _LARGEST_FUSION and 0 <= weights.discriminant < _LARGEST_FUSION):
        raise ValueError(f"{weights} cannot be")
    return Fused(weights, _positive(stored.get("sharpness")))


def _positive(value: Any) -> float | None:
    if value is not None and not 0 < float(value) < math.inf:
        raise ValueError(f"the sharpness {value} cannot be")
    return None if value is None else float(value)


def _stored(fused: Fused) -> dict[str, Any]:
    weights = fused.weights
    return {"fusion": weights.similarity, "discriminant": weights.discriminant, "sharpness": fused.sharpness}
