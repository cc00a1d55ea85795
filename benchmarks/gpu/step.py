"""One step of the run: a share of the time, a process and a result file of its own."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter, time
from typing import Any, TypeAlias

import numpy as np

from rar.runtime.errors import RarError
from rar.runtime.session.cuda.gpu import find_gpu

from .. import record
from ..power import Power, try_meter

Row: TypeAlias = dict[str, Any]
_WARM_UPS = 3
_GRACE = 5.0  # seconds that a step may take to end after its time


@dataclass(frozen=True)
class Setting:
    """What every step works with.

    Attributes:
        models: Folder of the bundles, one a model of `MODELS`.
        pictures: JPEG files.
        provider: What runs our graphs: `cuda`, or `cpu` for a dry run.
        ends: When the step's time is over, as `time.time()` counts.
        slice: Seconds that each figure is measured for.
    """

    models: Path
    pictures: Sequence[Path]
    provider: str
    ends: float
    slice: float = 1.0

    def left(self) -> float:
        """Seconds until the step's time is over."""
        return self.ends - time()

    @property
    def torch_device(self) -> str:
        """Where the PyTorch baselines run."""
        return "cuda" if self.provider == "cuda" else "cpu"


Run: TypeAlias = Callable[[Setting], Iterator[Row]]


@dataclass
class Timed:
    """Seconds of the calls of one contender, and its power."""

    seconds: list[float] = field(default_factory=list)
    power: Power | None = None

    def row(self, pictures: int) -> Row:
        """The figures of a contender whose calls each answer some pictures."""
        rates = [pictures / value for value in self.seconds]
        row: Row = {
            "milliseconds": record.spread([1e3 * value for value in self.seconds]),
            "pictures_per_second": record.spread(rates),
        }
        if self.power is not None:
            row["power"] = self.power.result(pictures * len(self.seconds))
        return row


def side_by_side(contenders: Mapping[str, Callable[[], Any]], seconds: float, rounds: int = 3) -> dict[str, Timed]:
    """Times contenders in turns, so that a drifting clock favours no contender.

    Args:
        contenders: Name -> a call that returns when its work is done.
        seconds: For each contender, in all.
        rounds: Turns that each takes.
    """
    meter, _ = try_meter()
    timed = {name: Timed(power=Power(meter) if meter else None) for name in contenders}
    for call in contenders.values():
        for _ in range(_WARM_UPS):
            call()
    for _ in range(rounds):
        for name, call in contenders.items():
            with timed[name].power or contextlib.nullcontext():
                ends = perf_counter() + seconds / rounds
                while True:
                    began = perf_counter()
                    call()
                    timed[name].seconds.append(perf_counter() - began)
                    if perf_counter() > ends:
                        break
    return timed


def ratio(ours: Timed, other: Timed) -> dict[str, float]:
    """How many times as fast as another we are: medians, and the nearest and farthest quartiles."""
    (low, middle, high), (least, median, most) = (
        np.percentile(timed.seconds, [25, 50, 75]).tolist() for timed in (ours, other)
    )
    return {"median": median / middle, "least": least / high, "most": most / low}


def run_step(name: str, run: Run, setting: Setting, out: Path) -> Row:
    """Runs a step in a process of its own and says how it ended; its rows are in `out/<name>.json`, one by one.

    A step that crashes or overruns its time is ended, and what it had written stays.
    """
    began = time()
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=_work, args=(name, run, setting, out, tuple(record.command.get())), daemon=False)
    process.start()
    process.join(max(0.0, setting.left()) + _GRACE)
    outcome = "done"
    if process.is_alive():
        process.kill()
        process.join()
        outcome = "stopped at the end of its time"
    elif process.exitcode:
        cause = f"signal {signal.Signals(-process.exitcode).name}" if process.exitcode < 0 else "an error"
        outcome = f"ended by {cause}; see {name}.log"
    return {"step": name, "outcome": outcome, "seconds": time() - began}


def _work(name: str, run: Run, setting: Setting, out: Path, words: Sequence[str]) -> None:
    record.command.set(words)
    log = os.open(out / f"{name}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        os.dup2(log, stream.fileno())
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
    rows: list[Row] = []
    environment = {**record.environment(), "gpu": gpu(), "power": try_meter()[1], "provider": setting.provider}
    for row in run(setting):
        rows.append(row)
        record.write({"environment": environment, "step": name, "results": rows}, str(out / f"{name}.json"))
        print(row, flush=True)


def gpu() -> Row | None:
    """The GPU and the CUDA version of its driver; None where there is no GPU."""
    try:
        here = find_gpu()
    except RarError:
        return None
    return {"name": here.name, "arch": here.arch, "cuda": list(here.cuda), "memory_bytes": here.memory}
