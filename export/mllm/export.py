"""The one path by which any multimodal LLM becomes a bundle's `mllm` component."""

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

from rar.runtime import bundle as bundles
from rar.runtime.clip import Clip
from rar.runtime.errors import ExportError
from rar.runtime.files import write_json
from rar.runtime.images import load_image
from rar.runtime.mllm.prompt import Prompt

from ..photos import package_photos
from . import parity
from .adapter import merge
from .graphs import GRAPHS, export_graph
from .model import Mllm
from .prompt import compare_tokens, prompt_settings, read_prompt
from .quantize import Precision, convert

# Half of them to calibrate on and half to compare with, each with all modes' prompts.
_PICTURES = 6


def export_mllm(
    mllm: Mllm,
    out: str | os.PathLike[str],
    precision: Precision = "fp32",
    adapter: str | os.PathLike[str] | None = None,
    pictures: npt.NDArray[np.float32] | None = None,
) -> dict[str, Any]:
    """Exports a multimodal LLM into a new or existing bundle, checked against transformers.

    Args:
        mllm: The loaded model; an adapter is merged into it.
        out: The bundle's folder; must not hold an MLLM yet.
        precision: `fp32`, `fp16`, `int8` or `int4`.
        adapter: A folder that `rar-export finetune` wrote.
        pictures: float32 [n, *vision_shape], half of them to calibrate on and half to compare with; by default photos
            that packages ship, or the features that the bundle's encoder gives of them.

    Returns:
        What was written into the manifest.

    Raises:
        ExportError: The export fails or lies too far from transformers; nothing is left behind.
        BundleError: The folder cannot take a bundle.
    """
    if bundles.exists(out) and "mllm" in bundles.Bundle.open(out).components:
        raise ExportError(f"{out}: holds an MLLM already; name a new folder")
    merged, modes = merge(mllm, adapter, precision == "int4") if adapter is not None else (None, None)
    settings = prompt_settings(mllm, modes)
    prompt = read_prompt(settings, mllm.tokenizer)
    encoder = _encoder(mllm, out)
    pictures = _photos(mllm, encoder) if pictures is None else pictures
    checks = {"tokens": compare_tokens(mllm, prompt)}
    cases = parity.make_cases(mllm, prompt, pictures, parity.GREEDY if precision == "fp32" else 0)
    calibrating, comparing = (cases, cases) if precision == "fp32" or len(cases) < 2 else (cases[::2], cases[1::2])
    try:
        sees = None if encoder is None else encoder.component("clip").fingerprint
        return _write(mllm, out, precision, _Ready(settings, prompt, calibrating, comparing, checks, merged, sees))
    except OSError as error:
        raise ExportError(f"{out}: cannot be written ({error.strerror or error}); nothing was changed") from error


@dataclass(frozen=True)
class _Ready:
    """What is known before anything is written."""

    settings: dict[str, Any]
    prompt: Prompt
    calibrating: Sequence[parity.Case]
    comparing: Sequence[parity.Case]
    checks: dict[str, Any]
    adapter: dict[str, Any] | None
    encoder: str | None


def _write(mllm: Mllm, out: str | os.PathLike[str], precision: Precision, ready: _Ready) -> dict[str, Any]:
    with bundles.stage(out, "mllm") as staging, tqdm(total=2 * len(GRAPHS), disable=None) as bar:
        schemes = {}
        for name in GRAPHS:
            # Inside the bundle's folder: a model's fp32 weights may be more than /tmp holds.
            with tempfile.TemporaryDirectory(prefix=".fp32-", dir=staging.folder) as scratch:
                bar.set_description(f"{name} to ONNX")
                export_graph(mllm, name, full := Path(scratch) / f"{name}.onnx")
                bar.update()
                bar.set_description(f"{name} to {precision}")
                samples = partial(parity.samples, mllm, name, ready.prompt, ready.calibrating)
                schemes[name] = convert(name, full, staging.folder / f"{name}.onnx", precision, samples)
                bar.update()
        graphs = parity.Graphs(
            staging.folder, mllm, fp16=any(scheme["scheme"] == "fp16" for scheme in schemes.values())
        )
        logits = parity.compare(graphs, ready.prompt, ready.comparing, precision)
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
            **parity.info(mllm),
            parity={**ready.checks, "logits": logits},
            adapter=ready.adapter,
            made_with={name: version(name) for name in ("torch", "transformers", "onnx", "onnxruntime", "rar-runtime")},
        )
    return staging.info


def _encoder(mllm: Mllm, out: str | os.PathLike[str]) -> bundles.Bundle | None:
    """The bundle whose encoder's features the model sees by; None where it sees pixels.

    Raises:
        ExportError: The bundle has no such encoder.
    """
    if mllm.vision_input == "pixel_values":
        return None
    if not bundles.exists(out) or "clip" not in (bundle := bundles.Bundle.open(out)).components:
        raise ExportError(f"{out}: {mllm.source} sees by an encoder's features; build that with `rar-export starter`")
    return bundle


def _photos(mllm: Mllm, encoder: bundles.Bundle | None) -> npt.NDArray[np.float32]:
    """Real photos as the model sees them.

    Raises:
        ExportError: The encoder's features are not those the model was made for, or nothing says how it sees.
    """
    photos = [load_image(path) for path in package_photos()[:_PICTURES]]
    if encoder is None:
        if mllm.preprocess is None:
            raise ExportError(f"{mllm.source}: says neither how pictures are prepared nor whose features it sees by")
        return mllm.preprocess(photos)
    clip = Clip(encoder, "cpu")
    _, features = clip.encode(clip.preprocess(photos))
    if features is None or features.shape[1:] != tuple(mllm.vision_shape):
        shape = "none" if features is None else list(features.shape[1:])
        raise ExportError(
            f"{encoder.root}: its encoder gives {shape} as features; {mllm.source} takes {mllm.vision_shape}"
        )
    return features
