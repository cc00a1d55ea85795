"""Shared by all trainings: the order of the samples, the learning rate, and the log."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rar.runtime.bundle.files import atomic_file


class Order:
    """The samples of each step: each epoch has its own order, and a resumed run continues in the same order.

    Args:
        count: The number of samples.
        batch: Samples per step.
        seed: Seed of the orders.
    """

    def __init__(self, count: int, batch: int, seed: int) -> None:
        self._count, self._batch, self._seed = count, batch, seed
        self._epochs: dict[int, npt.NDArray[np.int64]] = {}

    def __call__(self, step: int) -> list[int]:
        """The positions of a step's samples; a batch may reach into the next epoch."""
        places = [divmod(place, self._count) for place in range(step * self._batch, (step + 1) * self._batch)]
        epochs = {epoch for epoch, _ in places}
        self._epochs = {epoch: self._epochs[epoch] if epoch in self._epochs else self._order(epoch) for epoch in epochs}
        return [int(self._epochs[epoch][within]) for epoch, within in places]

    def _order(self, epoch: int) -> npt.NDArray[np.int64]:
        return np.random.default_rng([self._seed, 0, epoch]).permutation(self._count)


def schedule(step: int, steps: int, warmup: float = 0.1) -> float:
    """Linear rise over the first `warmup` of all steps, then half a cosine to 0: a share of the peak."""
    rise = max(1, round(warmup * steps))
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


def append(log: Path, line: Mapping[str, Any]) -> None:
    """Writes one line of a JSONL log."""
    with log.open("a", encoding="utf-8") as out:
        out.write(json.dumps(line) + "\n")


def cut(log: Path, done: int) -> None:
    """Drops the log lines of steps that will be done again."""
    if not done:
        log.unlink(missing_ok=True)
    if not log.exists():
        return
    kept = []
    for line in log.read_text(encoding="utf-8").split("\n"):
        with suppress(ValueError, KeyError, TypeError):  # the last line may be cut off
            if json.loads(line)["step"] <= done:
                kept.append(line + "\n")
    with atomic_file(log) as file:
        file.write("".join(kept).encode())
