"""Encoders exported from open_clip and Hugging Face, against the PyTorch models they came from."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from rar.export.cli import main
from rar.export.encoder import huggingface, openclip, parity
from rar.export.encoder.export import export_clip
from rar.export.encoder.model import DualEncoder
from rar.export.encoder.templates import read_templates
from rar.export.graphs.precisions import PRECISIONS, Precision
from rar.export.pictures.photos import checked_photos
from rar.runtime import Bundle, ExportError, InputError, Preprocess, Recognizer
from rar.runtime.encoder.clip import Clip
from rar.runtime.picture.load import load_image
from rar.runtime.session.checks import Limit, load_runs

Loader = Callable[[], DualEncoder]


@pytest.fixture(
    params=["open_clip", *(f"transformers {name}" for name in ("clip", "siglip", "siglip2", "metaclip2"))],
    scope="module",
)
def encoder(request: pytest.FixtureRequest) -> DualEncoder:
    if request.param == "open_clip":
        config, checkpoint = request.getfixturevalue("tiny_openclip")
        return openclip.load(str(config), str(checkpoint))
    return huggingface.load(str(request.getfixturevalue(f"hugging_face_{request.param.split()[1]}")))


def test_the_runtime_gives_the_models_own_embeddings(encoder: DualEncoder, photos: list[Path], tmp_path: Path) -> None:
    info = export_clip(encoder, tmp_path / "bundle", "fp32")
    clip = Clip(Bundle.open(tmp_path / "bundle"), "cpu")
    # End to end on square cuts: the model's own preparation and PyTorch against ours and ONNX Runtime.
    cuts = [load_image(path)[:200, :200] for path in photos[:6]]
    own = np.stack([encoder.reference_preprocess(Image.fromarray(np.ascontiguousarray(cut))) for cut in cuts])
    texts = parity.sample_strings(40, seed=3)
    with torch.inference_mode():
        pictures = encoder.visual(torch.from_numpy(own)).numpy()
        assert encoder.text is not None
        assert encoder.reference_tokenize is not None
        sentences = encoder.text(torch.from_numpy(encoder.reference_tokenize(texts))).numpy()
    assert parity.cosines(clip.embed_pixels(clip.preprocess(cuts)), pictures).min() >= 0.9999
    assert parity.cosines(clip.embed_texts(texts), sentences).min() >= 0.9999
    assert info["parity"]["visual"]["min"] >= 0.9999
    assert info["parity"]["text"]["min"] >= 0.9999


def test_a_thousand_strings_are_tokenized_alike(encoder: DualEncoder) -> None:
    texts = parity.sample_strings(1000)
    assert encoder.reference_tokenize is not None
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
    limit = parity.LIMITS[precision]
    assert limit.worst <= info["parity"]["visual"]["min"] < 1
    assert info["parity"]["visual"]["mean"] >= limit.mean
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
    assert info["scheme"] == {"visual": "int8 static", "text": "int8 rows and columns"}


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
    monkeypatch.setitem(parity.LIMITS, "int8", Limit(0.9999999, 0.9999999))
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
    # They are not copied into the bundle, which goes to others.
    (run,) = load_runs(Bundle.open(tmp_path / "bundle"), "clip", "visual.onnx")
    shipped = encoder.preprocess([load_image(path) for path in checked_photos()])
    np.testing.assert_allclose(run.inputs["pixel_values"], shipped, atol=2e-3)
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


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "bert"},
        # nomic-ai/nomic-embed-vision-v1.5, whose network is code of its own.
        {"model_type": "nomic_bert", "auto_map": {"AutoModel": "nomic-ai/nomic-bert-2048--modeling.NomicVisionModel"}},
    ],
)
def test_another_hugging_face_architecture_is_refused_by_name(config: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    message = rf"is a {config['model_type']} model; supported are clip, .*, dinov2, .*, dinov3_vit"
    with pytest.raises(ExportError, match=message):
        huggingface.load(str(tmp_path))


def test_siglip_2_reads_texts_in_lower_case_as_it_learned_them(hugging_face_siglip2: Path) -> None:
    encoder = huggingface.load(str(hugging_face_siglip2))
    tokenize = encoder.runtime_tokenizer()
    assert encoder.clean == "lowercase"
    assert np.array_equal(tokenize(["A Photo of a CAT"]), tokenize(["a photo of a cat"]))
    own = transformers.AutoTokenizer.from_pretrained(hugging_face_siglip2)
    assert own("CAT")["input_ids"] != own("cat")["input_ids"]


def test_a_tower_of_pictures_alone_makes_a_memory_of_pictures(
    hugging_face_dinov2: Path, labelled_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "bundle")
    assert main(["clip", out, "--hf", str(hugging_face_dinov2), "--template", "a {}"]) == 2
    assert "sees pictures only" in capsys.readouterr().err
    assert main(["clip", out, "--hf", str(hugging_face_dinov2)]) == 0
    assert not (tmp_path / "bundle" / "clip" / "text.onnx").exists()
    assert main(["memory", out, "--images", str(labelled_folder)]) == 0
    assert main(["verify", out]) == 0
    assert main(["tune", out, "--val", str(labelled_folder)]) == 0
    with Recognizer.open(out, "cpu") as recognizer:
        picture = next(path for path in sorted(labelled_folder.rglob("*")) if path.suffix in (".png", ".jpg"))
        assert recognizer.recognize([picture])[0].label == picture.parent.name
        # A class that is taught later has no vector of its name either.
        recognizer.memory.add([load_image(picture)], ["unseen"])
        assert "unseen" in recognizer.memory.labels
    clip = Clip(Bundle.open(out), "cpu")
    model = transformers.AutoModel.from_pretrained(hugging_face_dinov2).eval()
    pixels = clip.preprocess([load_image(picture)])
    with torch.inference_mode():
        own = model(torch.from_numpy(pixels)).pooler_output.numpy()
    assert parity.cosines(clip.embed_pixels(pixels), own).min() >= 0.9999
    with pytest.raises(InputError, match="sees pictures only"):
        clip.embed_names(["cat"])


def test_dinov3_sees_pictures_that_differ_by_the_rounding_of_a_grey_level(
    hugging_face_dinov3: Path, photos: list[Path], tmp_path: Path
) -> None:
    encoder = huggingface.load(str(hugging_face_dinov3))
    info = export_clip(encoder, tmp_path / "bundle")
    assert info["parity"]["visual"]["min"] >= 0.9999
    prepared = info["parity"]["preprocess"]
    assert 1e-5 < prepared["max_difference"] < 1 / 255 / min(encoder.preprocess.std)
    assert 0.9999 <= prepared["cosine"] < 1
    clip = Clip(Bundle.open(tmp_path / "bundle"), "cpu")
    pictures = [load_image(path) for path in photos[:6]]
    processor = transformers.AutoImageProcessor.from_pretrained(hugging_face_dinov3)
    model = transformers.AutoModel.from_pretrained(hugging_face_dinov3).eval()
    with torch.inference_mode():
        own = model(**processor([Image.fromarray(picture) for picture in pictures], return_tensors="pt"))
    assert parity.cosines(clip.embed_pixels(clip.preprocess(pictures)), own.pooler_output.numpy()).min() >= 0.9999
    # A resize that is another one altogether is still refused.
    other = replace(encoder, preprocess=Preprocess.from_dict({**encoder.preprocess.to_dict(), "filter": "lanczos"}))
    with pytest.raises(ExportError, match="prepares pictures otherwise"):
        export_clip(other, tmp_path / "other")


@pytest.mark.parametrize("spoil", ["limit", "numbers"])
def test_pictures_prepared_so_otherwise_that_embeddings_differ_are_refused(
    spoil: str, hugging_face_dinov3: Path, photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = huggingface.load(str(hugging_face_dinov3))
    if spoil == "limit":
        monkeypatch.setitem(parity.LIMITS, "fp16", Limit(0.9999999, 0.9999999))
    else:
        with torch.no_grad():
            next(encoder.visual.parameters()).fill_(torch.nan)
    with pytest.raises(ExportError, match=r"dinov3_vit .* cosine is (0\.99|nan)"):
        parity.compare_prepared(encoder, photos[:3])


def test_names_are_written_in_the_templates_that_were_named(tiny_openclip: tuple[Path, Path], tmp_path: Path) -> None:
    config, checkpoint = tiny_openclip
    out = str(tmp_path / "bundle")
    command = ["clip", out, "--model", str(config), "--pretrained", str(checkpoint)]
    assert main([*command, "--template", "a {} {}"]) == 2
    assert main([*command, "--template", "a sketch of a {}.", "--template", "{} on a shelf"]) == 0
    clip = Clip(Bundle.open(out), "cpu")
    assert clip.templates == ("a sketch of a {}.", "{} on a shelf")
    mean = clip.embed_texts(["a sketch of a cup.", "cup on a shelf"]).mean(0)
    np.testing.assert_allclose(clip.embed_names(["cup"])[0], mean / np.linalg.norm(mean), atol=1e-6)


def test_imagenets_templates_are_those_of_clips_authors() -> None:
    templates = read_templates(["imagenet", "my {}"])
    assert len(templates) == 81
    assert templates[0] == "a bad photo of a {}."
    assert templates[-1] == "my {}"
    with pytest.raises(ExportError, match=r"must hold {} once"):
        read_templates(["a photo"])


_FASTVIT = {"layers": (1, 1, 1, 1), "embed_dims": (16, 32, 64, 64)}
_PE_CORE = {"depth": 2, "embed_dim": 64, "num_heads": 2, "img_size": 64, "ref_feat_shape": (4, 4)}


@pytest.mark.parametrize(
    ("tower", "smaller", "pool", "text", "prepared"),
    [
        pytest.param(
            "fastvit_mci0", _FASTVIT, "avg", {"no_causal_mask": True}, ([0.0] * 3, [1.0] * 3), id="MobileCLIP"
        ),
        pytest.param(
            "vit_pe_core_tiny_patch16_384",
            _PE_CORE,
            "map",
            {"context_length": 32},
            ([0.5] * 3, [0.5] * 3),
            id="PE-Core",
        ),
    ],
)
def test_towers_of_timm_are_exported_through_open_clip(
    tower: str,
    smaller: dict[str, object],
    pool: str,
    text: dict[str, object],
    prepared: tuple[list[float], list[float]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import open_clip
    from timm.models import _registry

    monkeypatch.setitem(_registry._model_entrypoints, tower, partial(_registry._model_entrypoints[tower], **smaller))
    config = {
        "embed_dim": 32,
        "vision_cfg": {
            "image_size": 64, "timm_model_name": tower, "timm_model_pretrained": False, "timm_pool": pool,
            "timm_proj": None,
        },
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1, **text},
        "custom_text": True,
    }  # fmt: skip
    mean, std = prepared
    prepares = {"mean": mean, "std": std, "interpolation": "bilinear", "resize_mode": "squash"}
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": config, "preprocess_cfg": prepares})
    )
    torch.manual_seed(0)
    network = open_clip.create_model(f"local-dir:{tmp_path / 'model'}", load_weights=False)
    torch.save(network.state_dict(), tmp_path / "model" / "open_clip_pytorch_model.bin")
    encoder = openclip.load(str(tmp_path / "model"), None)
    assert (encoder.preprocess.fit, encoder.preprocess.filter) == ("squash", "bilinear")
    assert list(encoder.preprocess.mean) == mean
    info = export_clip(encoder, tmp_path / "bundle", "fp32")
    assert info["parity"]["visual"]["min"] >= 0.9999
    assert info["parity"]["text"]["min"] >= 0.9999
