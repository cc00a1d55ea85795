"""Broken pictures and copies are found before work begins, and all are named."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from PIL import Image

from rar.export.pictures.check import check_images, same_bytes
from rar.export.pictures.labelled import LabelledImage
from rar.runtime import InputError


@pytest.fixture
def images(tmp_path: Path, labelled_folder: Path) -> list[LabelledImage]:
    """Twelve good pictures of four classes."""
    shutil.copytree(labelled_folder, tmp_path / "pictures")
    found = sorted((tmp_path / "pictures").rglob("*.*"))
    return [LabelledImage(path, path.parent.name) for path in found]


def break_some(images: list[LabelledImage]) -> list[LabelledImage]:
    """One cut, one that is no picture, one that is not there."""
    whole = images[0].path.read_bytes()
    images[0].path.write_bytes(whole[: len(whole) // 2])
    images[5].path.write_bytes(b"no picture")
    images[9].path.unlink()
    return [images[0], images[5], images[9]]


def test_all_broken_ones_are_named_at_once(images: list[LabelledImage]) -> None:
    broken = break_some(images)
    with pytest.raises(InputError, match=r"3 of 12 pictures cannot be read: .*--skip-broken") as caught:
        check_images(images, False, "keep", print)
    for image in broken:
        assert str(image.path) in str(caught.value)
        assert repr(image.label) in str(caught.value)


def test_they_are_skipped_and_listed_where_it_is_asked_for(images: list[LabelledImage]) -> None:
    broken, told = break_some(images), list[str]()
    left = check_images(images, True, "keep", told.append)
    assert left == [image for image in images if image not in broken]
    assert len(told) == 3
    assert all(str(image.path) in line for image, line in zip(broken, told, strict=True))


def test_none_left(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(InputError, match="no picture is left"):
        check_images([LabelledImage(tmp_path / "a.png", "cat")], True, "keep", print)


@pytest.fixture
def copied(images: list[LabelledImage]) -> list[LabelledImage]:
    """A copy under the same label, and one under another."""
    one = images[0].path.with_name("copy.jpg")
    other = images[11].path.with_name("copy.png")
    shutil.copy(images[0].path, one)
    shutil.copy(images[2].path, other)
    return [*images, LabelledImage(one, images[0].label), LabelledImage(other, images[11].label)]


def test_copies_are_listed_those_of_two_classes_first(copied: list[LabelledImage]) -> None:
    told = list[str]()
    assert check_images(copied, False, "keep", told.append) == copied
    assert "2 classes ('cat', 'rocket')" in told[0]
    assert "class 'cat'" in told[1]
    assert all(str(image.path) in told[0] for image in (copied[2], copied[13]))


def test_copies_are_left_out(copied: list[LabelledImage]) -> None:
    told = list[str]()
    assert check_images(copied, False, "skip", told.append) == copied[:12]
    assert all(line.startswith("skipped all but the first") for line in told)


def test_copies_are_refused_all_named(copied: list[LabelledImage]) -> None:
    with pytest.raises(InputError, match="2 pictures are there more than once") as caught:
        check_images(copied, False, "fail", print)
    assert str(copied[12].path) in str(caught.value)
    assert str(copied[13].path) in str(caught.value)


def test_files_of_one_size_and_other_bytes_are_no_copies(tmp_path: Path) -> None:
    for name, colour in (("a", "red"), ("b", "blue")):
        Image.new("RGB", (8, 8), colour).save(tmp_path / f"{name}.bmp")
    assert not list(same_bytes([LabelledImage(tmp_path / f"{name}.bmp", name) for name in "ab"]))
