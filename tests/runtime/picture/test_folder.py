"""Pictures in folders: by what can be read, through links, without what programs leave behind; the rest is counted."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rar.runtime import InputError, load_image
from rar.runtime.picture.folder import find_images, is_hidden, look
from rar.runtime.picture.formats import formats, suffixes


def write(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")


def names(folder: Path) -> list[str]:
    return [str(path.relative_to(folder)) for path in find_images(folder)]


def test_by_suffix_sorted_without_hidden_ones(tmp_path: Path) -> None:
    (tmp_path / "folder.jpg").mkdir()
    write(tmp_path, "b.JPG", "a.png", "inner/c.webp", ".hidden.jpg", "notes.txt", "jpg")
    assert names(tmp_path) == ["a.png", "b.JPG", "inner/c.webp"]


@pytest.mark.parametrize("suffix", ["jpg", "jpeg", "jfif", "jpe", "png", "apng", "webp", "avif", "jp2", "mpo", "pnm"])
def test_every_suffix_that_pillow_knows_of_what_it_reads(tmp_path: Path, suffix: str) -> None:
    if f".{suffix}" not in Image.registered_extensions():
        pytest.skip(f"this Pillow knows no .{suffix}")
    write(tmp_path, f"a.{suffix}", f"b.{suffix.upper()}")
    assert len(find_images(tmp_path)) == 2


@pytest.mark.parametrize("suffix", ["pdf", "eps", "svg", "txt", "mp4", "psd", "ico"])
def test_what_is_not_read_is_no_picture(tmp_path: Path, suffix: str) -> None:
    write(tmp_path, f"a.{suffix}", "b.png")
    assert names(tmp_path) == ["b.png"]
    assert look(tmp_path).passed == {f".{suffix}": 1}


def test_each_of_these_suffixes_can_be_written_and_read(tmp_path: Path) -> None:
    for suffix in sorted(suffixes() - {".heic", ".heif", ".hif", ".pfm", ".pbm", ".pgm", ".jxl"}):
        Image.new("RGB", (16, 16), (200, 100, 50)).save(tmp_path / f"a{suffix}")
    found = find_images(tmp_path)
    assert len(found) > 12
    for path in found:
        assert np.abs(load_image(path).astype(int) - (200, 100, 50)).max() < 12, path


@pytest.mark.parametrize(
    "part", [".ipynb_checkpoints", "@eaDir", "__MACOSX", ".git", ".Trash-1000", "#recycle", "$RECYCLE.BIN"]
)
@pytest.mark.parametrize("depth", ["", "inner/"])
def test_hidden_parts_of_a_path(tmp_path: Path, part: str, depth: str) -> None:
    write(tmp_path, "a.png", f"{depth}{part}/a.png", f"{depth}{part}/deeper/a.png", "._a.png")
    assert names(tmp_path) == ["a.png"]
    assert look(tmp_path).passed == {"hidden": 2}
    assert is_hidden(part)


def test_the_folder_itself_may_lie_in_a_hidden_one(tmp_path: Path) -> None:
    write(tmp_path, ".cache/@eaDir/cat/a.png")
    assert names(tmp_path / ".cache/@eaDir/cat") == ["a.png"]


def test_linked_folders_and_files(tmp_path: Path) -> None:
    write(tmp_path, "elsewhere/a.png", "elsewhere/deep/b.png", "one.png", "pictures/c.png")
    (tmp_path / "pictures/linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "pictures/d.png").symlink_to(tmp_path / "one.png")
    assert names(tmp_path / "pictures") == ["c.png", "d.png", "linked/a.png", "linked/deep/b.png"]


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    write(tmp_path, "a.png", "inner/b.png")
    (tmp_path / "inner/up").symlink_to(tmp_path)
    (tmp_path / "inner/self").symlink_to(tmp_path / "inner")
    assert names(tmp_path) == ["a.png", "inner/b.png"]


def test_links_to_nothing_are_counted(tmp_path: Path) -> None:
    write(tmp_path, "a.png")
    (tmp_path / "b.png").symlink_to(tmp_path / "nowhere.png")
    os.mkfifo(tmp_path / "c.png")
    assert names(tmp_path) == ["a.png"]
    assert look(tmp_path).told() == "2 links to nothing, or no files"


def test_what_is_passed_over_is_told(tmp_path: Path) -> None:
    write(tmp_path, "a.png", "b.txt", "c.TXT", "d.pdf", "README", ".x")
    assert look(tmp_path).told() == "1 .pdf, 2 .txt, 1 hidden, 1 without a suffix"


def test_heic_without_its_package_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rar.runtime.picture.formats.has_heif", lambda: False)
    suffixes.cache_clear()
    try:
        write(tmp_path, "a.png", "b.heic", "c.HEIF")
        assert names(tmp_path) == ["a.png"]
        assert look(tmp_path).passed == {f"{suffix} (install the extra `heif`)": 1 for suffix in (".heic", ".heif")}
    finally:
        suffixes.cache_clear()


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        find_images(tmp_path / "nowhere")
    with pytest.raises(InputError, match="holds no picture"):
        find_images(tmp_path)
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(InputError, match="no such folder"):
        find_images(tmp_path / "a.txt")
    with pytest.raises(InputError, match=r"holds no picture .*passed over: 1 \.txt"):
        find_images(tmp_path)


def test_a_name_that_is_not_utf8(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png"))
    Image.new("RGB", (4, 4)).save(path)
    assert find_images(tmp_path) == [path]
    assert load_image(path).shape == (4, 4, 3)


def test_formats_are_those_of_this_pillow() -> None:
    assert {"JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM"} <= set(formats()) <= set(Image.OPEN)
