"""Exports any multimodal LLM as a bundle's `mllm` component."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from rar.runtime.bundle.change import stage
from rar.runtime.bundle.files import write_json
from rar.runtime.bundle.manifest import Bundle, exists
from rar.runtime.encoder.clip import Clip
from rar.runtime.errors import ExportError
from rar.runtime.picture.load import load_image
from rar.runtime.rank.mllm.prompt import Prompt
from rar.runtime.stages import in_stage

from ..graphs.checks import store_runs
from ..pictures import prepare
from ..pictures.photos import package_photos
from . import compare, parity
from .adapter import merge
from .graphs import export_graph
from .model import GRAPHS, Mllm
from .prompt import compare_tokens, prompt_settings, read_prompt
from .quantize import Precision, convert

# Half of them for calibration and half for comparison, each with all modes' prompts.
_PICTURES = 6


def export_mllm(
    mllm: Mllm,
    out: str | os.PathLike[str],
    precision: Precision = "fp32",
    adapter: str | os.PathLike[str] | None = None,
) -> dict[str, Any]:
    """Exports a multimodal LLM into a new or existing bundle, checked against transformers.

    Half of the photos that packages ship, or of the features that the bundle's encoder gives of them, is calibrated
    on, and the other half compared with.

    Args:
        mllm: The loaded model; an adapter is merged into it.
        out: The bundle's folder; must not hold an MLLM yet.
        precision: `fp32`, `fp16`, `int8` or `int4`.
        adapter: A folder that `rar-export finetune` wrote.

    Returns:
        The manifest's entry.

    Raises:
        ExportError: The export fails or lies too far from transformers; nothing is left behind.
        BundleError: The folder cannot take a bundle.
    """
    if exists(out) and "mllm" in Bundle.open(out).components:
        raise ExportError(f"{out}: holds an MLLM already; name a new folder")
    merged, modes = merge(mllm, adapter, precision == "int4") if adapter is not None else (None, None)
    settings = prompt_settings(mllm, modes)
    prompt = read_prompt(settings, mllm.tokenizer)
    encoder = _encoder(mllm, out)
    pictures = _photos(mllm, encoder)
    checks: dict[str, Any] = {"tokens": compare_tokens(mllm, prompt)}
    if mllm.preprocess is not None and mllm.reference_preprocess is not None:
        own, photos = mllm.reference_preprocess, package_photos()[:_PICTURES]
        checks["preprocess"] = prepare.compare(mllm.preprocess, own, mllm.source, photos, prepare.SQUARE, mllm.rounded)
    with in_stage("references"):
        cases = parity.make_cases(mllm, prompt, pictures, compare.GREEDY if precision == "fp32" else 0)
    calibrating, comparing = (cases, cases) if precision == "fp32" or len(cases) < 2 else (cases[::2], cases[1::2])
    try:
        sees = None if encoder is None else encoder.component("clip").fingerprint
        return _write(mllm, out, precision, _Ready(settings, prompt, calibrating, comparing, checks, merged, sees))
    except OSError as error:
        raise ExportError(f"{out}: cannot be written ({error.strerror or error}); nothing was changed") from error


@dataclass(frozen=True)
class _Ready:
    """What is determined before anything is written."""

    settings: dict[str, Any]
    prompt: Prompt
    calibrating: Sequence[compare.Case]
    comparing: Sequence[compare.Case]
    checks: dict[str, Any]
    adapter: dict[str, Any] | None
    encoder: str | None


def _write(mllm: Mllm, out: str | os.PathLike[str], precision: Precision, ready: _Ready) -> dict[str, Any]:
    with stage(out, "mllm") as staging, tqdm(total=2 * len(GRAPHS), disable=None) as bar:
        schemes = {}
        for name in GRAPHS:
            # Inside the bundle's folder: a model's fp32 weights may be more than /tmp holds.
            with tempfile.TemporaryDirectory(prefix=".fp32-", dir=staging.folder) as scratch:
                bar.set_description(f"{name} to ONNX")
                with in_stage("trace"):
                    export_graph(mllm, name, full := Path(scratch) / f"{name}.onnx")
                bar.update()
                bar.set_description(f"{name} to {precision}")
                samples = partial(parity.samples, mllm, name, ready.prompt, ready.calibrating)
                with in_stage("convert"):
                    schemes[name] = convert(name, full, staging.folder / f"{name}.onnx", precision, samples)
                bar.update()
        with in_stage("compare"):
            graphs = compare.Graphs.open(
                staging.folder, mllm.form, fp16=any(scheme["scheme"] == "fp16" for scheme in schemes.values())
            )
            logits = compare.compare(graphs, ready.prompt, ready.comparing, precision)
        with in_stage("checks"):
            held = {
                f"{name}.onnx": store_runs(
                    staging.folder,
                    f"{name}.onnx",
                    parity.runs(mllm, name, ready.prompt, ready.comparing[0]),
                    getattr(graphs, name),
                    schemes[name]["scheme"].split()[0],
                )
                for name in GRAPHS
            }
        mllm.tokenizer.save(str(staging.folder / "tokenizer.json"))
        write_json(staging.folder / "prompt.json", ready.settings)
        if mllm.preprocess is not None:
            write_json(staging.folder / "preprocess.json", mllm.preprocess.to_dict())
        staging.info.update(
            source=mllm.source,
            architecture=mllm.architecture,
            precision={name: scheme.pop("scheme") for name, scheme in schemes.items()},
            measured={name: scheme for name, scheme in schemes.items() if scheme},
            vision_input=mllm.vision_input,
            encoder=ready.encoder,
            **compare.info(mllm.form),
            parity={**ready.checks, "logits": logits},
            checks=held,
            adapter=ready.adapter,
            made_with={name: version(name) for name in ("torch", "transformers", "onnx", "onnxruntime", "rar-runtime")},
        )
    return staging.info


def _encoder(mllm: Mllm, out: str | os.PathLike[str]) -> Bundle | None:
    """The bundle whose encoder's features the model takes; None if it takes pixels.

    Raises:
        ExportError: The bundle has no such encoder.
    """
    if mllm.vision_input == "pixel_values":
        return None
    if not exists(out) or "clip" not in (bundle := Bundle.open(out)).components:
        raise ExportError(f"{out}: {mllm.source} sees by an encoder's features; build that with `rar-export starter`")
    return bundle


def _photos(mllm: Mllm, encoder: Bundle | None) -> npt.NDArray[np.float32]:
    """Real photos in the form of the model's inputs.

    Raises:
        ExportError: The encoder's features do not fit the model, or the model defines no picture preparation.
    """
    photos = [load_image(path) for path in package_photos()[:_PICTURES]]
    if encoder is None:
        if mllm.preprocess is None:
            raise ExportError(
                f"{mllm.source}: says neither how pictures are prepared nor whose features it sees by"
                "; choose a model with a preprocessor_config.json"
            )
        return mllm.preprocess(photos)
    clip = Clip(encoder, "cpu")
    _, features = clip.encode(clip.preprocess(photos))
    if features is None or features.shape[1:] != tuple(mllm.vision_shape):
        shape = "none" if features is None else list(features.shape[1:])
        raise ExportError(
            f"{encoder.root}: its encoder gives {shape} as features; {mllm.source} takes {mllm.vision_shape}"
        )
    return features
