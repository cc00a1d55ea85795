"""Ready-made ONNX graphs as an encoder, without PyTorch: against transformers, and what is refused."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import ready_onnx
import tiny_clip
from onnx import TensorProto, helper
from PIL import Image
from ready_onnx import edit

from rar.export.cli import main
from rar.export.encoder import parity
from rar.export.encoder.ready import export_ready, read_folder
from rar.export.graphs.variants import VARIANTS
from rar.runtime import Bundle, ExportError, Recognizer
from rar.runtime.encoder.clip import Clip
from rar.runtime.picture.load import load_image
from rar.runtime.session.checks import LIMITS

ABSENT = ("torch", "torchvision", "transformers", "open_clip", "timm", "peft", "accelerate", "onnxscript", "optimum")


@pytest.fixture(scope="module")
def light(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny CLIP of `tiny_bundle` as such a folder. Shared: copy it before writing."""
    return ready_onnx.write_light(tmp_path_factory.mktemp("ready") / "model")


@pytest.fixture
def folder(light: Path, tmp_path: Path) -> Path:
    """A folder of this test's own."""
    return Path(shutil.copytree(light, tmp_path / "model"))


def clip_of(bundle: Path) -> Clip:
    return Clip(Bundle.open(bundle), "cpu")


@pytest.mark.parametrize("name", ["clip", "siglip", "siglip2", "metaclip2"])
def test_embeddings_are_those_of_transformers_and_it_is_not_needed(
    name: str, request: pytest.FixtureRequest, photos: list[Path], tmp_path: Path
) -> None:
    source = request.getfixturevalue(f"hugging_face_{name}")
    import torch

    from rar.export.encoder import huggingface

    own = huggingface.load(str(source))
    folder = ready_onnx.write_traced(source, tmp_path / "model")
    if not (folder / "tokenizer.json").exists():  # SigLIP's, which transformers keeps as a sentencepiece model
        assert own.tokenizer is not None
        own.tokenizer.save(str(folder / "tokenizer.json"))
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({ABSENT!r})); "
        "from rar.export.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    out = tmp_path / "bundle"
    subprocess.run([sys.executable, "-c", code, "clip", str(out), "--onnx", str(folder)], check=True)
    clip = clip_of(out)
    settings = own.preprocess.to_dict()
    for name in ("background", "weigh_alpha"):  # what transparency becomes is not in the folder
        settings.pop(name, None)
    assert clip.preprocess.to_dict() == settings
    texts = parity.sample_strings(300, seed=3)
    cuts = [np.ascontiguousarray(load_image(path)[:200, :200]) for path in photos[:6]]
    pixels = np.stack([own.reference_preprocess(Image.fromarray(cut)) for cut in cuts])
    assert own.reference_tokenize is not None
    with torch.inference_mode():
        pictures = own.visual(torch.from_numpy(pixels)).numpy()
        sentences = own.text_tower(torch.from_numpy(own.reference_tokenize(texts))).numpy()
    assert parity.cosines(clip.embed_pixels(clip.preprocess(cuts)), pictures).min() >= 0.9999
    assert parity.cosines(clip.embed_texts(texts), sentences).min() >= 0.9999


def test_the_encoder_is_the_one_that_was_exported(
    light: Path, tiny_bundle: Path, labelled_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "bundle"
    assert main(["clip", str(out), "--onnx", str(light), "--template", "{}"]) == 0
    made, known = clip_of(out), clip_of(tiny_bundle)
    paths = sorted(labelled_folder.rglob("*.png"))
    pixels = made.preprocess([load_image(path) for path in paths])
    np.testing.assert_array_equal(
        pixels, known.preprocess([load_image(p) for p in sorted(labelled_folder.rglob("*.png"))])
    )
    np.testing.assert_allclose(made.embed_pixels(pixels), known.embed_pixels(pixels), atol=1e-6)
    np.testing.assert_allclose(made.embed_pixels(pixels[:1]), known.embed_pixels(pixels)[:1], atol=1e-6)
    np.testing.assert_allclose(made.embed_texts(["a cat", "x"]), known.embed_texts(["a cat", "x"]), atol=1e-6)
    assert made.templates == ("{}",)
    assert main(["memory", str(out), "--images", str(labelled_folder)]) == 0
    assert main(["verify", str(out)]) == 0
    picture = labelled_folder / "cat" / "0.jpg"
    with Recognizer.open(out, "cpu") as recognizer:
        assert recognizer.recognize([picture])[0].label == "cat"


@pytest.mark.parametrize(
    ("variant", "precision"), [(name, precision) for name, precision in VARIANTS.items() if name != "fp32"]
)
def test_a_variant_is_held_to_the_fp32_graphs(variant: str, precision: str, folder: Path, tmp_path: Path) -> None:
    ready_onnx.write_variant(folder, variant)
    out = tmp_path / "bundle"
    info = export_ready(folder, out, variant)
    assert info["precision"] == precision
    assert info["held_to"] == {"visual.onnx": "vision_model.onnx", "text.onnx": "text_model.onnx"}
    for tower in ("visual", "text"):
        assert LIMITS[precision].worst <= info["parity"][tower]["min"] < 1
    assert main(["verify", str(out)]) == 0
    # Alone it is held to what it gives here.
    for path in (folder / "onnx").glob("*_model.onnx"):
        path.unlink()
    info = export_ready(folder, tmp_path / "alone", variant)
    assert info["parity"] == {}
    assert info["held_to"]["visual.onnx"] == f"vision_model_{variant}.onnx"
    assert main(["verify", str(tmp_path / "alone")]) == 0


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_the_fp32_graphs_are_converted_as_any_others(precision: Any, light: Path, tmp_path: Path) -> None:
    info = export_ready(light, tmp_path / "bundle", precision=precision)
    assert info["precision"] == precision
    assert LIMITS[precision].worst <= info["parity"]["visual"]["min"] < 1


def test_a_variant_that_is_too_far_off_leaves_nothing_behind(folder: Path, tmp_path: Path) -> None:
    ready_onnx.write_variant(folder, "quantized")

    def spoil(model: onnx.ModelProto) -> None:
        tensors = (tensor for tensor in model.graph.initializer if tensor.data_type == TensorProto.FLOAT)
        for number, bias in enumerate(tensor for tensor in tensors if list(tensor.dims) == [tiny_clip.WIDTH]):
            bias.raw_data = np.random.default_rng(number).standard_normal(tiny_clip.WIDTH, np.float32).tobytes()

    edit(folder / "onnx" / "vision_model_quantized.onnx", spoil)
    with pytest.raises(ExportError, match=r"too far from the fp32 one, vision_model\.onnx: cosine"):
        export_ready(folder, tmp_path / "bundle", "quantized")
    assert sorted(os.listdir(tmp_path)) == ["model"]


def test_weights_beside_the_graph_are_read_through_the_links_of_a_cache(folder: Path, tmp_path: Path) -> None:
    """A hub's cache is a folder of links to files by their hash."""
    for tower in ("vision", "text"):
        path = folder / "onnx" / f"{tower}_model.onnx"
        model = onnx.load(str(path))
        onnx.save(
            model, str(path), save_as_external_data=True, location=f"{path.name}_data", size_threshold=64,
        )  # fmt: skip
    blobs, cache = tmp_path / "blobs", tmp_path / "cache"
    blobs.mkdir()
    for number, path in enumerate(sorted(path for path in folder.rglob("*") if path.is_file())):
        place = cache / path.relative_to(folder)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(path.rename(blobs / str(number)))
    export_ready(cache, tmp_path / "bundle")
    assert not any(path.is_symlink() for path in (tmp_path / "bundle").rglob("*"))
    assert main(["verify", str(tmp_path / "bundle")]) == 0


def test_masks_halves_and_names_of_other_exports_are_taken(folder: Path, light: Path, tmp_path: Path) -> None:
    def halve(model: onnx.ModelProto) -> None:
        """Takes and gives fp16."""
        (value,), (given,) = model.graph.input, model.graph.output
        value.type.tensor_type.elem_type = given.type.tensor_type.elem_type = TensorProto.FLOAT16
        ends = {"pixel_values": "inside", "image_embeds": "found"}
        for node in model.graph.node:
            for names in (node.input, node.output):
                names[:] = [ends.get(name, name) for name in names]
        model.graph.node.insert(0, helper.make_node("Cast", ["pixel_values"], ["inside"], to=TensorProto.FLOAT))
        model.graph.node.append(helper.make_node("Cast", ["found"], ["image_embeds"], to=TensorProto.FLOAT16))

    def mask(model: onnx.ModelProto) -> None:
        """Takes a mask; a row that it hides would not be a number. Ids have 32 bits, and operators an old version."""
        model.graph.input.append(helper.make_tensor_value_info("attention_mask", TensorProto.INT64, ["b", "s"]))
        model.graph.input[0].type.tensor_type.elem_type = TensorProto.INT32
        for node in model.graph.node:
            node.input[:] = ["wide" if name == "input_ids" else name for name in node.input]
        nodes = [
            helper.make_node("Cast", ["input_ids"], ["ids"], to=TensorProto.INT64),
            helper.make_node("Div", ["ids", "attention_mask"], ["wide"]),
        ]
        for node in reversed(nodes):
            model.graph.node.insert(0, node)
        weights = [helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in model.graph.initializer]
        model.graph.input.extend(weights)  # as old graphs list them

    edit(folder / "onnx" / "vision_model.onnx", halve)
    edit(folder / "onnx" / "text_model.onnx", mask)
    shutil.copytree(folder / "onnx", folder, dirs_exist_ok=True)
    shutil.rmtree(folder / "onnx")  # optimum puts them beside the JSON files
    export_ready(folder, tmp_path / "other")
    export_ready(light, tmp_path / "one")
    other, one = clip_of(tmp_path / "other"), clip_of(tmp_path / "one")
    pixels = np.random.default_rng(0).standard_normal((3, 3, 32, 32), np.float32)
    assert parity.cosines(other.embed_pixels(pixels), one.embed_pixels(pixels)).min() > 0.9999
    np.testing.assert_allclose(np.linalg.norm(other.embed_pixels(pixels), axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(other.embed_texts(["a cat"]), one.embed_texts(["a cat"]), atol=1e-6)


def change_config(folder: Path, name: str, **values: Any) -> None:
    path = folder / name
    config = {**json.loads(path.read_text()), **values}
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))


def rename_output(model: onnx.ModelProto) -> None:
    model.graph.node[-1].output[0] = model.graph.output[0].name = "pooler_output"


def fix_batch(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1


def other_size(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[3].dim_value = 64


def strange_operator(model: onnx.ModelProto) -> None:
    model.graph.node[3].domain = "com.example"
    model.opset_import.append(helper.make_opsetid("com.example", 1))


def hidden_operator(model: onnx.ModelProto) -> None:
    node = helper.make_node("Relu", ["a"], ["b"], domain="com.example")
    branch = helper.make_graph([node], "branch", [], [helper.make_tensor_value_info("b", TensorProto.FLOAT, None)])
    model.graph.node.append(helper.make_node("If", ["c"], ["d"], then_branch=branch, else_branch=branch))


def unknown_operator(model: onnx.ModelProto) -> None:
    model.graph.node[3].op_type = "NoSuchOperator"


def another_input(model: onnx.ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("bbox", TensorProto.FLOAT, ["n", 4]))


def outside(location: str) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=location)

    return change


def engine(model: onnx.ModelProto) -> None:
    model.graph.node[3].op_type, model.graph.node[3].domain = "EPContext", "com.microsoft"


def numbers_of_another_count(model: onnx.ModelProto) -> None:
    tensor = TensorProto(name="broken", data_type=TensorProto.FLOAT, dims=[3000], float_data=[1, 2, 3])
    model.graph.initializer.append(tensor)


def negative_sides(model: onnx.ModelProto) -> None:
    tensor = TensorProto(name="broken", data_type=TensorProto.FLOAT, dims=[-3000, -7], float_data=[1, 2, 3])
    model.graph.initializer.append(tensor)


def unknown_type(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(TensorProto(name="broken", data_type=99, dims=[3000], float_data=[1]))


GRAPHS: list[tuple[Callable[[onnx.ModelProto], None], str]] = [
    (rename_output, r"gives pooler_output; it must give image_embeds"),
    (fix_batch, r"pixel_values is of shape \[1, 3, 32, 32\]; it must be \[N, 3, 32, 32\]"),
    (other_size, r"shape \[N, 3, 32, 64\], and by the folder's JSON files it must be \[N, 3, 32, 32\]"),
    (strange_operator, r"uses the operator \w+ of 'com\.example'"),
    (hidden_operator, r"uses the operator Relu of 'com\.example'"),
    (unknown_operator, r"cannot be run here .*NoSuchOperator.* choose another --variant"),
    (engine, r"vision_model\.onnx: holds compiled code \(the operator EPContext\); do not use a graph that does this"),
    (numbers_of_another_count, r"vision_model\.onnx: cannot be taken \(.*\); download it again"),
    (negative_sides, r"vision_model\.onnx: cannot be taken \(.*\); download it again"),
    (unknown_type, r"vision_model\.onnx: cannot be taken \(.*\); download it again"),
    (another_input, r"takes bbox, pixel_values; it must take pixel_values and nothing else"),
    (outside("../secret"), r"takes weights from '\.\./secret', which is no file beside it"),
    (outside("/etc/passwd"), r"takes weights from '/etc/passwd', which is no file beside it"),
    (outside("absent.data"), r"takes weights from .*absent\.data, which cannot be read"),
    (outside("text_model.onnx"), r"cannot be run here|cannot be read"),
]


@pytest.mark.parametrize(("change", "message"), GRAPHS, ids=[message[:30] for _, message in GRAPHS])
def test_a_graph_that_is_none_of_these_is_refused(
    change: Callable[[onnx.ModelProto], None], message: str, folder: Path, tmp_path: Path
) -> None:
    (folder / "secret").write_bytes(bytes(1 << 16))
    edit(folder / "onnx" / "vision_model.onnx", change)
    with pytest.raises(ExportError, match=re.compile(message, re.DOTALL)):
        export_ready(folder, tmp_path / "bundle")
    assert sorted(os.listdir(tmp_path)) == ["model"]


@pytest.mark.parametrize("content", [b"", b"not a graph", b"\x80\x04\x95" * 99])
def test_a_file_that_is_no_graph_is_refused(content: bytes, folder: Path, tmp_path: Path) -> None:
    (folder / "onnx" / "text_model.onnx").write_bytes(content)
    with pytest.raises(ExportError, match=r"text_model\.onnx: "):
        export_ready(folder, tmp_path / "bundle")
    assert sorted(os.listdir(tmp_path)) == ["model"]


def test_the_variants_that_are_there_are_named(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ready_onnx.write_variant(folder, "fp16")
    (folder / "onnx" / "vision_model_q4.onnx").write_bytes(b"of one tower alone")
    command = ["clip", str(tmp_path / "bundle"), "--onnx", str(folder)]
    assert main([*command, "--variant", "q4"]) == 2
    assert "choose a --variant that both towers are there in: fp32, fp16\n" in capsys.readouterr().err
    assert main([*command, "--variant", "fp16", "--precision", "int8"]) == 2
    assert "--precision int8 converts the fp32 graphs" in capsys.readouterr().err
    assert main(["clip", str(tmp_path / "bundle"), "--hf", str(folder), "--variant", "fp16"]) == 2
    assert "give it with --onnx DIR" in capsys.readouterr().err
    shutil.rmtree(folder / "onnx")
    with pytest.raises(ExportError, match="there in: none"):
        export_ready(folder, tmp_path / "bundle")


@pytest.mark.parametrize("name", ready_onnx.JSON)
def test_each_json_file_is_needed(name: str, folder: Path) -> None:
    (folder / name).write_text("[1]")
    with pytest.raises(ExportError, match=re.escape(name)):
        read_folder(folder)
    (folder / name).write_text("{" * 10000)
    with pytest.raises(ExportError, match=re.escape(name)):
        read_folder(folder)
    (folder / name).unlink()
    with pytest.raises(ExportError, match=re.escape(name) + ".*cannot be read"):
        read_folder(folder)
    os.mkfifo(folder / name)  # would be waited for
    with pytest.raises(ExportError, match=re.escape(name) + ".*cannot be read"):
        read_folder(folder)


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        (
            "config.json",
            {"model_type": "bert"},
            "is a bert model; supported .* are clip, metaclip_2, siglip",
        ),
        ("config.json", {"model_type": ["clip"]}, "supported as ready-made ONNX"),
        (
            "config.json",
            {"text_config": {"max_position_embeddings": "77"}},
            "max_position_embeddings must be a number of tokens",
        ),
        ("tokenizer_config.json", {"pad_token": "<none>"}, "pad_token must be in tokenizer.json"),
        ("tokenizer_config.json", {"pad_token": None}, "pad_token must be in tokenizer.json"),
        ("tokenizer_config.json", {"padding_side": "middle"}, "padding_side left or right"),
        ("preprocessor_config.json", {"size": None}, "lacks a setting or has a wrong one"),
        ("preprocessor_config.json", {"size": "224"}, "for which there is no form|wrong one"),
        ("preprocessor_config.json", {"image_std": [0, 0, 0]}, "wrong one"),
        ("preprocessor_config.json", {"resample": 0}, "has no form"),
        ("preprocessor_config.json", {"rescale_factor": 1}, "has no form"),
        ("preprocessor_config.json", {"rescale_factor": [1, 2]}, "wrong one"),
        ("preprocessor_config.json", {"size": 10**400, "crop_size": 10**400}, "wrong one"),
        ("preprocessor_config.json", {"do_resize": False}, "resizes no pictures"),
    ],
)
def test_a_setting_that_has_no_form_is_refused(name: str, values: dict[str, Any], message: str, folder: Path) -> None:
    change_config(folder, name, **values)
    with pytest.raises(ExportError, match=message):
        read_folder(folder)


def test_a_tokenizer_that_fails_at_a_text_is_refused(folder: Path) -> None:
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    content["pre_tokenizer"], content["normalizer"], content["post_processor"] = None, None, None
    content["model"] = {"type": "WordLevel", "vocab": {tiny_clip.PAD: 0, "a": 1}, "unk_token": "<absent>"}
    content["added_tokens"] = []
    path.write_text(json.dumps(content))
    with pytest.raises(ExportError, match=r"tokenizer\.json: cannot encode a text \(.*\); download it again"):
        read_folder(folder)


def test_settings_of_all_ages_are_read(folder: Path) -> None:
    old = read_folder(folder)
    assert (old.preprocess.size, old.preprocess.fit, old.length) == (tiny_clip.SIDE, "crop", tiny_clip.LENGTH)
    side = {"height": tiny_clip.SIDE, "width": tiny_clip.SIDE}
    new = {"size": {"shortest_edge": tiny_clip.SIDE}, "crop_size": side, "rescale_factor": 1 / 255, "do_rescale": True}
    change_config(folder, "preprocessor_config.json", **new)
    assert read_folder(folder).preprocess.to_dict() == old.preprocess.to_dict()
    # MobileCLIP leaves values at 0 to 1.
    change_config(folder, "preprocessor_config.json", do_normalize=False)
    assert read_folder(folder).preprocess.mean == (0, 0, 0)
    change_config(folder, "preprocessor_config.json", do_center_crop=None, size=side)
    assert read_folder(folder).preprocess.fit == "squash"
    change_config(folder, "config.json", model_type="siglip", text_config={})
    assert read_folder(folder).length == 64


def of_one_dimension_less(model: onnx.ModelProto) -> None:
    dims = onnx.numpy_helper.from_array(np.array([tiny_clip.DIM - 1, 1]), "dims")
    model.graph.initializer.append(dims)
    last = model.graph.node[-1]
    last.output[0] = "whole"
    model.graph.node.append(helper.make_node("Split", ["whole", "dims"], ["image_embeds", "rest"], axis=1))
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = tiny_clip.DIM - 1


def test_a_variant_of_another_model_is_refused(folder: Path, tmp_path: Path) -> None:
    ready_onnx.write_variant(folder, "fp16")
    edit(folder / "onnx" / "vision_model_fp16.onnx", of_one_dimension_less)
    with pytest.raises(
        ExportError, match=r"_fp16\.onnx: gives .* shape \[\d, 31\], and vision_model\.onnx of \[\d, 32\]"
    ):
        export_ready(folder, tmp_path / "bundle", "fp16")
    assert sorted(os.listdir(tmp_path)) == ["model"]


@pytest.mark.parametrize(
    ("tower", "said"),
    [
        ("text", r"cosine to the fp32 graphs at least \d\.\d{5} \(visual only: there is no other fp32 graph\)"),
        ("vision", r"cosine to the fp32 graphs at least \d\.\d{5} \(text only: there is no other fp32 graph\)"),
        ("vision text", "no fp32 graphs beside them to compare with"),
        ("", r"cosine to the fp32 graphs at least \d\.\d{5}$"),
    ],
)
def test_it_is_told_what_was_compared(
    tower: str, said: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ready_onnx.write_variant(folder, "fp16")
    for name in tower.split():
        (folder / "onnx" / f"{name}_model.onnx").unlink()
    assert main(["clip", str(tmp_path / "bundle"), "--onnx", str(folder), "--variant", "fp16"]) == 0
    assert re.search(said, capsys.readouterr().out, re.M)


def test_an_encoder_is_never_written_over(light: Path, tiny_bundle: Path) -> None:
    before = (tiny_bundle / "bundle.json").read_bytes()
    with pytest.raises(ExportError, match="holds an encoder already"):
        export_ready(light, tiny_bundle)
    assert (tiny_bundle / "bundle.json").read_bytes() == before


def test_towers_of_two_models_are_refused(folder: Path, tmp_path: Path) -> None:
    def halve(model: onnx.ModelProto) -> None:
        half = onnx.numpy_helper.from_array(np.array([tiny_clip.DIM // 2] * 2), "half")
        model.graph.initializer.append(half)
        last = model.graph.node[-1]
        last.output[0] = "whole"
        model.graph.node.append(helper.make_node("Split", ["whole", "half"], ["text_embeds", "rest"], axis=1))
        model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = tiny_clip.DIM // 2

    edit(folder / "onnx" / "text_model.onnx", halve)
    with pytest.raises(ExportError, match="pictures get 32 dimensions and texts 16"):
        export_ready(folder, tmp_path / "bundle")


@pytest.mark.parametrize(
    ("name", "drops", "clean"), [("SiglipTokenizer", True, "none"), ("SiglipTokenizer", False, "siglip")]
)
def test_siglips_texts_are_cleaned_once(name: str, drops: bool, clean: str, folder: Path) -> None:
    from tokenizers import Regex, Tokenizer, normalizers

    if drops:  # as transformers.js' files do it
        made = Tokenizer.from_file(str(folder / "tokenizer.json"))
        steps = [normalizers.Lowercase(), normalizers.Replace(Regex(r"[!-/:-@\[-`{-~]"), "")]
        made.normalizer = normalizers.Sequence(steps)
        made.save(str(folder / "tokenizer.json"))
    change_config(folder, "config.json", model_type="siglip")
    change_config(folder, "tokenizer_config.json", tokenizer_class=name)
    read = read_folder(folder)
    assert read.clean == clean
    tokenize = read.tokenize()
    np.testing.assert_array_equal(tokenize(["A Photo, of: a CAT!"]), tokenize(["a photo of a cat"]))
