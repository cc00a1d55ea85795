"""The exported graphs against transformers: logits, greedy tokens, pictures, packed prompts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from rar.export.mllm.compare import Case, Graphs, compare, decoder_inputs
from rar.export.pictures.prepare import cuts
from rar.runtime import Bundle, Preprocess
from rar.runtime.errors import ExportError
from rar.runtime.picture.load import load_image
from rar.runtime.rank.mllm.tree import PICTURE, Segment, Tree, pack


def own_logits(model: Any, rows: np.ndarray[Any, Any], pixels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """float32 [N, L, V] of transformers."""
    with torch.inference_mode():
        return np.asarray(model.mllm.reference(**model.reference(rows, pixels)).logits.numpy())


def apart(model: Any, prepare: Preprocess) -> float:
    """How far a prepared value may be from the model's own."""
    return float(1e-5 + model.mllm.rounded / 255 / min(prepare.std))


@pytest.mark.parametrize("pictures", [1, 2])
@pytest.mark.parametrize("batch", [1, 3])
def test_prefill_logits_are_those_of_transformers(model: Any, batch: int, pictures: int) -> None:
    row = model.ids(pictures)
    rows, pixels = np.stack([row] * batch), model.pictures(batch * pictures)
    graphs, mllm = model.graphs, model.mllm
    positions, _ = model.prompt.positions.count(row.tolist(), 0)
    inputs = [
        decoder_inputs(
            mllm.form,
            graphs.embeds(row, pixels[start : start + pictures]),
            positions,
            mask=model.prompt.positions.mask(row),
        )
        for start in range(0, batch * pictures, pictures)
    ]
    across = {"position_ids": 1} if len(positions) > 1 else {}
    joined = {name: np.concatenate([one[name] for one in inputs], across.get(name, 0)) for name in inputs[0]}
    logits = graphs.decoder.run(joined)["logits"]
    assert np.abs(logits - own_logits(model, rows, pixels)).max() < 1e-3


def test_sixteen_greedy_tokens_are_those_of_generate(model: Any) -> None:
    row, pixels = model.ids(), model.pictures(3, seed=1)
    rows = np.stack([row] * 3)
    with torch.inference_mode():
        reference = model.mllm.reference
        own = reference.generate(
            **model.reference(rows, pixels), max_new_tokens=16, min_new_tokens=16, do_sample=False, pad_token_id=0
        )[:, len(row) :]
    # min_new_tokens forbids the end; so does this loop.
    stops = list(model.mllm.stop_ids)
    for number in range(3):
        positions, position = model.prompt.positions.count(row.tolist(), 0)
        seen = model.graphs.embeds(row, pixels[number : number + 1])
        logits, past = model.graphs.run(seen, positions, mask=model.prompt.positions.mask(row))
        found: list[int] = []
        while len(found) < 16:
            last = logits[-1].copy()
            last[stops] = -np.inf
            found.append(int(last.argmax()))
            embeds = model.graphs.embeds(np.array(found[-1:]), np.empty(0, np.float32))
            here = np.full((model.mllm.decoder.position_dims, 1), position)
            logits, past = model.graphs.run(embeds, here, past)
            position += 1
        assert found == own[number].tolist()


def test_a_packed_tree_gives_the_logits_of_separate_runs(model: Any) -> None:
    prompt, graphs = model.prompt, model.graphs
    head, tails = prompt.head("choice"), [prompt.text([text])[0] for text in (" apple pie", " a pear", " plum")]
    stem = [*prompt.picture("choice"), *prompt.tail("choice", ["apple", "pear"])]
    pixels = model.pictures(2, seed=2)
    trees = [Tree([Segment(stem), *(Segment(tail, 0) for tail in tails)], [(1, 0), (2, 0), (3, 0)])] * 2
    row = pack(trees, prefix=head, positions=prompt.positions)
    inputs = decoder_inputs(model.mllm.form, graphs.embeds(row.ids, pixels), row.positions)
    inputs["attention_mask"] = row.mask[None, None]
    packed = graphs.decoder.run(inputs)["logits"][0]
    for number, places in enumerate(row.places):
        for tail, place in zip(tails, places, strict=True):
            alone = np.array([*head, *stem, tail[0]])
            own = own_logits(model, alone[None], pixels[number : number + 1])[0, -1]
            assert np.abs(packed[place] - own).max() < 1e-3


def test_a_kept_head_continues_as_if_it_stood_in_the_row(model: Any) -> None:
    row, pixels = model.ids(), model.pictures(1)
    embeds, (positions, _) = model.graphs.embeds(row, pixels), model.prompt.positions.count(row.tolist(), 0)
    mask = model.prompt.positions.mask
    whole, _ = model.graphs.run(embeds, positions, mask=mask(row))
    # Some begin with the picture, and in others each of its tokens sees all of it.
    head = min(3, int(np.argmax(row == PICTURE)))
    _, past = model.graphs.run(embeds[:head], positions[:, :head])
    rest, past = model.graphs.run(embeds[head:], positions[:, head:], past, mask(row[head:]))
    assert np.abs(whole[head:] - rest).max() < 1e-4
    assert past[0].shape[2] == len(row)


def test_only_the_chosen_positions_get_logits(llava: Any) -> None:
    row, pixels = llava.ids(), llava.pictures(1)
    inputs = decoder_inputs(llava.mllm.form, llava.graphs.embeds(row, pixels), np.arange(len(row))[None])
    every = llava.graphs.decoder.run(inputs)
    chosen = llava.graphs.decoder.run({**inputs, "logit_positions": np.array([[len(row) - 1, 2]])})
    np.testing.assert_allclose(chosen["logits"][0], every["logits"][0][[-1, 2]], atol=1e-5)
    assert chosen["present.0.key"].shape == (1, 2, len(row), 16)


def test_pictures_are_prepared_as_by_the_models_own_processor(model: Any, photos: list[Any]) -> None:
    prepare = Preprocess.from_dict(json.loads((model.bundle / "mllm" / "preprocess.json").read_text()))
    for path in photos[:4]:
        pixels = load_image(path)
        side = min(pixels.shape[:2])
        square = np.ascontiguousarray(pixels[:side, :side])
        own = model.mllm.reference_preprocess(Image.fromarray(square))
        np.testing.assert_allclose(prepare([square])[0], own, atol=apart(model, prepare))


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("tall", [True, False])
def test_tall_flat_and_grey_pictures_are_prepared_as_by_the_models_own_processor(
    model: Any, photos: list[Any], mode: Any, tall: bool, tmp_path: Path
) -> None:
    stored = json.loads((model.bundle / "mllm" / "preprocess.json").read_text())
    side = stored["size"]
    (cut,) = cuts(load_image(photos[0]), [(1, 0.5) if tall else (0.5, 1)])
    Image.fromarray(cut).convert(mode).save(tmp_path / "picture.png")
    picture = Image.open(tmp_path / "picture.png").convert("RGB")
    if model.mllm.architecture in ("smolvlm", "qwen25vl", "qwen3vl", "lfm2vl"):
        # They take pictures of any shape; here every picture is first made a square.
        picture = picture.resize((side, side), Image.Resampling[stored["filter"].upper()])
    own = model.mllm.reference_preprocess(picture)
    prepare = Preprocess.from_dict(stored)
    found = prepare([load_image(tmp_path / "picture.png")])[0]
    np.testing.assert_allclose(found, own, atol=apart(model, prepare))


def test_transparent_pictures_are_prepared_as_by_the_models_own_processor(model: Any, photos: list[Any]) -> None:
    stored = json.loads((model.bundle / "mllm" / "preprocess.json").read_text())
    # From 5 on every processor of transformers puts them over white, before only that of SmolVLM.
    white = model.mllm.architecture == "smolvlm" or not transformers.__version__.startswith("4.")
    assert stored.get("background") == ([255, 255, 255] if white else None)
    prepare = Preprocess.from_dict(stored)
    for path in photos[:4]:
        pixels = load_image(path)
        side = min(pixels.shape[:2])
        alpha = np.broadcast_to(np.linspace(0, 255, side).astype(np.uint8), (side, side))
        faded = np.dstack([pixels[:side, :side], alpha])
        own = model.mllm.reference_preprocess(Image.fromarray(faded))
        np.testing.assert_allclose(prepare([faded])[0], own, atol=apart(model, prepare))
    compared = model.info["parity"]["preprocess"]
    assert compared["transparent"] == compared["count"] > 0


def test_the_manifest_says_what_was_made_and_how_far_it_is(model: Any) -> None:
    info = Bundle.open(model.bundle).component("mllm").info
    assert info["architecture"] == model.mllm.architecture
    # DeepStack's features for two layers lie behind the embeddings.
    wide = 192 if info["architecture"] == "qwen3vl" else 64
    assert (info["layers"], info["kv_heads"], info["head_dim"], info["dim"]) == (2, 2, 16, wide)
    assert info["precision"] == {"vision": "fp32", "embed": "fp32", "decoder": "fp32"}
    logits = info["parity"]["logits"]
    assert logits["max_logit_difference"] < 1e-3
    assert logits["greedy_equal"] == logits["greedy_count"] > 0
    assert info["parity"]["tokens"]["equal"] == info["parity"]["tokens"]["count"] == 60


def test_no_path_of_this_machine_stands_in_a_graph(llava: Any) -> None:
    graphs = list((llava.bundle / "mllm").glob("*.onnx"))
    assert len(graphs) == 3
    assert not any(b"site-packages" in path.read_bytes() for path in graphs)


def test_the_graphs_open_from_the_bundle_alone(llava: Any) -> None:
    bundle = Bundle.open(llava.bundle)
    for name in ("vision", "embed", "decoder"):
        assert bundle.graph("mllm", f"{name}.onnx").is_file()
    assert Graphs.open(llava.bundle / "mllm", llava.mllm.form).vision.provider == "cpu"


@pytest.mark.parametrize("count", [0, 3])
def test_fp32_graphs_are_compared_by_as_many_greedy_tokens_as_a_case_holds(model: Any, count: int) -> None:
    graphs, row, pixels = model.graphs, model.ids(), model.pictures(1)
    positions, position = model.prompt.positions.count(row.tolist(), 0)
    mask = model.prompt.positions.mask(row)
    logits, past = graphs.run(graphs.embeds(row, pixels), positions, mask=mask)
    written: list[int] = []
    while len(written) < count:
        written.append(int(logits[-1].argmax()))
        after = np.full((graphs.form.position_dims, 1), position + len(written) - 1)
        rows, past = graphs.run(graphs.embeds(np.array(written[-1:]), pixels[:0]), after, past)
        logits = np.concatenate([logits, rows])
    case = Case(row, pixels[0], logits[: len(row)], written)
    found = compare(graphs, model.prompt, [case], "fp32")
    assert (found["greedy_equal"], found["greedy_count"]) == (count, count)
    if count:
        with pytest.raises(ExportError, match="2 of 3 greedy tokens are equal"):
            compare(graphs, model.prompt, [replace(case, greedy=[*written[:2], written[2] + 1])], "fp32")
