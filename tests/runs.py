"""Training runs, and how they are cut off, for the tests."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest


def log_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@contextmanager
def cut_off(trainer: Any, at: int) -> Iterator[None]:
    """The process is stopped before a step."""
    real = trainer.step

    def step(self: Any, number: int, *rest: Any) -> Any:
        if number == at:
            raise KeyboardInterrupt
        return real(self, number, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "step", step)
        with pytest.raises(KeyboardInterrupt):
            yield
