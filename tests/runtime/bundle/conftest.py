"""A small bundle for the tests of this folder."""

from pathlib import Path

import pytest
from bundles import write


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A bundle with one component of two files."""
    write(tmp_path / "bundle")
    return tmp_path / "bundle"


@pytest.fixture
def manifest(root: Path) -> Path:
    return root / "bundle.json"
