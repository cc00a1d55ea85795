"""Only regular files are opened, whatever lies in their place."""

import os
from pathlib import Path

import pytest

from rar.runtime.bundle.regular import open_regular, read_regular


def lay(kind: str, place: Path) -> None:
    target = place.parent / "target"
    target.write_bytes(b"precious")
    if kind == "pipe":
        os.mkfifo(place)
    elif kind == "folder":
        place.mkdir()
    elif kind == "link":
        place.symlink_to(target)
    elif kind == "link to a device":
        place.symlink_to("/dev/zero")
    elif kind == "second name":
        place.hardlink_to(target)


@pytest.mark.parametrize("kind", ["pipe", "folder", "link", "link to a device"])
@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_RDWR | os.O_CREAT])
def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path, kind: str, flags: int) -> None:
    lay(kind, tmp_path / "file")
    with pytest.raises(OSError, match=r"regular|is a link|[Ii]s a directory"):
        open_regular(tmp_path / "file", flags)


@pytest.mark.parametrize("kind", ["pipe", "folder", "link to a device"])
def test_a_link_must_end_at_a_regular_file(tmp_path: Path, kind: str) -> None:
    lay(kind, tmp_path / "file")
    (tmp_path / "link").symlink_to("file")
    with pytest.raises(OSError, match="regular"):
        read_regular(tmp_path / "link", 100, links=True)


def test_a_link_is_followed_where_that_is_asked_for(tmp_path: Path) -> None:
    lay("link", tmp_path / "file")
    assert read_regular(tmp_path / "file", 100, links=True) == b"precious"


def test_a_file_with_a_second_name_is_read_and_not_written(tmp_path: Path) -> None:
    lay("second name", tmp_path / "file")
    assert read_regular(tmp_path / "file", 100) == b"precious"
    with pytest.raises(OSError, match="second name"):
        open_regular(tmp_path / "file", os.O_RDWR)


@pytest.mark.parametrize(("size", "fits"), [(0, True), (10, True), (11, False), (1 << 40, False)])
def test_no_more_is_read_than_was_said(tmp_path: Path, size: int, fits: bool) -> None:
    path = tmp_path / "file"
    path.touch()
    os.truncate(path, size)  # a hole, which takes no room on the disk
    if fits:
        assert read_regular(path, 10) == bytes(size)
    else:
        with pytest.raises(OSError, match="more than 10 bytes"):
            read_regular(path, 10)


def test_descriptors_are_closed_after_a_refusal(tmp_path: Path) -> None:
    lay("pipe", tmp_path / "file")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        with pytest.raises(OSError, match="regular"):
            open_regular(tmp_path / "file")
    assert len(os.listdir("/proc/self/fd")) == before
