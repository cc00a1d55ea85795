"""Labelled pictures to measure on: a folder, a CSV or JSONL, or a data set of the `datasets` package."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from rar.export.pictures.labelled import LabelledImage, read_images
from rar.runtime.errors import InputError

_PREFIX = "hf:"
SOURCES = "a folder with a sub-folder a class, a .csv or .jsonl, or hf:NAME:SPLIT (a hub name or a folder)"


@dataclass(frozen=True)
class Pictures:
    """Labelled pictures.

    Attributes:
        root: The folder that paths in a result are relative to.
        images: The pictures.
    """

    root: Path
    images: list[LabelledImage]

    def name(self, image: LabelledImage) -> str:
        """A picture's path from the root, or its file's name if it lies elsewhere."""
        return relative(image.path, self.root)


def relative(path: Path, root: Path) -> str:
    """A path from the root, with slashes, or its last part if it lies elsewhere."""
    try:
        return path.resolve().relative_to(root.resolve()).as_posix()
    except ValueError:
        return path.name


def read(source: str, scratch: Path) -> Pictures:
    """Reads labelled pictures.

    Args:
        source: See `SOURCES`.
        scratch: A folder for the pictures of a data set that stores them in tables; they are written unchanged.

    Raises:
        InputError: The source is missing, has a class without pictures, or is a data set without pictures or classes.
    """
    if source.startswith(_PREFIX):
        return _read_dataset(source, scratch)
    path = Path(source)
    return Pictures(path if path.is_dir() else path.parent, read_images(path))


def _read_dataset(source: str, scratch: Path) -> Pictures:
    try:
        import datasets
    except ImportError as error:
        raise InputError(f"{source}: needs the package datasets; pip install 'rar-runtime[bench]'") from error
    name, _, split = source.removeprefix(_PREFIX).rpartition(":")
    if not name or not split:
        raise InputError(f"{source}: give hf:NAME:SPLIT, such as hf:food101:validation")
    table = _load(datasets, name, split)
    pictures = [key for key, kind in table.features.items() if isinstance(kind, datasets.Image)]
    classes = {key: kind for key, kind in table.features.items() if isinstance(kind, datasets.ClassLabel)}
    label = next(iter(classes), "label" if "label" in table.features else None)
    if not pictures or label is None:
        raise InputError(f"{source}: has no picture or no class; its columns are {', '.join(table.column_names)}")
    table = table.select_columns([pictures[0], label]).cast_column(pictures[0], datasets.Image(decode=False))
    images = []
    folder = scratch / str(len(list(scratch.iterdir())))
    folder.mkdir()
    for number, row in enumerate(tqdm(table, desc=source, disable=None)):
        value = row[label]
        named = classes[label].int2str(value) if label in classes and isinstance(value, int) else value
        if not isinstance(named, str) or not named.strip():
            raise InputError(f"{source}, row {number}: its class is {value!r}, no name")
        images.append(LabelledImage(_file(row[pictures[0]], folder / f"{number:08d}", source), named.strip()))
    if not images:
        raise InputError(f"{source}: holds no picture")
    return Pictures(folder, images)


def _load(datasets: Any, name: str, split: str) -> Any:
    """A split, from a folder that `save_to_disk` wrote or by `load_dataset`; neither runs a data set's code."""
    folder = Path(name)
    try:
        if not any((folder / marker).is_file() for marker in ("dataset_dict.json", "state.json")):
            return datasets.load_dataset(name, split=split)
        stored = datasets.load_from_disk(name)
    except Exception as error:  # whatever the hub, its files and their parsers raise
        raise InputError(f"hf:{name}:{split}: cannot be loaded ({error}); check name, split and access") from error
    if not isinstance(stored, datasets.DatasetDict):
        return stored
    if split not in stored:
        raise InputError(f"hf:{name}:{split}: there is no such split; it has {', '.join(stored)}")
    return stored[split]


def _file(picture: Any, path: Path, source: str) -> Path:
    """Where a picture lies: its own file, or its bytes written to `path`."""
    if picture is not None and picture.get("bytes"):
        path.write_bytes(picture["bytes"])
        return path
    if picture is not None and picture.get("path"):
        return Path(picture["path"])
    raise InputError(f"{source}, row {int(path.name)}: holds no picture")
