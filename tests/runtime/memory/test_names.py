"""One rule for names on every way into a memory, and memories of before it."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rar.export.memory.build import MemorySource, build_memory
from rar.runtime import Bundle, InputError, Memory, Recognizer
from rar.runtime.memory.names import MAX_NAME, check_name, class_name

CAFE = "caf\u00e9"
DECOMPOSED = unicodedata.normalize("NFD", CAFE)
BAD = ["", "  ", "\ud800", "caf\udce9", "x" * (MAX_NAME + 1), 3, None]
IDS = ["empty", "blank", "surrogate", "bytes", "long"]


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip))
def test_a_name_is_kept_composed(name: str) -> None:
    kept = class_name(name)
    assert kept == unicodedata.normalize("NFC", name) == class_name(kept) == check_name(kept)
    assert class_name(unicodedata.normalize("NFD", name)) == kept


@pytest.mark.parametrize("name", BAD, ids=[*IDS, "number", "none"])
def test_what_cannot_be_a_name(name: object) -> None:
    with pytest.raises(ValueError, match="class name"):
        class_name(name)


def test_the_longest_name_is_the_log_s() -> None:
    assert class_name("x" * MAX_NAME)


@pytest.fixture
def own(pictures_bundle: Path, writable: Callable[[Path], Path]) -> Path:
    return writable(pictures_bundle)


def vector(memory: Memory) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((1, memory.dim)).astype(np.float32)


class TestWaysIn:
    def test_added_composed_and_decomposed_it_is_one_class(self, own: Path) -> None:
        memory = Memory.open(own)
        before = len(memory.labels)
        for name in (DECOMPOSED, CAFE, DECOMPOSED):
            memory.add(vector(memory), name)
        assert len(memory.labels) == before + 1
        assert CAFE in memory.labels
        assert memory.search(vector(memory), 1, labels=[DECOMPOSED]) == memory.search(vector(memory), 1, labels=[CAFE])
        memory.remove(DECOMPOSED)
        assert CAFE not in Memory.open(own).labels

    def test_relabelled(self, own: Path) -> None:
        memory = Memory.open(own)
        memory.relabel("cat", DECOMPOSED)
        memory.relabel("rocket", CAFE)
        assert sorted(memory.labels) == sorted(["coffee", "grass", CAFE])
        with pytest.raises(InputError, match="has this name already"):
            memory.relabel(CAFE, DECOMPOSED)

    @pytest.mark.parametrize("name", BAD[:-2], ids=IDS)
    def test_bad_names_change_nothing(self, own: Path, name: str) -> None:
        memory = Memory.open(own)
        for change in (lambda: memory.add(vector(memory), name), lambda: memory.relabel("cat", name)):
            with pytest.raises(InputError, match="class name"):
                change()
        assert not (own / "memory.log").exists()

    @pytest.mark.parametrize("name", BAD[:-2], ids=IDS)
    @pytest.mark.parametrize("where", ["classes", "descriptions", "tags", "tagged", "pictures"])
    def test_a_build_refuses_them_before_it_embeds(
        self, own: Path, labelled_folder: Path, name: str, where: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from rar.export.pictures.embed import EmbeddedPictures
        from rar.export.pictures.labelled import LabelledImage, read_images

        def never(_: EmbeddedPictures) -> None:
            raise AssertionError("pictures are embedded")

        monkeypatch.setattr(EmbeddedPictures, "embed", never)
        images = read_images(labelled_folder)
        source = {
            "classes": MemorySource(images=images, classes=["cat", name]),
            "descriptions": MemorySource(images=images, descriptions={name: ["x"]}),
            "tags": MemorySource(images=images, tags={name: ["cat"]}),
            "tagged": MemorySource(images=images, tags={"animals": [name]}),
            "pictures": MemorySource(images=[*images, LabelledImage(images[0].path, name)]),
        }[where]
        with pytest.raises(InputError):
            build_memory(Bundle.open(own), source, provider="cpu")

    def test_a_sentence_that_is_no_text(self, own: Path) -> None:
        source = MemorySource(classes=["cat"], descriptions={"cat": ["an \ud800"]})
        with pytest.raises(InputError, match="not Unicode text"):
            build_memory(Bundle.open(own), source, provider="cpu")

    def test_a_build_joins_both_forms(self, own: Path, labelled_folder: Path) -> None:
        from rar.export.pictures.labelled import LabelledImage

        paths = sorted(labelled_folder.rglob("*.jpg"))[:2]
        source = MemorySource(
            images=[LabelledImage(paths[0], CAFE), LabelledImage(paths[1], DECOMPOSED)],
            descriptions={DECOMPOSED: ["a hot drink"]},
            tags={DECOMPOSED: [DECOMPOSED]},
        )
        build_memory(Bundle.open(own), source, dim="none", provider="cpu")
        memory = Memory.open(own)
        assert memory.labels == [CAFE]
        assert memory.tags == {CAFE: [CAFE]}
        assert memory.search(vector(memory), 1, tags=[DECOMPOSED])[0][0].label == CAFE
        assert len(Recognizer.open(own, "cpu").recognize(paths, rank="none", labels=[DECOMPOSED])) == 2


class TestMemoriesOfBefore:
    """They may hold decomposed names and longer ones."""

    @pytest.mark.parametrize("name", [DECOMPOSED, "x" * (MAX_NAME + 1)], ids=["decomposed", "long"])
    def test_they_open_and_change_and_stay_readable(
        self, own: Path, name: str, replace_file: Callable[..., Path]
    ) -> None:
        labels = json.dumps([name, "coffee", "grass", "rocket"]).encode()
        replace_file(own, "memory", "labels.json", labels)
        memory = Memory.open(own)
        assert memory.labels[0] == name
        memory.remove("grass")
        memory.relabel(name, "short")
        memory.relabel("short", "cat")
        memory.remove("cat")
        assert Memory.open(own).labels == memory.labels == ["coffee", "rocket"]

    def test_a_long_name_can_be_removed(self, own: Path, replace_file: Callable[..., Path]) -> None:
        name = "x" * (MAX_NAME + 1)
        replace_file(own, "memory", "labels.json", json.dumps([name, "coffee", "grass", "rocket"]).encode())
        Memory.open(own).remove(name)
        assert Memory.open(own).labels == ["coffee", "grass", "rocket"]

    def test_a_decomposed_name_is_found_and_grows_by_either(self, own: Path, replace_file: Callable[..., Path]) -> None:
        replace_file(own, "memory", "labels.json", json.dumps([DECOMPOSED, "coffee", "grass", "rocket"]).encode())
        memory = Memory.open(own)
        memory.add(vector(memory), CAFE)
        assert len(memory.labels) == 4
        assert len(memory.texts(CAFE)) == len(memory.texts(DECOMPOSED)) > 0
        memory.relabel(DECOMPOSED, CAFE)
        assert Memory.open(own).labels[0] == CAFE
