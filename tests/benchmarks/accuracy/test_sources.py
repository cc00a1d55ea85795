"""Pictures from folders, files and the `datasets` package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rar.benchmarks.accuracy.sources import Pictures, read
from rar.export.pictures.labelled import LabelledImage
from rar.runtime.errors import InputError
from rar.runtime.picture.load import load_image


@pytest.fixture(scope="module")
def stored(class_pictures: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four pictures, saved as the package saves them: two splits, bytes in tables."""
    datasets: Any = pytest.importorskip("datasets")
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "label": datasets.ClassLabel(names=["cat", "coffee"]),
            "id": datasets.Value("int64"),
        }
    )

    def table(paths: list[Path], labels: list[int]) -> Any:
        rows = {
            "image": [{"bytes": p.read_bytes(), "path": None} for p in paths],
            "label": labels,
            "id": [7] * len(paths),
        }
        return datasets.Dataset.from_dict(rows, features=features)

    folder = tmp_path_factory.mktemp("dataset") / "saved"
    parts = {"train": table(class_pictures[:1], [0]), "test": table(class_pictures[1:4], [0, 0, 1])}
    datasets.DatasetDict(parts).save_to_disk(str(folder))
    return folder


def test_a_data_set_from_disk(stored: Path, class_pictures: list[Path], tmp_path: Path) -> None:
    found = read(f"hf:{stored}:test", tmp_path)
    assert [image.label for image in found.images] == ["cat", "cat", "coffee"]
    for image, source in zip(found.images, class_pictures[1:4], strict=True):
        assert np.array_equal(load_image(image.path), load_image(source))
        assert image.path.is_relative_to(tmp_path)
    assert found.name(found.images[1]) == "00000001"
    # A second one into the same folder leaves the first alone.
    assert len(read(f"hf:{stored}:train", tmp_path).images) == 1
    assert all(image.path.is_file() for image in found.images)


def test_a_folder_of_pictures_by_the_packages_own_reader(
    labelled_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets: Any = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "scratch").mkdir()
    found = read(f"hf:{labelled_folder}:train", tmp_path / "scratch")
    assert {image.label for image in found.images} == {"cat", "coffee", "grass", "rocket"}
    assert {image.path for image in found.images} == set(labelled_folder.rglob("*.*"))


def test_a_split_or_a_column_that_is_missing_is_named(stored: Path, tmp_path: Path) -> None:
    datasets: Any = pytest.importorskip("datasets")
    with pytest.raises(InputError, match="there is no such split; it has train, test"):
        read(f"hf:{stored}:val", tmp_path)
    with pytest.raises(InputError, match="give hf:NAME:SPLIT"):
        read("hf:food101", tmp_path)
    with pytest.raises(InputError, match="cannot be loaded"):
        read(f"hf:{tmp_path / 'nothing'}:test", tmp_path)
    datasets.Dataset.from_dict({"text": ["a"], "label": ["b"]}).save_to_disk(str(tmp_path / "texts"))
    with pytest.raises(InputError, match="has no picture or no class; its columns are text, label"):
        read(f"hf:{tmp_path / 'texts'}:train", tmp_path)


def test_a_class_that_is_no_name_is_refused(tmp_path: Path) -> None:
    datasets: Any = pytest.importorskip("datasets")
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    rows = {"image": [str(tmp_path / "a.png")], "label": [None]}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("string")})
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(str(tmp_path / "bad"))
    with pytest.raises(InputError, match="row 0: its class is None"):
        read(f"hf:{tmp_path / 'bad'}:train", tmp_path)


def test_paths_are_told_from_the_source(labelled_folder: Path, tmp_path: Path) -> None:
    found = read(str(labelled_folder), tmp_path)
    assert found.name(found.images[0]) == "cat/0.jpg"
    elsewhere = Pictures(tmp_path, [LabelledImage(labelled_folder / "cat" / "0.jpg", "cat")])
    assert elsewhere.name(elsewhere.images[0]) == "0.jpg"
