"""A bundle of ViT-B/32 with random weights, made in the run: its speed is that of the real one."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from rar.export.labelled import few_shot, read_images

from ..made import made

NAME = "vit-b-32-random"
SOURCE = "open_clip ViT-B-32, random weights (seed 0)"
_SHOTS = 8  # pictures a class in its memory
_BUNDLE, _CHECKPOINT = "bundle", "random.pt"


def build(memory: str, work: Path) -> tuple[str, tuple[str, ...]]:
    """Builds the bundle, int8, unless it is there.

    Args:
        memory: Labelled pictures.
        work: Where it goes.

    Returns:
        The bundle, and what it was exported from; see `pytorch.Terms`.
    """
    from ..retrieve import RANDOM_MODEL

    made(work / NAME, {"memory": memory, "shots": _SHOTS}, partial(_make, memory))
    return str(work / NAME / _BUNDLE), ("open_clip", RANDOM_MODEL, str(work / NAME / _CHECKPOINT))


def _make(memory: str, folder: Path) -> None:
    from rar.export.clip import export_clip
    from rar.export.memory import MemorySource, build_memory
    from rar.export.openclip import load
    from rar.runtime.bundle import Bundle

    from ..retrieve import RANDOM_MODEL, write_random

    checkpoint = write_random(folder)
    export_clip(load(RANDOM_MODEL, str(checkpoint)), folder / _BUNDLE, "int8")
    source = MemorySource(images=few_shot(read_images(memory), _SHOTS, 0))
    build_memory(Bundle.open(folder / _BUNDLE), source, provider="cpu")
