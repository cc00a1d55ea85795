"""From samples to the rows of a latency result: percentiles where there are enough, spreads, and what is too noisy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from .. import record
from .turns import Plan, Samples, Scenario
from .work import Contender, Way

# A figure, and why there is none or it cannot be trusted.
Figure: TypeAlias = "tuple[dict[str, float] | None, str | None]"

PERCENTILES = {"p50_ms": 50.0, "p90_ms": 90.0, "p99_ms": 99.0}
# So many samples must lie beyond a percentile: 20 in all for p90, 200 for p99.
_BEYOND = 2
_CURVE = (1.0, 5.0, 10.0, 25.0, 50.0, 75.0, 90.0, 95.0, 99.0, 99.9)
# By how much of a figure the quartiles over the blocks may differ; p99 of a few samples moves more.
NOISY = {"p99_ms": 0.5}
NOISY_ELSE = 0.25


def least(percentile: float) -> int:
    """Samples that a percentile needs, so that `_BEYOND` of them lie beyond it."""
    return int(np.ceil(round(_BEYOND * 100 / min(percentile, 100 - percentile), 6)))


def percentile_figure(name: str, blocks: Sequence[Sequence[float]]) -> Figure:
    """A percentile of all samples, with the quartiles of the blocks' own percentiles; milliseconds.

    Args:
        name: As in `PERCENTILES`.
        blocks: Seconds of each block's queries.
    """
    share = PERCENTILES[name]
    count = sum(map(len, blocks))
    if count < least(share):
        return None, f"{name}: too short, {count} samples of {least(share)}"
    value = 1e3 * float(np.percentile(np.concatenate(blocks), share))
    low, high = np.percentile([1e3 * np.percentile(block, share) for block in blocks], [25, 75])
    figure = {"median": value, "q25": min(value, float(low)), "q75": max(value, float(high)), "count": count}
    return _steady(name, figure)


def block_figure(name: str, values: Sequence[float]) -> Figure:
    """A figure that each block gives one value of: their median and quartiles."""
    if len(values) < 2:
        return None, f"{name}: too short, {len(values)} of 2 blocks"
    return _steady(name, record.spread(values))


def _steady(name: str, figure: dict[str, float]) -> Figure:
    limit = NOISY.get(name, NOISY_ELSE)
    apart = (figure["q75"] - figure["q25"]) / figure["median"] if figure["median"] else 0.0
    if apart > limit:
        return None, f"{name}: too noisy, blocks differ by {apart:.0%} where {limit:.0%} are allowed"
    return figure, None


def block_values(samples: Samples) -> dict[tuple[str, str], list[float]]:
    """By scenario and figure, each block's own value: what ratios are made of. Too few samples give none."""
    values = {
        ("cold start", "seconds"): samples.cold,
        ("cold start", "resident_bytes"): [float(one.resident_bytes) for one in samples.started],
        ("offline", "pictures_per_second"): [done / taken for done, taken in samples.offline],
    }
    alone = samples.queries.get("single stream", ())
    if sum(len(block.seconds) for block in alone) >= least(PERCENTILES["p90_ms"]):
        values["single stream", "p90_ms"] = [1e3 * float(np.percentile(block.seconds, 90)) for block in alone]
    return values


def rows_of(contender: Contender, samples: Samples, plan: Plan) -> list[dict[str, Any]]:
    """A contender's rows: the cold start, the warm-up, and one a scenario."""
    if not samples.cold:
        return [
            _row(contender, samples, scenario, {}, None if samples.error else "not reached")
            for scenario in ("cold start", *plan.of(contender.stack))
        ]
    cold = {
        "seconds": block_figure("seconds", samples.cold),
        "resident_bytes": block_figure("resident_bytes", [one.resident_bytes for one in samples.started]),
        "peak_bytes": block_figure("peak_bytes", [one.peak_bytes for one in samples.started]),
    }
    warm = [1e3 * seconds for one in samples.started for seconds in one.warm]
    rows = [
        _row(contender, samples, "cold start", cold),
        _row(contender, samples, "warm-up", {"ms": (record.spread(warm), None) if warm else (None, None)}),
    ]
    return rows + [_scenario(contender, samples, plan, scenario) for scenario in plan.of(contender.stack)]


def _scenario(contender: Contender, samples: Samples, plan: Plan, scenario: Scenario) -> dict[str, Any]:
    done = samples.done(scenario)
    if not done:
        return _row(contender, samples, scenario, {}, "not reached")
    cut = None if done == plan.blocks or samples.error else f"stopped after {done} of {plan.blocks} blocks"
    if scenario == "offline":
        figures = {"pictures_per_second": block_figure("pictures_per_second", _rates(samples.offline))}
        row = _row(contender, samples, scenario, figures, cut)
        by_batch = zip(samples.tried, _rates(samples.tried.values()), strict=True)
        return row | {"batch": samples.batch, "by_batch": {str(size): rate for size, rate in by_batch}}
    if scenario == "server":
        rates = [rate for rate, _ in samples.served]
        figure = block_figure("pictures_per_second", rates)
        if not min(rates):
            figure = None, "pictures_per_second: in a block no rate that was tried held the bound"
        row = _row(contender, samples, scenario, {"pictures_per_second": figure}, cut)
        return row | {"bound_ms": 1e3 * samples.bound, "tried": _tried(samples)}
    blocks = samples.queries[scenario]
    seconds = [block.seconds for block in blocks]
    row = _row(contender, samples, scenario, {name: percentile_figure(name, seconds) for name in PERCENTILES}, cut)
    pooled = np.concatenate(seconds)
    row["percentiles_ms"] = {
        f"{share:g}": 1e3 * float(np.percentile(pooled, share)) for share in _CURVE if len(pooled) >= least(share)
    }
    if scenario == "single stream":
        laps = [stages for block in blocks for stages in block.stages]
        names = dict.fromkeys(name for lap in laps for name in lap)
        row["stages"] = {name: record.spread([1e3 * lap.get(name, 0.0) for lap in laps]) for name in names}
        row["stages_share"] = record.spread([sum(lap.values()) / one for lap, one in zip(laps, pooled, strict=True)])
    return row


def _row(
    contender: Contender, samples: Samples, scenario: str, figures: Mapping[str, Figure], also: str | None = None
) -> dict[str, Any]:
    reasons = [samples.error, also if samples.error is None or figures else None, *(why for _, why in figures.values())]
    return {
        "stack": contender.stack,
        "path": contender.way,
        "scenario": scenario,
        "figures": {name: figure for name, (figure, _) in figures.items()},
        "reason": "; ".join(reason for reason in reasons if reason) or None,
        "stages": None,
    }


def left_out(stack: str, way: Way, plan: Plan, reason: str) -> list[dict[str, Any]]:
    """The rows of a peer that was not opened."""
    return [
        {"stack": stack, "path": way, "scenario": scenario, "figures": {}, "reason": reason, "stages": None}
        for scenario in plan.of(stack)
    ]


def _rates(runs: Any) -> list[float]:
    return [done / taken for done, taken in runs]


def _tried(samples: Samples) -> list[dict[str, Any]]:
    return [
        {
            "block": block,
            "rate": run.rate,
            "p99_ms": 1e3 * run.p99() if run.whole else None,
            "requests": len(run.seconds),
            "held": run.p99() <= samples.bound,
        }
        for block, (_, runs) in enumerate(samples.served)
        for run in runs
    ]
