"""The starter's MLLM, made of the stored graphs: see `mllm` for what it computes."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from rar.runtime.bundle.change import stage
from rar.runtime.bundle.files import write_json
from rar.runtime.bundle.manifest import Bundle
from rar.runtime.encoder.clip import Clip
from rar.runtime.errors import ExportError
from rar.runtime.picture.load import load_image
from rar.runtime.rank.mllm.prompt import Prompt

from ..graphs.checks import store_runs
from ..mllm import compare
from ..mllm.model import Form
from ..mllm.prompt import read_prompt
from ..mllm.quantize import Precision, convert
from . import packages, skeletons

if TYPE_CHECKING:
    import tokenizers

GRAPHS = ("vision", "embed", "decoder")
# Of the photos of each kind: those that int8 ranges are measured on, and those that are compared.
_PICTURES = 3


def export_ranker(
    out: str | os.PathLike[str],
    precision: Precision,
    tensors: packages.Tensors | None = None,
) -> None:
    """Writes the MLLM with the shipped adapter into the starter's bundle, without PyTorch.

    The fp32 graphs must give the stored outputs of PyTorch. Then the exported ones are compared with the fp32 ones.

    Args:
        out: The bundle's folder, with the starter's encoder and no MLLM.
        precision: `fp32`, `fp16`, `int8` or `int4`.
        tensors: `packages.Tensors`, if they are open already.

    Raises:
        ExportError: A package is missing, or a graph is too far from PyTorch; nothing is left behind.
        BundleError: The folder cannot take an MLLM.
    """
    bundle = Bundle.open(out)
    if "mllm" in bundle.components:
        raise ExportError(f"{out}: holds an MLLM already; name a new folder")
    tensors = packages.Tensors() if tensors is None else tensors
    stored = skeletons.reference()["mllm"]
    form = Form(**stored["form"])
    tokenizer = read_tokenizer(tensors)
    settings = stored["prompt"]
    prompt = read_prompt(settings, tokenizer)
    calibrating, comparing = (
        features(bundle, names[:_PICTURES]) for names in (packages.CALIBRATING, packages.COMPARING)
    )
    with stage(out, "mllm") as staging, tqdm(total=2 * len(GRAPHS), disable=None) as bar:
        # Inside the bundle's folder: the fp32 weights take half a gigabyte.
        with tempfile.TemporaryDirectory(prefix=".fp32-", dir=staging.folder) as scratch:
            full = Path(scratch)
            for name in GRAPHS:
                bar.set_description(f"{name} from its packages")
                stem = "decoder-thin" if name == "decoder" and precision == "int4" else name
                skeletons.fill(stem, tensors, full / f"{name}.onnx")
                skeletons.hold(stem, full / f"{name}.onnx")
                bar.update()
            source = compare.Graphs.open(full, form)
            ranges = make_cases(source, prompt, calibrating)
            cases = make_cases(source, prompt, comparing)
            samples = {name: [sample(source, prompt, name, case) for case in ranges] for name in GRAPHS}
            schemes = {}
            for name in GRAPHS:
                bar.set_description(f"{name} to {precision}")
                target = staging.folder / f"{name}.onnx"
                schemes[name] = convert(name, full / target.name, target, precision, partial(samples.__getitem__, name))
                bar.update()
        graphs = compare.Graphs.open(staging.folder, form, fp16=any(s["scheme"] == "fp16" for s in schemes.values()))
        logits = compare.compare(graphs, prompt, cases, precision)
        held = {
            f"{name}.onnx": store_runs(
                staging.folder,
                f"{name}.onnx",
                skeletons.runs(name),
                getattr(graphs, name),
                schemes[name]["scheme"].split()[0],
            )
            for name in GRAPHS
        }
        tokenizer.save(str(staging.folder / "tokenizer.json"))
        write_json(staging.folder / "prompt.json", settings)
        staging.info.update(
            source=stored["source"],
            architecture="starter",
            precision={name: scheme.pop("scheme") for name, scheme in schemes.items()},
            measured={name: scheme for name, scheme in schemes.items() if scheme},
            vision_input=form.vision_input,
            encoder=bundle.component("clip").fingerprint,
            **compare.info(form),
            parity={"logits": logits},
            checks=held,
            adapter=stored["adapter"],
            made_with={name: version(name) for name in ("onnx", "onnxruntime", "rar-runtime")},
        )


def features(bundle: Bundle, names: Sequence[str]) -> npt.NDArray[np.float32]:
    """What the bundle's encoder gives an MLLM of photos: float32 [N, 9, 1280].

    Raises:
        ExportError: The encoder gives none.
    """
    clip = Clip(bundle, "cpu")
    _, parts = clip.encode(clip.preprocess([load_image(path) for path in packages.photos(names)]))
    if parts is None:
        raise ExportError(f"{bundle.root}: its encoder is not the starter's; build one with `rar-export starter`")
    return parts


def make_cases(graphs: compare.Graphs, prompt: Prompt, pictures: npt.NDArray[np.float32]) -> list[compare.Case]:
    """Real prompts, one a picture, with the outputs of the fp32 graphs."""
    cases = []
    for number, pixels in enumerate(pictures):
        ids = compare.ids(prompt, number)
        positions, _ = prompt.positions.count(ids.tolist(), 0)
        logits, _ = graphs.run(graphs.embeds(ids, pixels[None]), positions)
        cases.append(compare.Case(ids, pixels, logits, ()))
    return cases


def sample(graphs: compare.Graphs, prompt: Prompt, name: str, case: compare.Case) -> Mapping[str, npt.NDArray[Any]]:
    """A graph's inputs for a case."""
    if name == "vision":
        return {graphs.form.vision_input: case.pixels[None]}
    positions, _ = prompt.positions.count(case.ids.tolist(), 0)
    return compare.decoder_inputs(graphs.form, graphs.embeds(case.ids, case.pixels[None]), positions)


def read_tokenizer(tensors: packages.Tensors) -> tokenizers.Tokenizer:
    """SmolLM2's tokenizer: the stored settings with the tokens and merges of its GGUF."""
    import tokenizers

    settings = json.loads((packages.STORED / "tokenizer.json").read_text(encoding="utf-8"))
    settings["model"] |= vocabulary(tensors)
    return tokenizers.Tokenizer.from_str(json.dumps(settings))


def vocabulary(tensors: packages.Tensors) -> dict[str, Any]:
    """The two large parts of a `tokenizer.json`."""
    tokens, merges = (tensors.reader.fields[f"tokenizer.ggml.{part}"].contents() for part in ("tokens", "merges"))
    return {
        "vocab": {token: number for number, token in enumerate(tokens)},
        "merges": [merge.split(" ") for merge in merges],
    }
