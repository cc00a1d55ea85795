"""Building and adding from pictures as they lie about: broken ones, copies, empty folders, names of all kinds."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from rar.export.cli import main
from rar.runtime import Memory


@pytest.fixture
def own(tiny_bundle: Path, writable: Callable[[Path], Path]) -> Path:
    return writable(tiny_bundle)


@pytest.fixture
def pictures(labelled_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(labelled_folder, tmp_path / "pictures"))


def build(bundle: Path, source: Path, *more: str) -> int:
    return main(["memory", str(bundle), "--images", str(source), "--provider", "cpu", *more])


def test_broken_pictures_are_all_named_and_nothing_is_written(
    own: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (pictures / "cat/0.jpg").write_bytes(b"no picture")
    (pictures / "grass/1.jpg").write_bytes(b"")
    assert build(own, pictures) == 2
    told = capsys.readouterr().err
    assert "2 of 12 pictures cannot be read" in told
    assert "cat/0.jpg" in told
    assert "grass/1.jpg" in told
    assert "memory" not in (own / "bundle.json").read_text()
    assert not list(own.parent.glob(".embedded-*"))


def test_they_are_skipped_and_listed(own: Path, pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (pictures / "cat/0.jpg").write_bytes(b"no picture")
    for path in (pictures / "grass").iterdir():
        path.write_bytes(b"")
    tags, descriptions = pictures.parent / "tags.json", pictures.parent / "descriptions.json"
    tags.write_text('{"green": ["grass"], "alive": ["cat", "grass"]}')
    descriptions.write_text('{"grass": ["a lawn"], "cat": ["an animal"]}')
    assert build(own, pictures, "--skip-broken", "--tags", str(tags)) == 0
    told = capsys.readouterr()
    assert told.err.count("skipped: class") == 4
    assert "1 classes have no picture left: 'grass'" in told.err
    memory = Memory.open(own)
    assert memory.labels == ["cat", "coffee", "rocket"]
    assert len(memory.parts["pictures"]) == 8
    assert memory.tags == {"alive": ["cat"], "green": []}


def test_the_limit_of_pixels_is_a_setting(own: Path, pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert build(own, pictures, "--max-pixels", "7999") == 2
    assert capsys.readouterr().err.count("100x80 is over the limit of 7999 pixels") == 12
    assert build(own, pictures, "--max-pixels", "8000") == 0
    assert main(["add", str(own), "--images", str(pictures), "--provider", "cpu", "--max-pixels", "7999"]) == 2
    assert len(Memory.open(own).parts["pictures"]) == 12


def test_empty_folders_and_what_is_passed_over_are_told(
    own: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (pictures / "dog").mkdir()
    (pictures / "cat/.ipynb_checkpoints").mkdir()
    (pictures / "cat/.ipynb_checkpoints/0-checkpoint.jpg").write_bytes(b"")
    (pictures / "cat/notes.txt").write_bytes(b"")
    assert build(own, pictures) == 0
    told = capsys.readouterr().err
    assert "passed over: 1 .txt, 1 hidden" in told
    assert "1 folders without pictures are no classes: 'dog'" in told
    assert "dog" not in Memory.open(own).labels


@pytest.mark.parametrize(("way", "code", "entries"), [("keep", 0, 14), ("skip", 0, 12), ("fail", 2, None)])
def test_copies(
    own: Path, pictures: Path, capsys: pytest.CaptureFixture[str], way: str, code: int, entries: int | None
) -> None:
    shutil.copy(pictures / "cat/0.jpg", pictures / "rocket/copy.jpg")
    shutil.copy(pictures / "grass/2.png", pictures / "grass/copy.png")
    assert build(own, pictures, "--duplicates", way) == code
    told = capsys.readouterr().err
    assert "the same picture in 2 classes ('cat', 'rocket')" in told
    assert "grass/copy.png" in told
    if entries is not None:
        assert len(Memory.open(own).parts["pictures"]) == entries


def test_near_copies_are_listed_by_the_index(own: Path, pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Image.open(pictures / "coffee/2.png") as image:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=98, subsampling=0)
    (pictures / "cat/near.jpg").write_bytes(buffer.getvalue())
    assert build(own, pictures) == 0
    told = [line for line in capsys.readouterr().err.splitlines() if "nearly the same" in line]
    assert "cat/near.jpg" in told[0]
    assert "coffee/2.png" in told[0]
    assert "of the classes 'cat' and 'coffee'" in told[0]


def test_add_names_all_broken_ones_before_it_adds_any(
    own: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert build(own, pictures) == 0
    more = Path(shutil.copytree(pictures, pictures.parent / "more"))
    (more / "cat/0.jpg").write_bytes(b"no picture")
    (more / "rocket/2.png").write_bytes(b"")
    capsys.readouterr()
    command = ["add", str(own), "--images", str(more), "--provider", "cpu"]
    assert main(command) == 2
    told = capsys.readouterr().err
    assert "cat/0.jpg" in told
    assert "rocket/2.png" in told
    assert len(Memory.open(own).parts["pictures"]) == 12
    assert main([*command, "--skip-broken"]) == 0
    assert len(Memory.open(own).parts["pictures"]) == 22
