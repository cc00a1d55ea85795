"""The page of a memory: pictures, nearest classes, and nothing from outside."""

from __future__ import annotations

import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rar.export.cli import main
from rar.export.inspect.confusions import by_class, neighbours
from rar.export.interchange import Embeddings
from rar.export.memory.build import MemorySource, build_memory
from rar.runtime import Bundle, Memory

Capture = pytest.CaptureFixture[str]
EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>"


class Page(HTMLParser):
    """The tags, the addresses and the text of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.urls: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.urls += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def own(names_bundle: Path, writable: Callable[[Path], Path]) -> Path:
    return writable(names_bundle)


def shown(bundle: Path, out: Path, *options: str) -> Page:
    assert main(["inspect", str(bundle), "--html", str(out), *options]) == 0
    return Page(out.read_text(encoding="utf-8"))


def test_each_class_has_its_pictures_and_its_nearest_classes(
    pictures_bundle: Path, labelled_folder: Path, tmp_path: Path, capsys: Capture
) -> None:
    page = shown(pictures_bundle, tmp_path / "page.html", "--pictures", str(labelled_folder))
    assert "open it in a browser" in capsys.readouterr().out
    images = [url for url in page.urls if url.startswith("data:image/jpeg;base64,")]
    assert len(images) == 12  # all three pictures of four classes
    for label in ("cat", "coffee", "grass", "rocket"):
        assert label in page.text
    assert "4 classes, 12 pictures" in page.text
    assert "nearest class" in page.text


def test_the_page_loads_nothing_and_labels_are_text(own: Path, tmp_path: Path) -> None:
    build_memory(Bundle.open(own), MemorySource(classes=[EVIL, "cat"]), dim="none", provider="cpu")
    page = shown(own, tmp_path / "page.html")
    assert not {"script", "link", "iframe", "object", "form"} & set(page.tags)
    assert all(url.startswith(("data:image/jpeg;base64,", "#")) for url in page.urls)
    assert EVIL in page.text
    assert "default-src 'none'" in (tmp_path / "page.html").read_text()


def test_pictures_outside_the_folder_are_counted_and_not_shown(
    pictures_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    page = shown(pictures_bundle, tmp_path / "page.html")
    assert not [url for url in page.urls if url.startswith("data:")]
    assert "12 pictures cannot be read or lie outside the folder .; name theirs with --pictures" in page.text


def test_an_entry_among_anothers_is_mistaken_for_it(own: Path) -> None:
    chance = np.random.default_rng(0)
    near, far, own_place = np.eye(32, dtype=np.float32)[:3]
    vectors = [
        *(near + 0.05 * chance.standard_normal((5, 32))),  # "a"
        *(far + 0.05 * chance.standard_normal((5, 32))),  # "b"
        near + 0.02, own_place, own_place + 0.02,  # "c": one entry lies among those of "a"
    ]  # fmt: skip
    labels = ["a"] * 5 + ["b"] * 5 + ["c"] * 3
    source = MemorySource(embeddings=Embeddings.of(np.array(vectors, np.float32), labels))
    build_memory(Bundle.open(own), source, dim="none", provider="cpu")
    memory = Memory.open(own)
    around = dict(zip(memory.labels, neighbours(memory), strict=True))
    assert (around["c"].looked_at, around["c"].mistaken) == (3, 1)
    assert around["c"].near[0].label == "a"
    assert around["c"].near[0].cosine > 0.9
    assert around["b"].mistaken == 0
    assert (around["a"].looked_at, around["a"].near[0].label) == (5, "c")


def test_entries_are_told_by_class_after_changes(pictures_bundle: Path, writable: Callable[[Path], Path]) -> None:
    memory = Memory.open(writable(pictures_bundle))
    memory.remove("coffee")
    part = memory.parts["pictures"]
    told = by_class(part, len(memory.labels))
    assert [found.tolist() for found in told] == [part.entries(label) for label in range(len(memory.labels))]


def test_what_cannot_be_shown_is_refused_before_anything_is_written(
    tiny_bundle: Path, pictures_bundle: Path, tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "page.html"
    for bundle, options, said in (
        (tiny_bundle, ["--html", str(out)], "has no memory to show; build one with `rar-export memory`"),
        (pictures_bundle, ["--html", str(out), "--pictures", str(tmp_path / "none")], "no such folder"),
        (pictures_bundle, ["--pictures", "."], "--pictures goes with --html"),
    ):
        assert main(["inspect", str(bundle), *options]) == 2
        assert re.search(re.escape(said), capsys.readouterr().err)
    assert not out.exists()


def test_a_picture_that_no_longer_can_be_read_leaves_the_others(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        (tmp_path / f"photos/{name}").mkdir(parents=True)
        Image.effect_noise((64, 64), 90).save(tmp_path / f"photos/{name}/1.png")
    assert main(["memory", str(own), "--images", str(tmp_path / "photos"), "--dim", "none"]) == 0
    (tmp_path / "photos/a/1.png").write_bytes(b"no picture")
    page = shown(own, tmp_path / "page.html", "--pictures", str(tmp_path))
    assert len([url for url in page.urls if url.startswith("data:")]) == 1
    assert "1 pictures cannot be read" in page.text
