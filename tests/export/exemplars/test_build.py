"""Which pictures become exemplars, and what is kept of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from by_hand import WIDTH, add_mllm, write_bundle
from memories import unit

from rar.export.cli import main
from rar.export.exemplars.build import build_exemplars, cover
from rar.export.pictures.labelled import read_images
from rar.runtime import Bundle, BundleError, InputError
from rar.runtime.cli import recognize
from rar.runtime.encoder.clip import Clip
from rar.runtime.picture.load import load_image
from rar.runtime.rank.mllm.model import Mllm
from rar.runtime.rank.protocol import Query


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shared: copy before writing."""
    return add_mllm(write_bundle(tmp_path_factory.mktemp("build") / "bundle"))


@pytest.fixture
def own(root: Path, writable: Callable[[Path], Path]) -> Path:
    return writable(root)


class TestCover:
    def test_the_first_is_the_medoid(self) -> None:
        vectors = unit(np.random.default_rng(0).normal(size=(20, 6)))
        assert cover(vectors, 1) == [int((vectors @ vectors.T).sum(1).argmax())]

    def test_the_next_stands_for_what_the_first_does_not(self) -> None:
        few, many = np.eye(2, dtype=np.float32)
        assert sorted(cover(np.array([few, many, many, many, few]), 2)) == [0, 1]

    def test_none_is_taken_twice(self) -> None:
        assert sorted(cover(np.ones((3, 1), np.float32), 5)) == [0, 1, 2]


def test_what_is_kept_is_what_the_model_sees(own: Path, labelled_folder: Path) -> None:
    images = read_images(labelled_folder)
    info = build_exemplars(Bundle.open(own), images, 2, "cpu", 1)
    bundle = Bundle.open(own)
    assert (info["pictures"], info["classes"], info["image_tokens"], info["dim"]) == (8, 4, 4, WIDTH)
    labels = bundle.read_json("exemplars", "labels.json")
    assert labels == ["cat", "cat", "coffee", "coffee", "grass", "grass", "rocket", "rocket"]
    clip = Clip(bundle, "cpu", 1)
    model, seen = Mllm(bundle, clip, 1), [load_image(image.path) for image in images]
    vectors = clip.see(clip.preprocess(seen)).embeddings
    kept, embeds = (np.load(bundle.file("exemplars", name)) for name in ("vectors.npy", "embeds.npy"))
    assert (kept.dtype, embeds.dtype) == (np.float16, np.float16)
    for label, vector, embed in zip(labels, kept, embeds, strict=True):
        place = int(np.abs(vectors - vector).sum(1).argmin())
        assert images[place].label == label
        own_embed = model.see([Query(seen[place], vectors[place], ())])[0]
        np.testing.assert_allclose(embed, own_embed, atol=1e-2, rtol=1e-3)


def test_the_command_says_what_they_take_and_they_are_used(
    own: Path, labelled_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["memory", str(own), "--images", str(labelled_folder), "--dim", "none", "--provider", "cpu"]) == 0
    capsys.readouterr()
    for _ in range(2):  # what was kept is replaced
        assert main(["exemplars", str(own), "--images", str(labelled_folder), "--provider", "cpu"]) == 0
        assert capsys.readouterr().out == (
            f"{own}: 4 exemplars of 4 classes, 4 tokens of 12 numbers each: 0.1 KiB a picture, 0.0 MiB in all\n"
        )
    assert main(["verify", str(own)]) == 0
    assert "exemplars: 4 pictures, as this encoder and this MLLM see them" in capsys.readouterr().out
    picture = next(labelled_folder.glob("cat/*.png"))
    argv = [str(own), str(picture), "--rank", "mllm", "--exemplars", "1", "--json", "--provider", "cpu", "--k", "3"]
    assert recognize.main(argv) == 0
    assert json.loads(capsys.readouterr().out)["ranked_by"] == "mllm"


def test_a_memory_that_is_built_again_keeps_them(own: Path, labelled_folder: Path) -> None:
    build_exemplars(Bundle.open(own), read_images(labelled_folder), provider="cpu", threads=1)
    assert main(["memory", str(own), "--images", str(labelled_folder), "--dim", "none", "--provider", "cpu"]) == 0
    assert "exemplars" in Bundle.open(own).components


class TestRefused:
    def test_no_pictures(self, root: Path) -> None:
        with pytest.raises(InputError, match="need labelled pictures"):
            build_exemplars(Bundle.open(root), [])

    def test_none_a_class(self, root: Path, labelled_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["exemplars", str(root), "--images", str(labelled_folder), "--per-class", "0"]) == 2
        assert "per_class=0; give how many" in capsys.readouterr().err

    def test_a_broken_picture(self, root: Path, tmp_path: Path) -> None:
        (tmp_path / "cat").mkdir()
        (tmp_path / "cat" / "a.png").write_bytes(b"garbage")
        with pytest.raises(InputError, match=r"a\.png"):
            build_exemplars(Bundle.open(root), read_images(tmp_path), provider="cpu")
        assert "exemplars" not in Bundle.open(root).components

    def test_a_bundle_without_an_mllm(self, tmp_path: Path, labelled_folder: Path) -> None:
        bare = write_bundle(tmp_path / "bundle")
        with pytest.raises(InputError, match="holds no MLLM"):
            build_exemplars(Bundle.open(bare), read_images(labelled_folder), provider="cpu")

    def test_pictures_beyond_sixteen_bits(
        self, own: Path, labelled_folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real = Mllm.see
        monkeypatch.setattr(Mllm, "see", lambda self, queries: real(self, queries) * 1e6)
        with pytest.raises(BundleError, match="do not fit 16 bits"):
            build_exemplars(Bundle.open(own), read_images(labelled_folder), provider="cpu")
