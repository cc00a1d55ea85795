"""This runtime as a stack of `rar-bench latency`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rar.runtime.loop import Gate
from rar.runtime.rank.protocol import Rank
from rar.runtime.recognizer import Recognizer
from rar.runtime.session import Options

from .work import Opened, Way

_BATCHES = (1, 8, 16, 32)


@dataclass(frozen=True)
class Settings:
    """How a bundle is opened and asked."""

    bundle: str
    provider: str
    rank: Rank
    k: int
    threads: int | None
    options: Options | None = None


def open_ours(settings: Settings, way: Way) -> Opened:
    """Opens the bundle.

    Raises:
        RarError: It cannot be opened, or a picture cannot be read.
    """
    recognizer = Recognizer.open(settings.bundle, settings.provider, threads=settings.threads, options=settings.options)
    rank: Rank = "none" if way.startswith("retrieve") else settings.rank
    gate: Gate = "unsure" if way == "rank, gated" else "off"

    def answer(pictures: Sequence[Path], batch: int) -> list[str | None]:
        labels = []
        for result in recognizer.stream(pictures, k=settings.k, rank=rank, batch_size=batch, gate=gate):
            if result.error is not None:
                raise result.error
            labels.append(result.label)
        return labels

    def says() -> Mapping[str, Any]:
        return {"provider": recognizer.provider, "providers": dict(recognizer.clip.sessions.running)}

    return Opened(answer, _BATCHES, says=says)
