"""The models that a GPU is measured with: true shapes, random weights, made where PyTorch's exporter is at hand."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from rar.runtime.bundle.change import stage
from rar.runtime.bundle.files import write_json

from ..latency.random_bundle import write_clip, write_llava
from ..made import made
from . import skeleton

SIDE = 224  # of the pictures that every tower takes
LLAVA = "llava.json"  # transformers' configuration, for the baseline
_L14: Mapping[str, int] = {
    "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
    "patch_size": 14, "projection_dim": 768,
}  # fmt: skip
# Two billion weights with the tower, as Qwen2-VL-2B has; eight heads of keys and values.
_TWO_BILLION: Mapping[str, int] = {
    "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 24, "num_attention_heads": 32,
    "num_key_value_heads": 8, "head_dim": 64,
}  # fmt: skip


@dataclass(frozen=True)
class Model:
    """A bundle of an encoder and a multimodal LLM.

    Attributes:
        encoder: A name that open_clip knows.
        precision: The precision of all graphs.
        tower: The MLLM's picture tower; see `write_llava`.
        language_model: The MLLM's language model; None where the bundle has no MLLM.
    """

    encoder: str
    precision: Literal["fp32", "fp16"]
    tower: Mapping[str, int] = field(default_factory=dict)
    language_model: Mapping[str, int] | None = None


MODELS = {
    "b32-fp32": Model("ViT-B-32", "fp32", {}, {}),
    "b32-fp16": Model("ViT-B-32", "fp16", {}, {}),
    "l14-fp32": Model("ViT-L-14", "fp32"),
    "l14-fp16": Model("ViT-L-14", "fp16", _L14, _TWO_BILLION),
}


def prepare(out: Path, work: Path) -> None:
    """Writes all models without their weights, tens of megabytes in all; see `skeleton`.

    Args:
        out: One folder a model.
        work: Where they are made in full; what is there already is not made again.
    """
    for name, model in MODELS.items():
        full, graphs = work / name, work / f"{model.encoder}-llava"
        if model.language_model is not None:
            made(graphs, {"model": repr((model.tower, model.language_model))}, partial(_write_graphs, model))
        made(full, {"model": repr(model)}, partial(_make, model, graphs))
        shutil.rmtree(out / name, ignore_errors=True)
        skeleton.strip(full / "bundle", out / name)
        if model.language_model is not None:
            shutil.copyfile(graphs / LLAVA, out / name / LLAVA)


def _make(model: Model, graphs: Path, folder: Path) -> None:
    from rar.export.encoder.export import export_clip
    from rar.export.encoder.openclip import load

    checkpoint = write_clip(folder, model.encoder)
    export_clip(load(model.encoder, str(checkpoint)), folder / "bundle", model.precision)
    checkpoint.unlink()
    if model.language_model is not None:
        _add_mllm(folder / "bundle", graphs, model.precision)


def _write_graphs(model: Model, folder: Path) -> None:
    """The MLLM's graphs at fp32, and what lies beside them in a bundle."""
    from rar.export.mllm import compare, source
    from rar.export.mllm.graphs import export_graph
    from rar.export.mllm.model import GRAPHS
    from rar.export.mllm.prompt import prompt_settings

    write_llava(folder / "llava", model.tower, model.language_model)
    mllm = source.load(str(folder / "llava"))
    for name in GRAPHS:
        export_graph(mllm, name, folder / f"{name}.onnx")
    mllm.tokenizer.save(str(folder / "tokenizer.json"))
    write_json(folder / "prompt.json", prompt_settings(mllm, None))
    write_json(folder / "preprocess.json", mllm.preprocess.to_dict() if mllm.preprocess else {})
    write_json(folder / "info.json", {"vision_input": mllm.vision_input, **compare.info(mllm.form)})
    shutil.copyfile(folder / "llava" / "config.json", folder / LLAVA)
    shutil.rmtree(folder / "llava")


def _add_mllm(bundle: Path, graphs: Path, precision: Literal["fp32", "fp16"]) -> None:
    """Converts the graphs into a bundle. They are compared on the machine that is measured, so not here."""
    from rar.export.graphs.precisions import convert
    from rar.export.mllm.model import GRAPHS

    info: dict[str, Any] = json.loads((graphs / "info.json").read_text(encoding="utf-8"))
    with stage(bundle, "mllm") as staging:
        for name in GRAPHS:
            convert(graphs / f"{name}.onnx", staging.folder / f"{name}.onnx", precision, ())
        for name in ("tokenizer", "prompt", "preprocess"):
            shutil.copyfile(graphs / f"{name}.json", staging.folder / f"{name}.json")
        staging.info.update(
            **info, source="random weights", encoder=None, adapter=None, precision=dict.fromkeys(GRAPHS, precision)
        )
