"""Makes the stored graphs of the starter anew from PyTorch: `python -m rar.export.starter.store`.

For developers: after a change of the towers, the projector, the adapter or the exporter. Needs a checkout with the
extras `export`, `starter` and `dev`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from rar.runtime.bundle.files import write_json
from rar.runtime.errors import ExportError
from rar.runtime.picture.load import load_image
from rar.runtime.session.checks import Run, check_file, narrowed, sampled, save_runs

from ..encoder import parity
from ..encoder.model import DualEncoder
from ..graphs import checks, trace
from ..mllm.adapter import merge
from ..mllm.graphs import export_graph
from ..mllm.model import Mllm
from ..mllm.parity import make_cases, runs
from ..mllm.prompt import prompt_settings, read_prompt
from ..pictures import prepare
from . import packages, ranker, skeletons, towers
from .encoder import OUTPUTS, row_checks
from .mllm import load_mllm
from .recipes import find_recipes

_CHECKED = ("chelsea.png", "coffee.png")  # in the public domain (CC0), with many shapes and colours


def write_encoder(encoder: DualEncoder, folder: Path) -> None:
    """Writes `visual.onnx` and `text.onnx` at fp32."""
    pixels = encoder.preprocess([load_image(path) for path in packages.photos(_CHECKED)])
    ids = encoder.runtime_tokenizer()(["a photo of a cat.", "a dog"])
    for name, module, example, taken, outputs, dynamic in (
        ("visual", encoder.visual, pixels, "pixel_values", OUTPUTS, (0,)),
        ("text", encoder.text_tower, ids, "input_ids", ["text_embeds"], (0, 1)),
    ):
        path = folder / f"{name}.onnx"
        trace.export_onnx(module, [torch.from_numpy(example)], path, inputs=[taken], outputs=outputs, dynamic=[dynamic])


def write_mllm(folder: Path) -> tuple[Mllm, dict[str, Any], dict[str, Any]]:
    """Writes the MLLM's graphs at fp32; returns the model, what the adapter is, and the content of `prompt.json`."""
    thin = load_mllm()
    merge(thin, packages.ADAPTER, keep_thin=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:  # the file of its weights keeps its name
        export_graph(thin, "decoder", Path(scratch) / "decoder-thin.onnx")
        for file in Path(scratch).iterdir():
            file.rename(folder / file.name)
    del thin
    mllm = load_mllm()
    adapter, modes = merge(mllm, packages.ADAPTER)
    for name in ranker.GRAPHS:
        export_graph(mllm, name, folder / f"{name}.onnx")
    return mllm, adapter, prompt_settings(mllm, modes)


def store(folder: Path = packages.STORED) -> None:
    """Writes the folder of stored graphs.

    Raises:
        ExportError: A weight cannot be made of the packages' tensors.
    """
    folder.mkdir(exist_ok=True)
    np.save(folder / "names.npy", towers.name_vectors())
    encoder, tensors = towers.load(), packages.Tensors()
    with tempfile.TemporaryDirectory() as scratch:
        full = Path(scratch)
        write_encoder(encoder, full)
        mllm, adapter, settings = write_mllm(full)
        known = find_recipes(tensors)
        recipes = {}
        for name in tqdm(skeletons.GRAPHS, disable=None):
            model, recipes[name] = skeletons.strip(full / f"{name}.onnx", known)
            (folder / f"{name}.onnx.gz").write_bytes(skeletons.pack(model))
    lines = (json.dumps(name) + ": {\n" + ",\n".join(_lines(made)) + "\n}" for name, made in recipes.items())
    (folder / "weights.json").write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    _store_tokenizer(mllm, tensors, folder)
    for name, kept in _runs(encoder, mllm, settings).items():
        save_runs(folder / check_file(name), kept)
    write_json(
        folder / "reference.json",
        {
            "tokens": row_checks(parity.reference_tokens(encoder, parity.sample_strings(parity.TOKENIZER_STRINGS))),
            "pixels": {path.name: _prepared(path) for path in packages.photos(packages.COMPARING) if _exact(path)},
            "mllm": {"source": mllm.source, "form": asdict(mllm.form), "prompt": settings, "adapter": adapter},
        },
    )


def _lines(recipes: Mapping[str, Any]) -> list[str]:
    return [f" {json.dumps(name)}: {json.dumps(list(recipe))}" for name, recipe in recipes.items()]


def _exact(path: Path) -> bool:
    """Whether each decoder gives the same pixels; those of JPEG differ."""
    return path.suffix == ".png"


def _prepared(path: Path) -> list[int]:
    cuts = [towers.reference_preprocess(Image.fromarray(cut)) for cut in prepare.cuts(load_image(path))]
    return row_checks(np.stack(cuts))


def _runs(encoder: DualEncoder, mllm: Mllm, settings: dict[str, Any]) -> dict[str, list[Run]]:
    """PyTorch's fp32 outputs of each graph, on inputs that are stored with them."""
    pixels = encoder.preprocess([load_image(path) for path in packages.photos(_CHECKED)])
    seen = narrowed({"pixel_values": pixels})
    ids = encoder.runtime_tokenizer()(checks.TEXTS)
    with torch.inference_mode():
        embeds, parts = encoder.visual(torch.from_numpy(seen["pixel_values"]))
        texts = encoder.text_tower(torch.from_numpy(ids))
    prompt = read_prompt(settings, mllm.tokenizer)
    case = make_cases(mllm, prompt, parts[:1].numpy(), 0)[0]
    return {
        "visual": [sampled(seen, checks.arrays(OUTPUTS, (embeds, parts)))],
        "text": [sampled({"input_ids": ids}, checks.arrays(["text_embeds"], texts))],
        **{name: runs(mllm, name, prompt, case) for name in ranker.GRAPHS},
    }


def _store_tokenizer(mllm: Mllm, tensors: packages.Tensors, folder: Path) -> None:
    """Writes the tokenizer without what the GGUF holds."""
    content = json.loads(mllm.tokenizer.to_str())
    for part, values in ranker.vocabulary(tensors).items():
        if content["model"].pop(part) != values:
            raise ExportError(
                f"the tokenizer's {part} is not that of {packages.language_file()}"
                "; install the packages in packages.txt"
            )
    write_json(folder / "tokenizer.json", content)


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    store()
