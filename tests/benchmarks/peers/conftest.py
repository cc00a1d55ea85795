"""A tiny bundle as the peers see it."""

from __future__ import annotations

from pathlib import Path

import pytest

from rar.benchmarks.peers import stacks
from rar.benchmarks.peers.pytorch import Terms
from rar.runtime import Bundle


@pytest.fixture
def openclip_terms(openclip_pictures: Path, tiny_openclip: tuple[Path, Path], tmp_path: Path) -> Terms:
    """An encoder of open_clip; no pictures to try anything on yet."""
    encoder = ("open_clip", *map(str, tiny_openclip))
    return stacks.terms_of(Bundle.open(openclip_pictures), tmp_path, k=3, threads=1, encoder=encoder)
