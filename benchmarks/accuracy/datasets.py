"""The papers' data sets, read to their published splits from the files that their authors hand out.

Eleven of RAR's few-shot tables (arXiv 2403.13805, tables 2, 9 and 10): all but ImageNet and RAF-DB by the splits of
CoOp (arXiv 2109.01134, `split_zhou_*.json`), which that line of work shares, in the folders that CoOp's instructions
make. Five fine-grained sets of its table 1, by their authors' own lists as FineR (arXiv 2401.13837) reads them. No list
is taken from a pickle, and none may name a picture outside its folder.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias

import numpy as np

from rar.export.pictures.labelled import LabelledImage
from rar.export.pictures.rows import read_text
from rar.runtime.errors import InputError
from rar.runtime.picture.folder import find_images

# A picture's path, and a key that its class has in the set.
Listed: TypeAlias = "tuple[Path, str]"


@dataclass(frozen=True)
class Splits:
    """A data set's pictures. `val` is empty if the set's authors define none.

    Attributes:
        root: The set's folder.
        train: What a memory is built from.
        val: What a bundle is tuned on.
        test: What is measured.
    """

    root: Path
    train: list[LabelledImage]
    val: list[LabelledImage]
    test: list[LabelledImage]


@dataclass(frozen=True)
class _Layout:
    """Where a set lies and how it is read.

    Attributes:
        folder: Its name among other sets.
        marker: A file or folder that it must have.
        read: Its folder -> the pictures of `train`, `val` and `test`, and the name of each class's key.
    """

    folder: str
    marker: str
    read: Callable[[Path], tuple[Mapping[str, Iterable[Listed]], Mapping[str, str]]]


def load(name: str, data: str | Path) -> Splits:
    """Reads one of the sets.

    Args:
        name: One of `NAMES`.
        data: The set's own folder, or the one that it lies in by the name that CoOp's instructions give it.

    Returns:
        The pictures; a class's label is its name with spaces for underscores. Where two classes share a name, as in
        ImageNet, each has its key behind it.

    Raises:
        InputError: An unknown set, a missing or malformed list, or a list of a picture that is not there.
    """
    if name not in NAMES:
        raise InputError(f"data set {name!r} is unknown; choose {', '.join(NAMES)}")
    layout = _LAYOUTS[name]
    root = next((path for path in (Path(data) / layout.folder, Path(data)) if (path / layout.marker).exists()), None)
    if root is None:
        raise InputError(
            f"{data}: has neither {layout.folder}/{layout.marker} nor {layout.marker}; "
            f"unpack {name} there as its authors (and CoOp's DATASETS.md) lay it out"
        )
    try:
        listed, names = layout.read(root)
        labels = _distinct(names)
        splits = {part: [LabelledImage(path, labels[key]) for path, key in rows] for part, rows in listed.items()}
    except InputError:
        raise
    except Exception as error:  # the lists are other people's: what is malformed in them can raise anything
        raise InputError(f"{root}: the lists of {name} cannot be read ({error!r}); fetch them again") from error
    for part, images in splits.items():
        if part != "val" and not images:
            raise InputError(f"{root}: the lists of {name} name no picture for {part}; fetch them again")
        if missing := [image.path for image in images if not image.path.is_file()]:
            raise InputError(f"{missing[0]}: no such picture ({len(missing)} of the {part} list); unpack {name} whole")
    return Splits(root, splits["train"], splits.get("val", []), splits["test"])


def _distinct(names: Mapping[str, str]) -> dict[str, str]:
    """Key -> label."""
    clean = {key: " ".join(name.replace("_", " ").split()) for key, name in names.items()}
    counts: dict[str, int] = {}
    for name in clean.values():
        counts[name] = counts.get(name, 0) + 1
    return {key: name if counts[name] == 1 else f"{name} ({key})" for key, name in clean.items()}


def _inside(folder: Path, name: Any) -> Path:
    """A listed picture's path.

    Raises:
        InputError: It leaves the folder.
    """
    path = PurePosixPath(str(name))
    if path.is_absolute() or ".." in path.parts:
        raise InputError(f"{folder}: the list names {str(name)!r}, outside of the folder; fetch the list again")
    return folder / path


def _zhou(pictures: str, split: str, root: Path) -> tuple[dict[str, list[Listed]], dict[str, str]]:
    """CoOp's splits: {part: [[path, class number, class name]]}."""
    content = json.loads(read_text(root / split))
    names = {str(number): str(name) for part in ("train", "val", "test") for _, number, name in content[part]}
    listed = {
        part: [(_inside(root / pictures, path), str(number)) for path, number, _ in content[part]]
        for part in ("train", "val", "test")
    }
    return listed, names


def _imagenet(root: Path) -> tuple[dict[str, Iterable[Listed]], dict[str, str]]:
    """A folder a class; the validation pictures are the test. `classnames.txt`: `n01440764 tench`, from CLIP."""
    names = dict(line.split(" ", 1) for line in read_text(root / "classnames.txt").splitlines() if line.strip())

    def listed(part: str) -> list[Listed]:
        folders = sorted(path for path in (root / "images" / part).iterdir() if path.is_dir())
        return [(path, folder.name) for folder in folders for path in find_images(folder)]

    return {"train": listed("train"), "test": listed("val")}, names


_EMOTIONS = ("surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral")


def _raf(root: Path) -> tuple[dict[str, list[Listed]], dict[str, str]]:
    """RAF-DB, basic emotions: `train_00001.jpg 5`, faces aligned."""
    rows = [line.split() for line in _lines(root / "basic/EmoLabel/list_patition_label.txt")]
    faces = root / "basic/Image/aligned"
    listed: dict[str, list[Listed]] = {"train": [], "test": []}
    for name, number in rows:
        listed[name.split("_")[0]].append((_inside(faces, name.replace(".jpg", "_aligned.jpg")), number))
    return listed, {str(number): name for number, name in enumerate(_EMOTIONS, 1)}


def _cub(root: Path) -> tuple[dict[str, list[Listed]], dict[str, str]]:
    """CUB-200-2011: four lists by number; a class is `001.Black_footed_Albatross`."""
    paths, classes, training, names = (
        dict(line.split(" ", 1) for line in _lines(root / f"{name}.txt"))
        for name in ("images", "image_class_labels", "train_test_split", "classes")
    )
    listed: dict[str, list[Listed]] = {"train": [], "test": []}
    for number, path in paths.items():
        part = "train" if training[number] == "1" else "test"
        listed[part].append((_inside(root / "images", path), classes[number]))
    return listed, {number: name.split(".", 1)[1] for number, name in names.items()}


def _cars(root: Path) -> tuple[dict[str, list[Listed]], dict[str, str]]:
    """Stanford Cars: MATLAB lists of `fname` and `class`; those of the test pictures beside or in the devkit."""
    annotations = root / "cars_test_annos_withlabels.mat"
    lists = {
        "train": (root / "cars_train", root / "devkit/cars_train_annos.mat"),
        "test": (root / "cars_test", annotations if annotations.exists() else root / "devkit" / annotations.name),
    }
    listed = {
        part: [(_inside(folder, row["fname"]), str(int(row["class"]))) for row in _matlab(file, "annotations")]
        for part, (folder, file) in lists.items()
    }
    names = _matlab(root / "devkit/cars_meta.mat", "class_names")
    return listed, {str(number): str(name) for number, name in enumerate(names, 1)}


def _dogs(root: Path) -> tuple[dict[str, list[Listed]], dict[str, str]]:
    """Stanford Dogs: `n02085620-Chihuahua/n02085620_5927.jpg` in MATLAB lists."""
    listed = {
        part: [
            (_inside(root / "Images", name), str(name).split("/")[0])
            for name in _matlab(root / f"{part}_list.mat", "file_list")
        ]
        for part in ("train", "test")
    }
    return listed, {key: key.split("-", 1)[1] for rows in listed.values() for _, key in rows}


def _flowers(root: Path) -> tuple[dict[str, list[Listed]], dict[str, str]]:
    """Flowers-102 by the authors' `setid.mat`: 1,020 train, 1,020 val, 6,149 test. Names as in CoOp's instructions."""
    numbers = _matlab(root / "imagelabels.mat", "labels")
    listed = {
        part: [
            (root / "jpg" / f"image_{int(image):05d}.jpg", str(numbers[int(image) - 1]))
            for image in _matlab(root / "setid.mat", key)
        ]
        for part, key in (("train", "trnid"), ("val", "valid"), ("test", "tstid"))
    }
    names = json.loads(read_text(root / "cat_to_name.json"))
    return listed, {str(number): str(name) for number, name in names.items()}


def _pets(root: Path) -> tuple[dict[str, list[Listed]], dict[str, str]]:
    """Oxford-IIIT Pets by the authors' lists: `Abyssinian_100 1 1 1`."""
    listed: dict[str, list[Listed]] = {}
    names: dict[str, str] = {}
    for part, file in (("train", "trainval.txt"), ("test", "test.txt")):
        rows = [line.split() for line in _lines(root / "annotations" / file) if not line.startswith("#")]
        listed[part] = [(_inside(root / "images", f"{row[0]}.jpg"), row[1]) for row in rows]
        names |= {row[1]: row[0].rsplit("_", 1)[0].lower() for row in rows}
    return listed, names


def _lines(file: Path) -> list[str]:
    return [line.strip() for line in read_text(file).splitlines() if line.strip()]


def _matlab(file: Path, name: str) -> Any:
    """One variable of a MATLAB 5 file, as a one-dimensional array.

    Raises:
        InputError: The file is missing.
    """
    from scipy.io import loadmat

    if not file.is_file():
        raise InputError(f"{file}: no such file; unpack the data set whole")
    return np.atleast_1d(loadmat(file, squeeze_me=True)[name])


def _coop(folder: str, split: str, pictures: str) -> _Layout:
    split = f"split_zhou_{split}.json"
    return _Layout(folder, split, partial(_zhou, pictures, split))


_LAYOUTS = {
    "imagenet": _Layout("imagenet", "classnames.txt", _imagenet),
    "caltech101": _coop("caltech-101", "Caltech101", "101_ObjectCategories"),
    "raf-db": _Layout("raf-db", "basic/EmoLabel/list_patition_label.txt", _raf),
    "sun397": _coop("sun397", "SUN397", "SUN397"),
    "eurosat": _coop("eurosat", "EuroSAT", "2750"),
    "dtd": _coop("dtd", "DescribableTextures", "images"),
    "ucf101": _coop("ucf101", "UCF101", "UCF-101-midframes"),
    "flowers102": _coop("oxford_flowers", "OxfordFlowers", "jpg"),
    "stanford-cars": _coop("stanford_cars", "StanfordCars", ""),
    "food101": _coop("food-101", "Food101", "images"),
    "oxford-pets": _coop("oxford_pets", "OxfordPets", "images"),
    "bird200": _Layout("CUB_200_2011", "train_test_split.txt", _cub),
    "car196": _Layout("stanford_cars", "devkit/cars_meta.mat", _cars),
    "dog120": _Layout("dogs_120", "train_list.mat", _dogs),
    "flower102": _Layout("oxford_flowers", "setid.mat", _flowers),
    "pet37": _Layout("oxford_pets", "annotations/trainval.txt", _pets),
}
NAMES = tuple(_LAYOUTS)
