"""A run of `rar-bench latency`: its turns, what they have measured so far, and the result file after each scenario."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import product
from typing import Any

import numpy as np
from tqdm import tqdm

from .. import record
from ..peers.stacks import BASELINES
from ..power import Power, try_meter
from .ratios import ratios
from .rows import rows_of
from .turns import Plan, Samples, take_turn
from .work import Contender


class Run:
    """What is measured, and the samples so far.

    Args:
        plan: What every stack is put through.
        contenders: The stacks.
        absent: Rows of those that cannot be opened.
        about: What the result file says of the bundle and the settings.
        threads: Threads of all stacks.
        out: The result file, or None.
    """

    def __init__(
        self,
        plan: Plan,
        contenders: Sequence[Contender],
        absent: Sequence[dict[str, Any]],
        about: Mapping[str, Any],
        threads: int | None,
        out: str | None,
    ) -> None:
        self._plan, self._absent, self._about, self._threads, self._out = plan, absent, about, threads, out
        self._measured = [(contender, Samples()) for contender in contenders]
        self._meter, self._meter_says = try_meter()
        self._powers = [Power(self._meter) if self._meter else None for _ in contenders]
        self._load = record.load()
        self._clocks: list[float] = []

    def measure(self) -> None:
        """Takes all turns.

        Raises:
            RarError: This runtime itself failed.
        """
        if self._load > record.BUSY:
            print(f"the machine is busy (load {self._load:.1f}): figures will be noisy", file=sys.stderr)
        turns = list(product(range(self._plan.blocks), range(len(self._measured))))
        for block, place in tqdm(turns, desc="turns", disable=None):
            contender, samples = self._measured[place]

            def metered(power: Power | None = self._powers[place]) -> AbstractContextManager[Any]:
                return power or nullcontext()

            if samples.error is None:
                take_turn(contender, samples, self._plan, block, metered, self.write)
                self._clocks += _clock()

    def result(self) -> dict[str, Any]:
        """The result file's content, as it is now."""
        rows = []
        for (contender, samples), power in zip(self._measured, self._powers, strict=True):
            measured = rows_of(contender, samples, self._plan)
            for row in measured:
                if power is not None and row["scenario"] == "offline" and samples.offline:
                    row["power"] = power.result(sum(done for done, _ in samples.offline))
            rows += measured
        said = [(contender.stack, one.says) for contender, samples in self._measured for one in samples.started]
        providers = {graph: name for stack, says in said if stack == "rar" for graph, name in says["providers"].items()}
        return {
            "environment": {
                **record.environment(self._threads),
                "clock_mhz": record.spread(self._clocks) if self._clocks else None,
                "load_before": self._load,
            },
            **self._about,
            "encoder": self._about["encoder"] | {"provider": providers.get("clip/visual.onnx")},
            "providers": providers,
            "peers": {stack: says for stack, says in said if stack != "rar"},
            "power": self._meter_says,
            "results": [*rows, *self._absent],
            "ratios": ratios(self._measured, BASELINES),
            "missing": [
                {
                    "stack": contender.stack,
                    "path": contender.way,
                    "scenario": scenario,
                    "blocks": samples.done(scenario),
                }
                for contender, samples in self._measured
                if samples.error is None
                for scenario in self._plan.of(contender.stack)
                if samples.done(scenario) < self._plan.blocks
            ],
        }

    def write(self) -> None:
        """Writes the result file as it is now."""
        if self._out is not None:
            record.write(self.result(), self._out)


def _clock() -> list[float]:
    """The mean clock of the cores in MHz, where the system tells."""
    clocks = [float(clock) for clock in record.cpuinfo("cpu MHz") or ()]
    return [float(np.mean(clocks))] if clocks else []
