"""How many times better than its baseline in the same run this runtime is, beside what it is to reach."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .. import record
from .rows import block_values
from .turns import Samples
from .work import Contender, Way

_LOWER = ("seconds", "resident_bytes", "p90_ms")

# Times that a figure is to be better than the baseline's: throughput, and p90 by a fifth less; half the memory and a
# fifth of the cold start.
_TIMES: Mapping[Way, float] = {"retrieve": 3.0, "rank": 10.0, "rank, gated": 20.0}
TARGETS: Mapping[Way, Mapping[tuple[str, str], float]] = {
    way: {
        ("offline", "pictures_per_second"): times,
        ("single stream", "p90_ms"): 0.8 * times,
        ("cold start", "seconds"): 5.0,
        ("cold start", "resident_bytes"): 2.0,
    }
    for way, times in _TIMES.items()
}


def ratios(
    measured: Sequence[tuple[Contender, Samples]], rows: Sequence[Mapping[str, Any]], baselines: Mapping[Way, set[str]]
) -> list[dict[str, Any]]:
    """The ratios of this runtime to the best of its baselines, figure by figure and block by block.

    Args:
        measured: All contenders.
        rows: Their rows; a figure that is missing there has no ratio.
        baselines: By way, the stacks of which the best counts.

    Returns:
        `path`, `figure`, `against`, `ratio` (above 1 is better), `target` and `reached`.
    """
    known = {(row["stack"], row["path"], row["scenario"]): row["figures"] for row in rows}
    found = []
    for contender, samples in measured:
        if contender.stack != "rar":
            continue
        for (scenario, name), target in TARGETS[contender.way].items():
            ours = known.get(("rar", contender.way, scenario), {}).get(name)
            theirs = [
                (figure["median"], other)
                for other in measured
                if other[0].stack in baselines[contender.way]
                and (figure := known.get((other[0].stack, other[0].way, scenario), {}).get(name))
            ]
            if ours is None or not theirs:
                continue
            pick = min if name in _LOWER else max
            _, (peer, other_samples) = pick(theirs, key=lambda one: float(one[0]))
            # A peer that failed later has fewer blocks.
            pairs = list(
                zip(block_values(samples)[scenario, name], block_values(other_samples)[scenario, name], strict=False)
            )
            ratio = record.spread([b / a if name in _LOWER else a / b for a, b in pairs])
            found.append(
                {
                    "path": contender.way,
                    "figure": f"{scenario} {name}",
                    "against": peer.stack,
                    "ratio": ratio,
                    "target": target,
                    "reached": ratio["median"] >= target,
                }
            )
    return found
