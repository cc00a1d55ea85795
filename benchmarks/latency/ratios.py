"""How many times better than its baseline in the same run this runtime is, beside what it is to reach."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .. import record
from .rows import block_values
from .turns import Samples
from .work import Contender, Way

_LOWER = ("seconds", "resident_bytes", "p90_ms")

# Times that a figure is to be better than the baseline's: throughput, and p90 by a fifth less; half the memory and a
# fifth of the cold start.
_TIMES: Mapping[Way, float] = {"retrieve": 4.0, "retrieve, fp32": 2.2, "rank": 10.0, "rank, gated": 20.0}
TARGETS: Mapping[Way, Mapping[tuple[str, str], float]] = {
    way: {
        ("offline", "pictures_per_second"): times,
        ("single stream", "p90_ms"): 0.8 * times,
        ("cold start", "seconds"): 5.0,
        ("cold start", "resident_bytes"): 2.0,
    }
    for way, times in _TIMES.items()
}


def ratios(measured: Sequence[tuple[Contender, Samples]], baselines: Mapping[Way, set[str]]) -> list[dict[str, Any]]:
    """The ratios of this runtime to the best of its baselines, figure by figure and block by block.

    Both of a pair stood side by side on the machine, so that a ratio may be steady where neither of its figures is: it
    is judged by its own quartiles.

    Args:
        measured: All contenders.
        baselines: By way, the stacks of which the best counts.

    Returns:
        `path`, `figure`, `against`, `ratio` (above 1 is better), `target` and `reached`: true or false where both
        quartiles are on one side of the target, else None.
    """
    values = [(contender, block_values(samples)) for contender, samples in measured]
    ratios = []
    for contender, ours in values:
        if contender.stack != "rar":
            continue
        for figure, target in TARGETS[contender.way].items():
            lower = figure[1] in _LOWER
            theirs = [
                (float(np.median(other[figure])), peer.stack, other[figure])
                for peer, other in values
                if peer.stack in baselines[contender.way] and other.get(figure)
            ]
            if not theirs or not ours.get(figure):
                continue
            _, stack, best = (min if lower else max)(theirs)
            # A peer that failed later has fewer blocks.
            pairs = list(zip(ours[figure], best, strict=False))
            if len(pairs) < 2:
                continue
            ratio = record.spread([b / a if lower else a / b for a, b in pairs])
            ratios.append(
                {
                    "path": contender.way,
                    "figure": " ".join(figure),
                    "against": stack,
                    "ratio": ratio,
                    "target": target,
                    "reached": _reached(ratio, target),
                }
            )
    return ratios


def _reached(ratio: Mapping[str, float], target: float) -> bool | None:
    if ratio["q25"] >= target:
        return True
    return False if ratio["q75"] < target else None
