"""How far a session's outputs are from fp32, and the limits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from .runs import Run

Array: TypeAlias = npt.NDArray[np.generic]


@dataclass(frozen=True)
class Limit:
    """Least cosines to fp32.

    Attributes:
        worst: The least cosine of any row.
        mean: The least mean over the rows of an output.
    """

    worst: float
    mean: float

    def __str__(self) -> str:
        return f"{self.worst:g} and {self.mean:g}"


# fp32 differs by summation order only. `rar-bench accuracy` measures what fewer bits cost in accuracy; these limits
# catch a broken quantisation, a saturating kernel and a miscompiled engine.
LIMITS: Mapping[str, Limit] = {
    "fp32": Limit(0.9999, 0.9999),
    "fp16": Limit(0.999, 0.9995),
    "bf16": Limit(0.99, 0.995),
    "int8": Limit(0.90, 0.98),
    "fp8": Limit(0.90, 0.98),
    "int4": Limit(0.80, 0.90),
}


@dataclass(frozen=True)
class Measured:
    """Cosines of a graph's outputs to fp32's, row by row.

    Attributes:
        worst: The lowest cosine; NaN if an output is absent, not finite or has another shape.
        mean: The lowest mean of an output.
        count: Rows of all outputs.
        output: The output with the lowest cosine.
    """

    worst: float
    mean: float
    count: int
    output: str

    def within(self, limit: Limit) -> bool:
        """Whether the cosines are within the limit; NaN is not."""
        return self.worst >= limit.worst and self.mean >= limit.mean

    def __str__(self) -> str:
        return f"cosine min {self.worst:.5f} ({self.output}), mean {self.mean:.5f} over {self.count} rows"


class Runs(Protocol):
    """The part of a `Session` that a comparison needs."""

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str] | None = None) -> Mapping[str, Array]:
        """See `Session`."""
        ...


def measure(session: Runs, runs: Iterable[Run]) -> Measured:
    """Runs a graph on stored inputs and compares."""
    return compare((run, session.run(run.inputs, list(run.outputs))) for run in runs)


def compare(pairs: Iterable[tuple[Run, Mapping[str, Array]]]) -> Measured:
    """Compares stored outputs with computed ones; each entry of an output's first dimension is a row.

    Args:
        pairs: Runs, and the computed outputs of each.
    """
    rows: dict[str, list[npt.NDArray[np.float64]]] = {}
    for run, actual in pairs:
        for name, expected in run.outputs.items():
            rows.setdefault(name, []).append(_cosines(expected, actual.get(name), run.strides.get(name, 1)))
    joined = {name: np.concatenate(parts) for name, parts in rows.items()}
    # An output without elements is ignored. np.min and a sort both put NaN first, as needed here.
    known = {name: cosines for name, cosines in joined.items() if len(cosines)}
    if not known:
        return Measured(float("nan"), float("nan"), 0, "nothing was compared")
    lows = {name: float(cosines.min()) for name, cosines in known.items()}
    output = next((name for name, low in lows.items() if low != low), min(lows, key=lambda name: lows[name]))
    mean = float(np.min([cosines.mean() for cosines in known.values()]))
    return Measured(lows[output], mean, sum(map(len, known.values())), output)


def _cosines(expected: Array, actual: Array | None, stride: int) -> npt.NDArray[np.float64]:
    """The cosine of each row: float64 [N]; [1] of NaN if the two cannot be compared."""
    unlike = np.full(1, np.nan)
    if actual is None or actual.ndim != expected.ndim:
        return unlike
    actual = actual[..., ::stride]
    if actual.shape != expected.shape:
        return unlike
    if not expected.size:
        return np.empty(0)
    a, b = (np.asarray(values, np.float64).reshape(len(expected), -1) for values in (expected, actual))
    if not np.isfinite(b).all():
        return unlike
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    # Rows of zeros have no direction: they equal each other and nothing else.
    same = (a == b).all(1)
    return np.asarray(np.where(same, 1.0, (a * b).sum(1) / np.where(norms > 0, norms, np.inf)), np.float64)
