"""What GRAIN's tests share."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from PIL import Image
from tiny_grain import MICRO, Squares

from rar.export.grain.config import SIZES, GrainConfig
from rar.export.grain.model import Grain


@pytest.fixture(scope="session", autouse=True)
def _known_size() -> Iterator[None]:
    """`micro` is a size like any other while these tests run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(cast("dict[str, GrainConfig]", SIZES), "micro", MICRO)
        yield


@pytest.fixture
def network() -> Grain:
    """Of seeded random weights, in eval mode."""
    import torch

    torch.manual_seed(0)
    return Grain(MICRO).eval()


@pytest.fixture
def squares() -> Squares:
    return Squares()


@pytest.fixture
def annotated(tmp_path: Path) -> Callable[..., Path]:
    """Writes squares as files with their annotations; changes lines by a function of their rows."""

    def write(count: int = 10, change: Callable[[int, dict[str, Any]], None] | None = None) -> Path:
        folder = tmp_path / "annotated"
        folder.mkdir(exist_ok=True)
        lines = []
        for place in range(count):
            example = Squares().example(place)
            Image.fromarray(example.pixels).save(folder / f"{place}.png")
            boxes = [
                {"box": box, "description": text}
                for box, text in zip(example.boxes.tolist(), example.descriptions, strict=True)
            ]
            row: dict[str, Any] = {"path": f"{place}.png", "caption": example.caption, "boxes": boxes}
            if change is not None:
                change(place, row)
            lines.append(json.dumps(row) + "\n")
        (folder / "a.jsonl").write_text("".join(lines))
        return folder / "a.jsonl"

    return write
