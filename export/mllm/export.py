"""The one path by which any multimodal LLM becomes a bundle's `mllm` component."""

from __future__ import annotations

import os
import tempfile
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

from ..photos import package_photos
from . import parity
from .adapter import merge
from .graphs import GRAPHS, export_graph
from .model import Mllm
from .prompt import compare_tokens, prompt_settings, read_prompt
from .quantize import Precision, convert

_PICTURES = 4


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
        pictures: float32 [n, *vision_shape] to compare on; by default photos that packages ship, or the features
            that the bundle's encoder gives of them.

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
    checks: dict[str, Any] = {"tokens": compare_tokens(mllm, prompt)}
    cases = parity.make_cases(mllm, prompt, pictures)
    with bundles.stage(out, "mllm") as staging, tqdm(total=2 * len(GRAPHS), disable=None) as bar:
        schemes = {}
        for name in GRAPHS:
            # Inside the bundle's folder: a model's fp32 weights may be more than /tmp holds.
            with tempfile.TemporaryDirectory(prefix=".fp32-", dir=staging.folder) as scratch:
                bar.set_description(f"{name} to ONNX")
                export_graph(mllm, name, full := Path(scratch) / f"{name}.onnx")
                bar.update()
                bar.set_description(f"{name} to {precision}")
                samples = partial(parity.samples, mllm, name, prompt, cases)
                schemes[name] = convert(name, full, staging.folder / f"{name}.onnx", precision, samples)
                bar.update()
        graphs = parity.Graphs(
            staging.folder, mllm, fp16=any(scheme["scheme"] == "fp16" for scheme in schemes.values())
        )
        checks["logits"] = parity.compare(graphs, prompt, cases, precision)
        mllm.tokenizer.save(str(staging.folder / "tokenizer.json"))
        write_json(staging.folder / "prompt.json", settings)
        if mllm.preprocess is not None:
            write_json(staging.folder / "preprocess.json", mllm.preprocess.to_dict())
        staging.info.update(
            source=mllm.source,
            architecture=mllm.architecture,
            precision={name: scheme.pop("scheme") for name, scheme in schemes.items()},
            measured={name: scheme for name, scheme in schemes.items() if scheme},
            vision_input=mllm.vision_input,
            encoder=None if encoder is None else encoder.component("clip").fingerprint,
            **parity.info(mllm),
            parity=checks,
            adapter=merged,
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
        ExportError: The encoder's features are not those the model was made for.
    """
    photos = [load_image(path) for path in package_photos()[:_PICTURES]]
    if mllm.preprocess is not None:
        return mllm.preprocess(photos)
    assert encoder is not None  # noqa: S101  # one of the two gives the pictures
    clip = Clip(encoder, "cpu")
    _, features = clip.encode(clip.preprocess(photos))
    if features is None or features.shape[1:] != tuple(mllm.vision_shape):
        shape = "none" if features is None else list(features.shape[1:])
        raise ExportError(
            f"{encoder.root}: its encoder gives {shape} as features; {mllm.source} takes {mllm.vision_shape}"
        )
    return features
