"""Memories from every source, and an old memory that stays when the new one fails."""

import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rar.export.labelled import LabelledImage, read_images
from rar.export.memory import MemorySource, build_memory, parse_dim, read_embeddings
from rar.runtime import Bundle, BundleError, InputError, Memory, Recognizer
from rar.runtime.clip import Clip
from rar.runtime.images import load_image

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


def tree(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


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
        memory = build(own, images=many)
        few = build(own, images=images)
        vectors = memory.parts["pictures"].vectors
        assert len(vectors) == 72
        np.testing.assert_allclose(vectors[::6], few.parts["pictures"].vectors, atol=1e-3)

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
        memory = build(own, embeddings=raw, embedding_labels=["b", "a", "b", "a", "c"])
        assert memory.labels == ["a", "b", "c"]
        assert memory.parts["pictures"].labels.tolist() == [1, 0, 1, 0, 2]
        expected = raw / np.linalg.norm(raw, axis=1, keepdims=True)
        np.testing.assert_allclose(memory.parts["pictures"].vectors, expected, atol=1e-3)
        assert memory.text_weight == 0

    def test_embeddings_with_names(self, own: Path) -> None:
        raw = np.random.default_rng(0).normal(size=(2, DIM))
        memory = build(own, embeddings=raw, embedding_labels=["b", "a"], classes=["a", "b", "c"])
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
        assert Bundle.open(own).verify() == len(tree(own)) - 1

    def test_works_for_the_recognizer(self, own: Path, images: list[LabelledImage]) -> None:
        build(own, images=images)
        results = Recognizer.open(own, "cpu").recognize([image.path for image in images], k=1)
        assert [result.label for result in results] == [image.label for image in images]


class TestDim:
    @pytest.mark.parametrize(
        ("text", "full", "expected"),
        [
            ("64", 512, 64),
            ("1", 512, 1),
            ("512", 512, 512),
            ("1/9", 512, 57),
            ("1/2", 512, 256),
            ("0.25", 512, 128),
            ("none", 512, None),
            ("8/8", 512, 1),
            ("16/2", 512, 8),
        ],
    )
    def test_forms(self, text: str, full: int, expected: int | None) -> None:
        assert parse_dim(text, full) == expected

    @pytest.mark.parametrize("text", ["", "x", "1/0", "nan", "inf", "None", "1/9/2", "64px", "1,5"])
    def test_what_is_no_number(self, text: str) -> None:
        with pytest.raises(InputError, match="is no number, share such as 1/9, or none"):
            parse_dim(text, 512)

    @pytest.mark.parametrize("text", ["0", "-1", "513", "0/9", "-1/9", "3/2", "1/2000", "1e9"])
    def test_out_of_range(self, text: str) -> None:
        with pytest.raises(InputError, match="512 dimensions; choose 1 to 512"):
            parse_dim(text, 512)

    @given(st.integers(1, 2000), st.integers(1, 2000))
    def test_any_share_is_in_range_or_refused(self, part: int, full: int) -> None:
        try:
            dim = parse_dim(f"{part}/1000", full)
        except InputError:
            return
        assert dim is not None
        assert 1 <= dim <= full

    @pytest.mark.parametrize(("dim", "pictures", "texts"), [("none", 32, 33), ("1/4", 8, 4), ("5", 5, 4)])
    def test_of_the_index(self, own: Path, images: list[LabelledImage], dim: str, pictures: int, texts: int) -> None:
        """Four names span three dimensions at most; the index across modalities has one more."""
        memory = build(own, dim, images=images)
        assert memory.parts["pictures"].reduction.dim == pictures
        assert memory.parts["texts"].reduction.dim == texts

    def test_the_default_serves_a_small_encoder(self, own: Path) -> None:
        build_memory(Bundle.open(own), MemorySource(classes=["a", "b"]), provider="cpu")


def npy(array: npt.NDArray[Any], *, pickled: bool = False) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=pickled)
    return buffer.getvalue()


class TestEmbeddingFiles:
    def write(self, tmp_path: Path, content: bytes, labels: str | bytes) -> tuple[Path, Path]:
        (tmp_path / "v.npy").write_bytes(content)
        (tmp_path / "l.txt").write_bytes(labels if isinstance(labels, bytes) else labels.encode())
        return tmp_path / "v.npy", tmp_path / "l.txt"

    @pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
    @pytest.mark.parametrize("labels", ["a\n b \na", "a\r\nb\r\na\r\n", "\ufeffa\nb\na\n"])
    def test_read(self, tmp_path: Path, dtype: type, labels: str) -> None:
        source = read_embeddings(*self.write(tmp_path, npy(np.ones((3, 4), dtype)), labels))
        assert source.embeddings is not None
        assert source.embeddings.shape == (3, 4)
        assert list(source.embedding_labels) == ["a", "b", "a"]

    @pytest.mark.parametrize("content", [b"", b"garbage", npy(np.ones((3, 4)))[:150], b"PK\x03\x04garbage"])
    def test_no_npy(self, tmp_path: Path, content: bytes) -> None:
        with pytest.raises(InputError, match=r"v\.npy"):
            read_embeddings(*self.write(tmp_path, content, "a\nb\nc"))

    def test_an_npz(self, tmp_path: Path) -> None:
        buffer = io.BytesIO()
        np.savez(buffer, a=np.ones((3, 4)))
        with pytest.raises(InputError, match=r"v\.npy"):
            read_embeddings(*self.write(tmp_path, buffer.getvalue(), "a\nb\nc"))

    @pytest.mark.parametrize("array", [np.ones((3, 4), np.int32), np.array(["a"]), np.ones((3, 4), complex)])
    def test_other_numbers(self, tmp_path: Path, array: npt.NDArray[Any]) -> None:
        with pytest.raises(InputError, match="floating-point"):
            read_embeddings(*self.write(tmp_path, npy(array), "a\nb\nc"))

    def test_a_pickle_is_never_loaded(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"v\.npy"):
            read_embeddings(*self.write(tmp_path, npy(np.array([{}]), pickled=True), "a"))

    def test_labels(self, tmp_path: Path) -> None:
        content = npy(np.ones((3, 4)))
        wrong: list[tuple[str | bytes, str]] = [("a\n\nb", "line 2.*blank"), ("", "blank"), (b"\xff", "cannot be read")]
        for labels, message in wrong:
            with pytest.raises(InputError, match=message):
                read_embeddings(*self.write(tmp_path, content, labels))
        for missing in (0, 1):
            files = list(self.write(tmp_path, content, "a\nb\nc"))
            files[missing] = tmp_path / "nowhere"
            with pytest.raises(InputError, match="nowhere"):
                read_embeddings(*files)

    @pytest.mark.parametrize("shape", [(2, DIM), (4, DIM), (3, DIM + 1), (3, 1, DIM), (3 * DIM,), (0, DIM)], ids=str)
    def test_a_shape_that_does_not_fit(self, own: Path, shape: tuple[int, ...]) -> None:
        with pytest.raises(InputError, match="do not fit 3 labels and the encoder's 32 dimensions"):
            build(own, embeddings=np.ones(shape), embedding_labels=["a", "b", "c"])

    @pytest.mark.parametrize("value", [0.0, np.nan, np.inf, -np.inf])
    @pytest.mark.filterwarnings("ignore")
    def test_rows_that_are_none(self, own: Path, value: float) -> None:
        embeddings = np.ones((3, DIM))
        embeddings[1] = value
        with pytest.raises(InputError, match="embedding 1 is zero, NaN or infinite"):
            build(own, embeddings=embeddings, embedding_labels=["a", "b", "c"])

    @pytest.mark.filterwarnings("ignore:overflow")
    @pytest.mark.parametrize(("dtype", "value"), [(np.float32, 3e38), (np.float64, 1e300), (np.float64, 1e-200)])
    def test_extreme_lengths_are_scaled(self, own: Path, dtype: type, value: float) -> None:
        raw = np.random.default_rng(0).choice([-1.0, 1.0], (3, DIM)).astype(dtype) * dtype(value)
        try:
            memory = build(own, embeddings=raw, embedding_labels=["a", "b", "c"])
        except InputError:
            return
        np.testing.assert_allclose(np.abs(memory.parts["pictures"].vectors), DIM**-0.5, atol=1e-3)


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
            ({"classes": ["a"], "dim": "33"}, "32 dimensions"),
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

    def test_a_memory_is_tied_to_its_encoder(self, filled: Path, tmp_path: Path) -> None:
        shutil.copytree(filled, tmp_path / "again")
        assert (
            Bundle.open(filled).component("memory").info["encoder"]
            == Bundle.open(tmp_path / "again").component("clip").fingerprint
        )


def test_grocery_memory_finds_its_own_classes(grocery: Path, own: Path) -> None:
    """The data set's real CSV and descriptions, a few shots a class, through the tiny encoder."""
    from rar.export.labelled import few_shot, read_classes, read_descriptions

    images = few_shot(read_images(grocery / "train.csv"), 1, seed=0)
    memory = build(own, "1/2", images=images, text_weight=0.0)
    assert len(memory.labels) == len(images) == 81
    assert set(read_classes(grocery / "classes.txt")) == set(memory.labels)
    assert set(read_descriptions(grocery / "descriptions.json")) <= set(memory.labels)
    results = Recognizer.open(own, "cpu").recognize([image.path for image in images[:8]], k=5)
    assert [result.label for result in results] == [image.label for image in images[:8]]
