"""Checkpoints as bundles: the graphs against PyTorch, at each precision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from tiny_grain import MICRO

from rar.export.cli import main
from rar.export.encoder.parity import compare_visual
from rar.export.grain import checkpoint
from rar.export.grain.boxes import to_corners
from rar.export.grain.export import dual_encoder, load_encoder
from rar.export.grain.model import Grain
from rar.export.graphs.precisions import convert
from rar.runtime import Bundle, ExportError
from rar.runtime.encoder.clip import Clip, GrainRegions
from rar.runtime.picture.load import load_image
from rar.runtime.session import OnnxSession


def test_regions_and_boxes_are_pytorchs_for_any_batch(micro_bundle: Path, network: Grain, photos: list[Path]) -> None:
    clip = Clip(Bundle.open(micro_bundle), "cpu")
    for count in (1, 2, 5):
        pixels = clip.preprocess([load_image(path) for path in photos[:count]])
        with torch.no_grad():
            expected = network.see(torch.from_numpy(pixels))
        found = clip.see(pixels)
        assert found.regions is not None
        np.testing.assert_allclose(found.embeddings, expected.images, atol=1e-5)
        np.testing.assert_allclose([one.embeddings for one in found.regions], expected.regions, atol=1e-5)
        corners = to_corners(expected.boxes[-1]).clamp(0, 1)
        np.testing.assert_allclose([one.boxes for one in found.regions], corners, atol=1e-5)


def test_the_bundle_says_how_it_was_made(micro_bundle: Path) -> None:
    bundle = Bundle.open(micro_bundle)
    info, settings = bundle.component("clip").info, bundle.read_json("clip", "preprocess.json")
    assert (settings["size"], settings["fit"], settings["filter"]) == (32, "squash", "bicubic")
    assert settings["mean"] == pytest.approx([0.485, 0.456, 0.406])
    assert settings["std"] == pytest.approx([0.229, 0.224, 0.225])
    assert (info["dim"], info["clean"], info["scheme"]) == (24, "lower", {"visual": "fp32", "text": "fp32"})
    for part in ("visual", "regions", "boxes", "text"):
        assert info["parity"][part]["max_difference"] <= 1e-5
    assert info["parity"]["preprocess"]["max_difference"] <= 1e-5
    assert info["parity"]["tokenizer"]["equal"] == info["parity"]["tokenizer"]["count"]


def test_texts_are_those_of_the_released_tokenizer_and_tower(micro_bundle: Path, network: Grain) -> None:
    import open_clip

    texts = ["a striped red circle", "Crème brûlée &amp; co", "word " * 90, ""]
    ids = open_clip.SimpleTokenizer(context_length=MICRO.context)(texts)
    with torch.no_grad():
        expected = network.read(ids)
    np.testing.assert_allclose(Clip(Bundle.open(micro_bundle), "cpu").embed_texts(texts), expected, atol=1e-5)


def same_regions(ours: Sequence[GrainRegions] | None, theirs: Sequence[GrainRegions] | None) -> None:
    assert ours is not None
    assert theirs is not None
    for own, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(own.boxes, other.boxes, atol=0.02)
        assert (own.embeddings * other.embeddings).sum(1).min() > 0.99


def test_the_command_turns_a_checkpoint_into_an_int8_bundle(
    network: Grain, micro_bundle: Path, photos: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = tmp_path / "c.pth.tar", tmp_path / "bundle"
    checkpoint.save(path, network, epoch=1, iteration=9)
    assert main(["grain", "export", str(path), str(out), "--precision", "int8"]) == 0
    assert "GRAIN c.pth.tar, 24-d, int8, largest difference to PyTorch" in capsys.readouterr().out
    assert Bundle.open(out).component("clip").info["scheme"]["visual"] == "int8 rows and columns"
    full, low = (Clip(Bundle.open(path), "cpu") for path in (micro_bundle, out))
    pixels = full.preprocess([load_image(path) for path in photos[:4]])
    same_regions(low.see(pixels).regions, full.see(pixels).regions)
    for graph in ("visual.onnx", "text.onnx"):
        kinds = [node.op_type for node in onnx.load(out / "clip" / graph, load_external_data=False).graph.node]
        # What is left multiplies pictures or texts with each other, in attention: two a layer.
        assert kinds.count("MatMul") == {"visual.onnx": 2 * (2 + 2 * 2), "text.onnx": 2}[graph]
        assert "Split" not in kinds or graph == "text.onnx"


def test_the_graph_in_fp16_sees_the_same(micro_bundle: Path, photos: list[Path], tmp_path: Path) -> None:
    full = Clip(Bundle.open(micro_bundle), "cpu")
    convert(micro_bundle / "clip" / "visual.onnx", tmp_path / "visual.onnx", "fp16", [])
    pixels = full.preprocess([load_image(path) for path in photos[:4]])
    found = OnnxSession(tmp_path / "visual.onnx", "cpu", fp16=True).run({"pixel_values": pixels})
    regions = [GrainRegions(*own) for own in zip(found["region_embeds"], found["region_boxes"], strict=True)]
    same_regions(regions, full.see(pixels).regions)


def test_the_command_says_what_a_checkpoint_is_not(
    network: Grain, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = tmp_path / "c.pth.tar", tmp_path / "bundle"
    checkpoint.save(path, network, epoch=1, iteration=9)
    assert main(["grain", "export", str(path), str(out), "--size", "vit-b16"]) == 2
    assert "is not of the size vit-b16" in capsys.readouterr().err
    assert main(["grain", "export", str(tmp_path / "none"), str(out)]) == 2
    assert "cannot be read" in capsys.readouterr().err
    assert not out.exists()


def test_a_graph_that_differs_is_refused(network: Grain, micro_bundle: Path, photos: list[Path]) -> None:
    encoder, graph = dual_encoder(network, "GRAIN"), micro_bundle / "clip" / "visual.onnx"
    assert compare_visual(encoder, graph, photos[:2], "fp32")["region_boxes"]["max_difference"] <= 1e-5
    with pytest.raises(ExportError, match=r"an element differs by .*; the limit is 1e-12"):
        compare_visual(replace(encoder, tolerance=1e-12), graph, photos[:2], "fp32")
    with torch.no_grad():
        encoder.visual.decoder.bbox_embed.layers[-1].bias.add_(1e-3)  # type: ignore[union-attr, operator, index]
    with pytest.raises(ExportError, match=r"region_boxes graph is too far from PyTorch.*the limit is 1e-05"):
        compare_visual(encoder, graph, photos[:2], "fp32")


def test_a_loaded_encoder_is_the_trained_network(network: Grain, tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "c.pth.tar", network, epoch=1, iteration=9)
    encoder = load_encoder(tmp_path / "c.pth.tar")
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        images, regions, boxes = encoder.visual(pixels)
        seen = network.see(pixels)
    assert encoder.source == "GRAIN c.pth.tar"
    torch.testing.assert_close(images, seen.images, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(regions, seen.regions, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(boxes, to_corners(seen.boxes[-1]).clamp(0, 1), atol=1e-6, rtol=1e-5)
