"""The encoder at run time: what it refuses to load."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

from rar.runtime import Bundle, BundleError
from rar.runtime.bundle.external_data import contents
from rar.runtime.encoder.clip import Clip
from rar.runtime.session import OnnxSession


def test_the_text_tower_is_loaded_only_when_texts_are_embedded(tiny_bundle: Path, tmp_path: Path) -> None:
    root = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, root)
    path = root / "clip/text.onnx.data"
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    clip = Clip(Bundle.open(root), "cpu")
    clip.embed_pixels(clip.preprocess([np.zeros((8, 8, 3), np.uint8)]))
    with pytest.raises(BundleError, match=r"text\.onnx\.data: altered"):
        clip.embed_texts(["a"])


def test_each_tower_takes_weights_from_its_own_file(tiny_bundle: Path) -> None:
    for name in ("visual.onnx", "text.onnx"):
        assert contents(Bundle.open(tiny_bundle).graph("clip", name)).files == {f"{name}.data"}


def test_names_are_data_in_the_template(tiny_bundle: Path) -> None:
    clip = Clip(Bundle.open(tiny_bundle), "cpu")
    embeddings = clip.embed_names(["{}", "{0}", "%s", "a {} b"])
    assert np.isfinite(embeddings).all()
    np.testing.assert_allclose(
        embeddings, clip.embed_texts([f"a photo of a {n}." for n in ("{}", "{0}", "%s", "a {} b")]), atol=1e-5
    )


def test_no_texts_give_an_empty_matrix(tiny_bundle: Path) -> None:
    clip = Clip(Bundle.open(tiny_bundle), "cpu")
    assert clip.embed_texts([]).shape == (0, clip.dim)


@pytest.mark.parametrize("location", ["../secret", "absolute"])
def test_weights_outside_the_graphs_folder_are_not_read(location: str, tiny_bundle: Path, tmp_path: Path) -> None:
    """A stranger's graph may name any file as its weights."""
    secret = tmp_path / "secret"
    shutil.copy(tiny_bundle / "clip/visual.onnx.data", secret)
    model = onnx.load(str(tiny_bundle / "clip/visual.onnx"), load_external_data=False)
    for initializer in model.graph.initializer:
        for entry in initializer.external_data:
            if entry.key == "location":
                entry.value = str(secret) if location == "absolute" else location
    (tmp_path / "inside").mkdir()
    path = tmp_path / "inside/visual.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(BundleError, match="cannot load it"):
        OnnxSession(path, "cpu")
