"""What `rar-export tune` fitted on held-out pictures and stored with the memory."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

from .errors import BundleError
from .grain import GrainOptions
from .mllm.ranker import MllmOptions

GateBy: TypeAlias = Literal["similarity", "probe"]


@dataclass(frozen=True)
class Tuning:
    """Fitted settings of one ranker; they hold for that ranker, as it was set then, and no other.

    Attributes:
        rank: The ranker's name.
        mllm: The MLLM ranker's settings; None for another ranker.
        grain: The GRAIN ranker's settings; None for another ranker.
        fusion: Weight w of the final score, (rank score + w * similarity) / (1 + w).
        gate: The margin from which ranking is left out under gate="unsure"; None where none was fitted.
        gate_by: Whose margin: the best `similarity` less the second-best, or the `probe`'s (`Probe.margins`).
    """

    rank: str
    mllm: MllmOptions | None = None
    grain: GrainOptions | None = None
    fusion: float = 0.0
    gate: float | None = None
    gate_by: GateBy = "similarity"

    @classmethod
    def from_info(cls, info: Mapping[str, Any]) -> Tuning | None:
        """Reads `tune` in the info of a bundle's memory; None where there is none.

        Raises:
            BundleError: It is malformed.
        """
        if (stored := info.get("tune")) is None:
            return None
        try:
            rank = str(stored["rank"])
            options = MllmOptions(stored["mode"], stored.get("debias", MllmOptions.debias)) if rank == "mllm" else None
            grain = GrainOptions(float(stored["alpha"])) if rank == "grain" else None
            fusion = float(stored.get("fusion", 0.0))
            gate = None if stored.get("gate") is None else float(stored["gate"])
            gate_by = stored.get("gate_by", "similarity")
            if not 0 <= fusion < math.inf or (gate is not None and math.isnan(gate)) or gate_by not in get_args(GateBy):
                raise ValueError(f"fusion {fusion}, gate {gate} or gate_by {gate_by!r} cannot be")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise BundleError(f"the memory's tune is malformed ({error!r}); run `rar-export tune` again") from error
        return cls(rank, options, grain, fusion, gate, gate_by)

    def fits(self, rank: str, options: MllmOptions | GrainOptions | None) -> bool:
        """Whether it was fitted for a ranker with these settings; only `choice` looks at `debias`."""
        if self.rank == rank and self.mllm is not None and isinstance(options, MllmOptions):
            return self.mllm == options or self.mllm.mode == options.mode != "choice"
        return self.rank == rank and self.grain in (None, options)
