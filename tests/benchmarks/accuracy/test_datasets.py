"""Each data set in its authors' own layout, tiny, read to its own splits."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rar.benchmarks.accuracy.datasets import NAMES, load
from rar.runtime.errors import InputError


def pictures(folder: Path, names: Iterable[str]) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(folder / name)


def coop(folder: str, split: str, under: str) -> Callable[[Path], None]:
    def make(data: Path) -> None:
        rows = {
            part: [[f"first_class/{part}.jpg", 0, "first_class"], [f"b/{part}.jpg", 1, "second"]]
            for part in ("train", "val", "test")
        }
        pictures(data / folder / under, (path for part in rows.values() for path, _, _ in part))
        (data / folder / f"split_zhou_{split}.json").write_text(json.dumps(rows))

    return make


def imagenet(data: Path) -> None:
    root = data / "imagenet"
    names = [f"images/{part}/{key}/{part}.JPEG" for part in ("train", "val") for key in ("n01", "n02")]
    pictures(root, names)
    (root / "classnames.txt").write_text("n01 first class\nn02 second\nn03 never seen\n")


def raf(data: Path) -> None:
    root = data / "raf-db/basic"
    pictures(root / "Image/aligned", ["train_00001_aligned.jpg", "test_0001_aligned.jpg"])
    (root / "EmoLabel").mkdir()
    (root / "EmoLabel/list_patition_label.txt").write_text("train_00001.jpg 5\ntest_0001.jpg 7\n")


def cub(data: Path) -> None:
    root = data / "CUB_200_2011"
    paths = ["001.Black_footed_Albatross/A_0001.jpg", "002.Laysan_Albatross/B_0002.jpg"]
    pictures(root / "images", paths)
    (root / "images.txt").write_text(f"1 {paths[0]}\n2 {paths[1]}\n")
    (root / "image_class_labels.txt").write_text("1 1\n2 2\n")
    (root / "train_test_split.txt").write_text("1 1\n2 0\n")
    (root / "classes.txt").write_text("1 001.Black_footed_Albatross\n2 002.Laysan_Albatross\n")


def cars(data: Path) -> None:
    root = data / "stanford_cars"
    pictures(root, ["cars_train/00001.jpg", "cars_train/00002.jpg", "cars_test/00001.jpg"])
    (root / "devkit").mkdir()

    def annotations(classes: list[int]) -> dict[str, Any]:
        kind = [("class", "O"), ("fname", "O")]
        rows = [(float(number), f"{i:05d}.jpg") for i, number in enumerate(classes, 1)]
        return {"annotations": np.array([rows], kind).reshape(1, -1)}

    matlab(root / "devkit/cars_train_annos.mat", annotations([2, 1]))
    matlab(root / "cars_test_annos_withlabels.mat", annotations([2]))
    names = np.array([["Acura RL Sedan 2012", "BMW M3 Coupe 2012"]], object)
    matlab(root / "devkit/cars_meta.mat", {"class_names": names})


def dogs(data: Path) -> None:
    root = data / "dogs_120"
    lists = {
        "train": ["n02085620-Chihuahua/n02085620_1.jpg", "n02085782-Japanese_spaniel/n02085782_1.jpg"],
        "test": ["n02085620-Chihuahua/n02085620_2.jpg"],
    }
    for part, names in lists.items():
        pictures(root / "Images", names)
        matlab(root / f"{part}_list.mat", {"file_list": np.array([[name] for name in names], object)})


def flowers(data: Path) -> None:
    root = data / "oxford_flowers"
    pictures(root / "jpg", [f"image_{i:05d}.jpg" for i in range(1, 5)])
    matlab(root / "imagelabels.mat", {"labels": np.array([[2, 1, 2, 1]], np.uint8)})
    matlab(root / "setid.mat", {"trnid": np.array([[1, 2]]), "valid": np.array([[3]]), "tstid": np.array([[4]])})
    (root / "cat_to_name.json").write_text('{"1": "pink primrose", "2": "globe thistle"}')


def pets(data: Path) -> None:
    root = data / "oxford_pets"
    pictures(root / "images", ["Abyssinian_1.jpg", "yorkshire_terrier_2.jpg", "Abyssinian_3.jpg"])
    (root / "annotations").mkdir()
    (root / "annotations/trainval.txt").write_text("Abyssinian_1 1 1 1\nyorkshire_terrier_2 2 2 25\n")
    (root / "annotations/test.txt").write_text("#Image CLASS-ID SPECIES BREED ID\nAbyssinian_3 1 1 1\n")


def matlab(file: Path, content: dict[str, Any]) -> None:
    from scipy.io import savemat

    savemat(file, content)


COOP = [["first class", "second"], ["first class", "second"], ["first class", "second"]]
# Set -> how its folder is made, and the labels of train, val and test.
SETS: dict[str, tuple[Callable[[Path], None], list[list[str]]]] = {
    "imagenet": (imagenet, [["first class", "second"], [], ["first class", "second"]]),
    "caltech101": (coop("caltech-101", "Caltech101", "101_ObjectCategories"), COOP),
    "raf-db": (raf, [["sadness"], [], ["neutral"]]),
    "sun397": (coop("sun397", "SUN397", "SUN397"), COOP),
    "eurosat": (coop("eurosat", "EuroSAT", "2750"), COOP),
    "dtd": (coop("dtd", "DescribableTextures", "images"), COOP),
    "ucf101": (coop("ucf101", "UCF101", "UCF-101-midframes"), COOP),
    "flowers102": (coop("oxford_flowers", "OxfordFlowers", "jpg"), COOP),
    "stanford-cars": (coop("stanford_cars", "StanfordCars", ""), COOP),
    "food101": (coop("food-101", "Food101", "images"), COOP),
    "oxford-pets": (coop("oxford_pets", "OxfordPets", "images"), COOP),
    "bird200": (cub, [["Black footed Albatross"], [], ["Laysan Albatross"]]),
    "car196": (cars, [["BMW M3 Coupe 2012", "Acura RL Sedan 2012"], [], ["BMW M3 Coupe 2012"]]),
    "dog120": (dogs, [["Chihuahua", "Japanese spaniel"], [], ["Chihuahua"]]),
    "flower102": (flowers, [["globe thistle", "pink primrose"], ["globe thistle"], ["pink primrose"]]),
    "pet37": (pets, [["abyssinian", "yorkshire terrier"], [], ["abyssinian"]]),
}


@pytest.mark.parametrize("name", NAMES)
def test_splits_and_labels_of(name: str, tmp_path: Path) -> None:
    make, labels = SETS[name]
    make(tmp_path)
    found = load(name, tmp_path)
    parts = (found.train, found.val, found.test)
    assert [[image.label for image in part] for part in parts] == labels
    assert all(image.path.is_relative_to(found.root) and image.path.is_file() for part in parts for image in part)
    paths = [image.path for part in parts for image in part]
    assert len(set(paths)) == len(paths)
    # The set's own folder does as well as the one that it lies in.
    assert load(name, found.root) == found


def test_classes_of_one_name_stay_apart(tmp_path: Path) -> None:
    imagenet(tmp_path)
    (tmp_path / "imagenet/classnames.txt").write_text("n01 missile\nn02 missile\n")
    assert [image.label for image in load("imagenet", tmp_path).test] == ["missile (n01)", "missile (n02)"]


@pytest.mark.parametrize("path", ["../secret.jpg", "/etc/passwd", "a/../../secret.jpg"])
def test_a_list_that_leaves_its_folder_is_refused(path: str, tmp_path: Path) -> None:
    coop("dtd", "DescribableTextures", "images")(tmp_path)
    listing = tmp_path / "dtd/split_zhou_DescribableTextures.json"
    content = json.loads(listing.read_text())
    content["test"].append([path, 0, "first_class"])
    listing.write_text(json.dumps(content))
    with pytest.raises(InputError, match="outside of the folder"):
        load("dtd", tmp_path)


@pytest.mark.parametrize("content", ["", "[]", '{"train": []}', '{"train": [["a.jpg"]], "val": [], "test": []}'])
def test_a_malformed_list_is_named(content: str, tmp_path: Path) -> None:
    (tmp_path / "split_zhou_Food101.json").write_text(content)
    with pytest.raises(InputError, match="the lists of food101 cannot be read"):
        load("food101", tmp_path)


def test_a_matlab_file_that_is_none_is_named(tmp_path: Path) -> None:
    flowers(tmp_path)
    (tmp_path / "oxford_flowers/imagelabels.mat").write_bytes(b"no MATLAB file")
    with pytest.raises(InputError, match="the lists of flower102 cannot be read"):
        load("flower102", tmp_path)


def test_what_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"neither dtd/split_zhou_DescribableTextures\.json nor"):
        load("dtd", tmp_path)
    with pytest.raises(InputError, match="is unknown; choose imagenet"):
        load("mnist", tmp_path)
    cars(tmp_path)
    (tmp_path / "stanford_cars/cars_test/00001.jpg").unlink()
    with pytest.raises(InputError, match=r"cars_test/00001\.jpg: no such picture \(1 of the test list\)"):
        load("car196", tmp_path)
    (tmp_path / "stanford_cars/cars_test_annos_withlabels.mat").unlink()
    with pytest.raises(InputError, match=r"devkit/cars_test_annos_withlabels\.mat: no such file"):
        load("car196", tmp_path)
