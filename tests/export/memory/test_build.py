"""Memories from every source, and an old memory that stays when the new one fails."""

import os
import resource
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundles import tree

from rar.export.interchange import Embeddings
from rar.export.memory.build import MemorySource, build_memory
from rar.export.pictures.labelled import LabelledImage, read_images
from rar.runtime import Bundle, BundleError, InputError, Memory, Recognizer
from rar.runtime.encoder.clip import Clip
from rar.runtime.memory.fit.index import IndexOptions
from rar.runtime.picture.load import load_image

DIM = 32


@pytest.fixture
def own(tiny_bundle: Path, writable: Callable[[Path], Path]) -> Path:
    """An encoder without memory."""
    return writable(tiny_bundle)


@pytest.fixture(scope="module")
def images(labelled_folder: Path) -> list[LabelledImage]:
    return read_images(labelled_folder)


def build(root: Path, dim: str = "none", **source: Any) -> Memory:
    weight = source.pop("text_weight", None)
    build_memory(Bundle.open(root), MemorySource(**source), dim=dim, text_weight=weight, provider="cpu")
    return Memory.open(root)


class TestSources:
    def test_pictures(self, own: Path, images: list[LabelledImage]) -> None:
        memory = build(own, images=images)
        assert memory.labels == ["cat", "coffee", "grass", "rocket"]
        assert memory.text_weight == 0
        assert (len(memory.parts["pictures"]), len(memory.parts["texts"])) == (12, 4)
        clip = Clip(Bundle.open(own), "cpu")
        expected = np.stack([clip.embed_pixels(clip.preprocess([load_image(image.path)]))[0] for image in images])
        np.testing.assert_allclose(memory.parts["pictures"].vectors, expected, atol=1e-3)
        assert [memory.labels[i] for i in memory.parts["pictures"].labels] == [image.label for image in images]

    def test_more_pictures_than_one_batch(self, own: Path, images: list[LabelledImage]) -> None:
        many = [image for image in images for _ in range(6)]
        vectors = build(own, images=many).parts["pictures"].vectors
        few = build(own, images=images).parts["pictures"].vectors
        assert len(vectors) == 72
        np.testing.assert_allclose(vectors[::6], few, atol=1e-3)

    def test_names(self, own: Path) -> None:
        memory = build(own, classes=["rocket", "cat", "hot dog"])
        assert memory.labels == ["rocket", "cat", "hot dog"]
        assert (memory.text_weight, list(memory.parts)) == (1, ["texts"])
        expected = Clip(Bundle.open(own), "cpu").embed_names(memory.labels)
        np.testing.assert_allclose(memory.parts["texts"].vectors, expected, atol=1e-3)

    def test_names_with_descriptions(self, own: Path) -> None:
        descriptions = {"cat": ["whiskers", "ears"], "rocket": ["a launch pad"]}
        memory = build(own, classes=["rocket", "dog", "cat"], descriptions=descriptions)
        assert memory.parts["texts"].labels.tolist() == [0, 0, 1, 2, 2, 2]
        clip = Clip(Bundle.open(own), "cpu")
        expected = np.vstack(
            [
                *(clip.embed_names(["rocket"]), clip.embed_texts(["a launch pad"])),
                clip.embed_names(["dog"]),
                *(clip.embed_names(["cat"]), clip.embed_texts(["whiskers", "ears"])),
            ]
        )
        np.testing.assert_allclose(memory.parts["texts"].vectors, expected, atol=1e-3)

    def test_descriptions_alone(self, own: Path) -> None:
        memory = build(own, descriptions={"cat": ["whiskers"], "dog": []})
        assert memory.labels == ["cat", "dog"]
        assert (memory.text_weight, memory.classes) == (1, 2)

    def test_pictures_with_names_add_up(self, own: Path, images: list[LabelledImage]) -> None:
        memory = build(own, images=images, classes=["zebra", "grass"])
        assert memory.labels == ["zebra", "grass", "cat", "coffee", "rocket"]
        assert memory.classes == 5
        assert 0 < memory.text_weight < 1

    def test_pictures_with_descriptions_of_some(self, own: Path, images: list[LabelledImage]) -> None:
        memory = build(own, images=images, descriptions={"grass": ["green blades"]}, text_weight=0.0)
        assert memory.labels[0] == "grass"
        assert np.bincount(memory.parts["texts"].labels).tolist() == [2, 1, 1, 1]
        assert memory.text_weight == 0

    def test_embeddings(self, own: Path) -> None:
        raw = np.random.default_rng(0).normal(size=(5, DIM)) * 7
        memory = build(own, embeddings=Embeddings.of(raw, ["b", "a", "b", "a", "c"]))
        assert memory.labels == ["a", "b", "c"]
        assert memory.parts["pictures"].labels.tolist() == [1, 0, 1, 0, 2]
        expected = raw / np.linalg.norm(raw, axis=1, keepdims=True)
        np.testing.assert_allclose(memory.parts["pictures"].vectors, expected, atol=1e-3)
        assert memory.text_weight == 0

    def test_embeddings_with_names(self, own: Path) -> None:
        raw = np.random.default_rng(0).normal(size=(2, DIM))
        memory = build(own, embeddings=Embeddings.of(raw, ["b", "a"]), classes=["a", "b", "c"])
        assert (memory.labels, memory.classes) == (["a", "b", "c"], 3)

    @pytest.mark.parametrize("weight", [0.0, 0.25, 1.0])
    def test_the_weight_is_kept(self, own: Path, images: list[LabelledImage], weight: float) -> None:
        assert build(own, images=images, text_weight=weight).text_weight == weight

    def test_odd_names_are_data(self, own: Path) -> None:
        names = ["{}", '"quoted", [x]', "a\nb", "</s>", "烤鸭", "x" * 2000]
        assert build(own, classes=names).labels == names

    def test_replaces_the_old_one(self, own: Path, images: list[LabelledImage]) -> None:
        build(own, classes=["a", "b"])
        memory = build(own, images=images)
        assert len(memory.labels) == 4
        files = [name for name in tree(own) if not name.startswith("checks/")]  # of which the manifest says nothing
        assert Bundle.open(own).verify() == len(files) - 1

    def test_works_for_the_recognizer(self, own: Path, images: list[LabelledImage]) -> None:
        build(own, images=images)
        results = Recognizer.open(own, "cpu").recognize([image.path for image in images], k=1)
        assert [result.label for result in results] == [image.label for image in images]


class TestIndex:
    @pytest.mark.parametrize(("dim", "pictures", "texts"), [("none", 32, 33), ("1/4", 8, 4), ("5", 5, 4)])
    def test_dimensions(self, own: Path, images: list[LabelledImage], dim: str, pictures: int, texts: int) -> None:
        """Four names span three dimensions at most; the index across modalities has one more."""
        memory = build(own, dim, images=images)
        assert memory.parts["pictures"].reduction.dim == pictures
        assert memory.parts["texts"].reduction.dim == texts
        info = Bundle.open(own).component("memory").info
        assert info["pictures"]["asked"] == info["texts"]["asked"] == dim
        assert info["pictures"]["reducer"] == ("none" if dim == "none" else "pca")

    def test_the_default_serves_a_small_encoder(self, own: Path) -> None:
        build_memory(Bundle.open(own), MemorySource(classes=["a", "b"]), provider="cpu")
        assert Memory.open(own).parts["texts"].reduction.components is None

    def test_what_else_is_asked(self, own: Path) -> None:
        raw = np.random.default_rng(0).normal(size=(700, DIM))
        source = MemorySource(embeddings=Embeddings.of(raw, ["a", "b"] * 350))
        options = IndexOptions("truncate", "i8", shards=3)
        info = build_memory(Bundle.open(own), source, "1/2", provider="cpu", index=options, pool=2)
        assert info["pool"] == 2
        told = {key: info["pictures"][key] for key in ("reducer", "index_dtype", "shards", "index_dim", "entries")}
        assert told == {"reducer": "truncate", "index_dtype": "i8", "shards": 3, "index_dim": 16, "entries": 700}
        assert info["texts"]["shards"] == 1
        part = Memory.open(own).parts["pictures"]
        assert [graph.dtype for graph in part.graphs] == ["i8"] * 3
        assert part.reduction.scale != 1

    def test_a_recall(self, own: Path) -> None:
        from rar.benchmarks.memory.synthetic import Mixture

        vectors = np.concatenate([block for block, _ in Mixture(dim=DIM, intrinsic=12, clusters=30).entries(3000)])
        source = MemorySource(embeddings=Embeddings.of(vectors, ["a", "b", "c"] * 1000))
        info = build_memory(Bundle.open(own), source, "recall=99", provider="cpu")["pictures"]
        assert info["asked"] == "recall=99"
        assert 1 < info["index_dim"] < DIM
        assert info["recall"] >= 0.98

    def test_tags(self, own: Path, images: list[LabelledImage]) -> None:
        assert not build(own, images=images).tags
        tags = {"drink": ["coffee"], "alive": ["cat", "grass"]}
        memory = build(own, images=images, tags=tags)
        assert memory.tags == tags
        found = memory.search(memory.parts["pictures"].vectors[:3].astype(np.float32), 2, tags=["alive"])
        assert [{candidate.label for candidate in row} for row in found] == [{"cat", "grass"}] * 3

    def test_entries_know_where_they_came_from(self, own: Path, images: list[LabelledImage]) -> None:
        memory = build(own, images=images, descriptions={"grass": ["green blades"]})
        pictures, texts = memory.parts["pictures"], memory.parts["texts"]
        assert [pictures.source(i) for i in range(len(pictures))] == [str(image.path) for image in images]
        assert [texts.source(i) for i in range(len(texts))] == ["grass", "green blades", "cat", "coffee", "rocket"]


class TestRefusals:
    """Whatever fails, the memory that was there stays."""

    @pytest.fixture
    def filled(self, names_bundle: Path, writable: Callable[[Path], Path]) -> Path:
        return writable(names_bundle)

    @pytest.mark.parametrize("kind", ["missing", "truncated", "text"])
    def test_a_picture_that_cannot_be_read(
        self, filled: Path, tmp_path: Path, images: list[LabelledImage], kind: str
    ) -> None:
        broken = tmp_path / "broken.jpg"
        if kind != "missing":
            broken.write_bytes(images[0].path.read_bytes()[:900] if kind == "truncated" else b"no picture")
        before = tree(filled)
        with pytest.raises(InputError, match=r"class 'dog': .*broken\.jpg: .*mend or remove"):
            build(filled, images=[*images, LabelledImage(broken, "dog")])
        assert tree(filled) == before

    @pytest.mark.parametrize(
        ("source", "message"),
        [
            ({}, "no class name"),
            ({"classes": ["a", "a"]}, None),
            ({"classes": ["a", " "]}, "blank"),
            ({"classes": ["a"], "descriptions": {"b": ["x"]}}, "descriptions name 'b', which is none of"),
            ({"classes": ["a"], "text_weight": 0.0}, "text weight"),
            ({"classes": ["a"], "text_weight": 0.5}, "text weight"),
            ({"classes": ["a"], "text_weight": 1.5}, "text weight"),
            ({"classes": ["a"], "text_weight": float("nan")}, "text weight"),
            ({"classes": ["a"], "tags": {"x": ["a", "b"]}}, "the tag 'x' names 'b', which is none of"),
            ({"classes": ["a"], "dim": "33"}, "32 dimensions"),
            ({"classes": ["a"], "dim": "recall=101"}, "at most 100 percent"),
            ({"classes": ["a"], "dim": "x"}, "no number"),
        ],
        ids=str,
    )
    def test_sources_that_do_not_fit(self, filled: Path, source: dict[str, Any], message: str | None) -> None:
        before = tree(filled)
        if message is None:  # a library caller's duplicates are one class
            assert build(filled, **source).labels == ["a"]
            return
        with pytest.raises(InputError, match=message):
            build(filled, **source)
        assert tree(filled) == before

    def test_a_bundle_without_encoder(self, filled: Path, edit_manifest: Callable[..., None]) -> None:
        edit_manifest(filled, lambda manifest: manifest["components"].pop("clip"))
        with pytest.raises(BundleError, match="rar-export clip"):
            build(filled, classes=["a"])

    def test_an_altered_text_tower(self, filled: Path) -> None:
        path = filled / "clip" / "text.onnx.data"
        path.write_bytes(path.read_bytes()[:-1] + b"\x01")
        before = tree(filled)
        with pytest.raises(BundleError, match=r"text\.onnx\.data: altered"):
            build(filled, classes=["a"])
        assert tree(filled) == before

    def test_a_full_disk(self, filled: Path) -> None:
        vectors = np.random.default_rng(0).normal(size=(4000, DIM))
        source = Embeddings.of(vectors, ["a", "b"] * 2000)
        before = tree(filled)
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        try:
            for size in (100_000, 300_000):  # the vectors, or the index behind them
                resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
                with pytest.raises(BundleError, match=r"cannot be written .*; the old memory stays"):
                    build(filled, embeddings=source)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            signal.signal(signal.SIGXFSZ, handler)
        after = tree(filled)
        assert {**after, "memory.lock": b""} == {**before, "memory.lock": b""}

    def test_a_memory_that_is_being_changed(self, filled: Path) -> None:
        memory = Memory.open(filled)
        memory.add(np.eye(DIM, dtype=np.float32)[:1], ["cat"])
        with pytest.raises(BundleError, match=f"is being changed by process {os.getpid()}"):
            build(filled, classes=["a", "b"])
        memory.close()
        assert build(filled, classes=["a", "b"]).labels == ["a", "b"]
        assert not (filled / "memory.log").exists()

    def test_what_a_killed_build_left_is_cleared_away(self, filled: Path) -> None:
        (filled / ".memory-abc").mkdir()
        (filled / ".memory-abc" / "vectors.npy").write_bytes(bytes(1000))
        build(filled, classes=["a", "b"])
        assert not (filled / ".memory-abc").exists()

    def test_a_memory_is_tied_to_its_encoder(self, filled: Path, tmp_path: Path) -> None:
        shutil.copytree(filled, tmp_path / "again")
        assert (
            Bundle.open(filled).component("memory").info["encoder"]
            == Bundle.open(tmp_path / "again").component("clip").fingerprint
        )


def test_grocery_memory_finds_its_own_classes(grocery: Path, own: Path) -> None:
    """The data set's real CSV and descriptions, a few shots a class, through the tiny encoder."""
    from rar.export.pictures.labelled import few_shot, read_classes, read_descriptions

    images = few_shot(read_images(grocery / "train.csv"), 1, seed=0)
    memory = build(own, "1/2", images=images, text_weight=0.0)
    assert len(memory.labels) == len(images) == 81
    assert set(read_classes(grocery / "classes.txt")) == set(memory.labels)
    assert set(read_descriptions(grocery / "descriptions.json")) <= set(memory.labels)
    results = Recognizer.open(own, "cpu").recognize([image.path for image in images[:8]], k=5)
    assert [result.label for result in results] == [image.label for image in images[:8]]
