"""AVIF and HEIC, by what they hold and not by their name; and messages that say what is missing."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from rar.runtime import ImageError, load_image
from rar.runtime.picture import formats

# The head of a HEIC file; its pixels are not there.
HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100)


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow reads no AVIF")
def test_avif(tmp_path: Path) -> None:
    Image.new("RGB", (64, 48), (200, 100, 50)).save(tmp_path / "a.avif")
    (tmp_path / "a.avif").rename(tmp_path / "a.jpg")
    loaded = load_image(tmp_path / "a.jpg")
    assert loaded.shape == (48, 64, 3)
    assert np.abs(loaded.astype(int) - (200, 100, 50)).max() < 8


def test_heic_where_its_package_is_installed() -> None:
    heif = pytest.importorskip("pillow_heif")
    buffer = io.BytesIO()
    heif.from_pillow(Image.new("RGB", (64, 48), (200, 100, 50))).save(buffer)
    loaded = load_image(buffer.getvalue())
    assert loaded.shape == (48, 64, 3)
    assert np.abs(loaded.astype(int) - (200, 100, 50)).max() < 8


def test_heic_where_it_is_not_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    formats._register_heif.cache_clear()
    with pytest.raises(ImageError, match=r"HEIC or HEIF picture; install pillow-heif \(extra `heif`\)"):
        load_image(HEIC)


def test_a_pointer_of_git_lfs(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n")
    with pytest.raises(ImageError, match=r"pointer of Git LFS.*git lfs pull"):
        load_image(tmp_path / "a.jpg")


def test_a_link_to_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").symlink_to("../../blobs/1234")
    with pytest.raises(ImageError, match=r"a link to \.\./\.\./blobs/1234, which is not there"):
        load_image(tmp_path / "a.jpg")
