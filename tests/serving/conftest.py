"""A bundle and pictures as the documents of servers and clusters name them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def five_classes(
    tiny_bundle: Path, labelled_folder: Path, photos: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """A bundle, and the folder of its memory's pictures: of five classes, for the documents ask for five candidates."""
    from rar.export.memory.build import MemorySource, build_memory
    from rar.export.pictures.labelled import read_images
    from rar.runtime import Bundle

    folder = tmp_path_factory.mktemp("five")
    shutil.copytree(labelled_folder, folder / "photos")
    (folder / "photos/astronaut").mkdir()
    shutil.copy(next(path for path in photos if path.name == "astronaut.png"), folder / "photos/astronaut")
    shutil.copytree(tiny_bundle, folder / "bundle")
    build_memory(Bundle.open(folder / "bundle"), MemorySource(images=read_images(folder / "photos")), provider="cpu")
    return folder / "bundle", folder / "photos"
