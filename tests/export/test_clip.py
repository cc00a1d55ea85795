"""Encoders exported from open_clip and Hugging Face, against the PyTorch models they came from."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rar.export import huggingface, openclip, parity
from rar.export.clip import export_clip
from rar.export.dual_encoder import DualEncoder
from rar.export.graph import PRECISIONS, Precision
from rar.runtime import Bundle, ExportError, InputError
from rar.runtime.clip import Clip
from rar.runtime.images import load_image

Loader = Callable[[], DualEncoder]


@pytest.fixture(params=["open_clip", "transformers clip", "transformers siglip"], scope="module")
def encoder(request: pytest.FixtureRequest) -> DualEncoder:
    if request.param == "open_clip":
        config, checkpoint = request.getfixturevalue("tiny_openclip")
        return openclip.load(str(config), str(checkpoint))
    name = "hugging_face_clip" if request.param.endswith("clip") else "hugging_face_siglip"
    return huggingface.load(str(request.getfixturevalue(name)))


def test_the_runtime_gives_the_models_own_embeddings(encoder: DualEncoder, photos: list[Path], tmp_path: Path) -> None:
    info = export_clip(encoder, tmp_path / "bundle", "fp32")
    clip = Clip(Bundle.open(tmp_path / "bundle"), "cpu")
    # End to end on square cuts: the model's own preparation and PyTorch against ours and ONNX Runtime.
    cuts = [load_image(path)[:200, :200] for path in photos[:6]]
    own = np.stack([encoder.reference_preprocess(Image.fromarray(np.ascontiguousarray(cut))) for cut in cuts])
    texts = parity.sample_strings(40, seed=3)
    with torch.inference_mode():
        pictures = encoder.visual(torch.from_numpy(own)).numpy()
        sentences = encoder.text(torch.from_numpy(encoder.reference_tokenize(texts))).numpy()
    assert parity.cosines(clip.embed_pixels(clip.preprocess(cuts)), pictures).min() >= 0.9999
    assert parity.cosines(clip.embed_texts(texts), sentences).min() >= 0.9999
    assert info["parity"]["visual"]["min"] >= 0.9999
    assert info["parity"]["text"]["min"] >= 0.9999


def test_a_thousand_strings_are_tokenized_alike(encoder: DualEncoder) -> None:
    texts = parity.sample_strings(1000)
    assert np.array_equal(encoder.runtime_tokenizer()(texts), encoder.reference_tokenize(texts))


def test_embeddings_are_unit_vectors_for_any_batch(encoder: DualEncoder, tmp_path: Path) -> None:
    export_clip(encoder, tmp_path / "bundle", "fp32")
    clip = Clip(Bundle.open(tmp_path / "bundle"), "cpu")
    chance = np.random.default_rng(0)
    images = [chance.integers(0, 256, (40, 50, 3), np.uint8) for _ in range(5)]
    together = clip.embed_pixels(clip.preprocess(images))
    alone = np.concatenate([clip.embed_pixels(clip.preprocess([image])) for image in images])
    assert together.shape == (5, clip.dim)
    np.testing.assert_allclose(together, alone, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    names = ["cat", "a much longer name of a class"]
    np.testing.assert_allclose(np.linalg.norm(clip.embed_names(names), axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("precision", [p for p in PRECISIONS if p != "fp32"])
def test_lower_precisions_stay_within_their_limits(
    precision: Precision, tiny_openclip: tuple[Path, Path], tmp_path: Path
) -> None:
    config, checkpoint = tiny_openclip
    info = export_clip(openclip.load(str(config), str(checkpoint)), tmp_path / "bundle", precision)
    least, mean = parity.LIMITS[precision]
    assert least <= info["parity"]["visual"]["min"] < 1
    assert info["parity"]["visual"]["mean"] >= mean
    full = tmp_path / "full"
    export_clip(openclip.load(str(config), str(checkpoint)), full, "fp32")
    sizes = [Bundle.open(path).component("clip").files["text.onnx.data"].bytes for path in (tmp_path / "bundle", full)]
    assert sizes[0] < sizes[1]


def test_a_convolutional_tower_is_quantised_statically(tmp_path: Path) -> None:
    import open_clip

    config = tmp_path / "tiny_resnet.json"
    config.write_text(
        json.dumps(
            {
                "embed_dim": 32,
                "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16, "head_width": 32},
                "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
            }
        )
    )
    open_clip.add_model_config(config)
    torch.manual_seed(0)
    torch.save(open_clip.create_model("tiny_resnet").state_dict(), tmp_path / "tiny_resnet.pt")
    info = export_clip(openclip.load(str(config), str(tmp_path / "tiny_resnet.pt")), tmp_path / "bundle", "int8")
    assert info["scheme"] == {"visual": "int8 static", "text": "int8 dynamic"}


@pytest.mark.parametrize("resize_mode", ["shortest", "squash", "longest"])
def test_the_models_own_resize_mode_and_filter_are_kept(
    resize_mode: str, tiny_openclip: tuple[Path, Path], photos: list[Path], tmp_path: Path
) -> None:
    config = json.loads(tiny_openclip[0].read_text())
    (tmp_path / "open_clip_config.json").write_text(
        json.dumps(
            {
                "model_cfg": config,
                "preprocess_cfg": {
                    "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4], "interpolation": "bilinear",
                    "resize_mode": resize_mode, "fill_color": 7,
                },
            }
        )
    )  # fmt: skip
    shutil.copy(tiny_openclip[1], tmp_path / "open_clip_pytorch_model.bin")
    encoder = openclip.load(str(tmp_path), None)
    assert encoder.preprocess.filter == "bilinear"
    for path in photos[:5]:
        pixels = load_image(path)
        np.testing.assert_allclose(
            encoder.preprocess([pixels])[0], encoder.reference_preprocess(Image.fromarray(pixels)), atol=1e-6
        )


def test_a_quantisation_that_is_too_far_off_leaves_nothing_behind(
    tiny_openclip: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, checkpoint = tiny_openclip
    encoder = openclip.load(str(config), str(checkpoint))
    monkeypatch.setitem(parity.LIMITS, "int8", (0.9999999, 0.9999999))
    with pytest.raises(ExportError, match="too far from PyTorch"):
        export_clip(encoder, tmp_path / "bundle", "int8")
    assert os.listdir(tmp_path) == []


def test_an_encoder_is_never_written_over(tiny_bundle: Path, tiny_openclip: tuple[Path, Path]) -> None:
    config, checkpoint = tiny_openclip
    before = (tiny_bundle / "bundle.json").read_bytes()
    with pytest.raises(ExportError, match="holds an encoder already"):
        export_clip(openclip.load(str(config), str(checkpoint)), tiny_bundle)
    assert (tiny_bundle / "bundle.json").read_bytes() == before


def test_own_pictures_can_be_compared_with(
    tiny_openclip: tuple[Path, Path], labelled_folder: Path, tmp_path: Path
) -> None:
    config, checkpoint = tiny_openclip
    encoder = openclip.load(str(config), str(checkpoint))
    info = export_clip(encoder, tmp_path / "bundle", images=labelled_folder)
    assert info["parity"]["visual"]["count"] == len([p for p in labelled_folder.rglob("*.*") if p.is_file()]) // 2
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no picture"):
        export_clip(encoder, tmp_path / "other", images=tmp_path / "empty")


def test_weights_must_be_named(tiny_openclip: tuple[Path, Path]) -> None:
    with pytest.raises(ExportError, match="--pretrained"):
        openclip.load(str(tiny_openclip[0]), None)


@pytest.mark.parametrize(
    ("model", "pretrained"),
    [("no-such-model", "openai"), ("ViT-B-32", "/no/such/file.pt"), ("missing_config.json", "x.pt")],
)
def test_an_unknown_model_or_checkpoint_is_named(model: str, pretrained: str) -> None:
    with pytest.raises(ExportError, match=model.split(".")[0]):
        openclip.load(model, pretrained)


def test_a_checkpoint_of_another_model_is_refused(tiny_openclip: tuple[Path, Path]) -> None:
    with pytest.raises(ExportError, match="ViT-B-32"):
        openclip.load("ViT-B-32", str(tiny_openclip[1]))


@pytest.mark.parametrize("missing", ["config.json", "preprocessor_config.json", "model.safetensors"])
def test_an_incomplete_hugging_face_folder_is_refused(missing: str, hugging_face_clip: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(hugging_face_clip, folder)
    (folder / missing).unlink()
    with pytest.raises(ExportError, match="model"):
        huggingface.load(str(folder))


def test_another_hugging_face_architecture_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ExportError, match="is a bert model; supported are clip, siglip"):
        huggingface.load(str(tmp_path))
