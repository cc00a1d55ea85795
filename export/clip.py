"""The one path by which any dual encoder becomes a bundle's `clip` component."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from rar.runtime import bundle as bundles
from rar.runtime.errors import ExportError
from rar.runtime.files import write_json
from rar.runtime.images import find_images, load_image

from . import graph, parity
from .dual_encoder import DualEncoder
from .photos import package_photos

# Random crops a calibration picture: one photo gives ranges at several scales.
_CROPS = 8
_MAX_PICTURES = 64
# What the manifest calls the comparison of each output.
_PARITY = {
    "image_embeds": "visual", "image_features": "features", "region_embeds": "regions", "region_boxes": "boxes",
}  # fmt: skip


def export_clip(
    encoder: DualEncoder,
    out: str | os.PathLike[str],
    precision: graph.Precision = "fp32",
    images: str | os.PathLike[str] | None = None,
) -> dict[str, Any]:
    """Exports a dual encoder into a new bundle, checked against PyTorch.

    Args:
        encoder: The loaded model.
        out: The bundle's folder; must not hold an encoder yet.
        precision: `fp32`, `fp16` or `int8`.
        images: A folder of pictures to calibrate on and compare with, half of them each; by default the
            photos that scikit-image and scikit-learn ship.

    Returns:
        What was written into the manifest: precision, scheme, dimension, parity, sizes.

    Raises:
        ExportError: The export fails or lies too far from PyTorch; nothing is left behind.
        BundleError: The folder cannot take a bundle.
        InputError: The pictures' folder is missing or empty.
    """
    import torch

    if bundles.exists(out) and "clip" in bundles.Bundle.open(out).components:
        raise ExportError(f"{out}: holds an encoder already, and a memory made with it; name a new folder")
    pictures = find_images(Path(images))[:_MAX_PICTURES] if images is not None else package_photos()
    if len(pictures) < 2:
        raise ExportError(f"{images}: holds {len(pictures)} picture; give two or more, for calibrating and comparing")
    calibrating, comparing = pictures[::2], pictures[1::2]
    pixels = encoder.preprocess([load_image(path) for path in comparing[:2] * 2][:2])
    ids = encoder.runtime_tokenizer()(["a photo of a cat.", "a dog"])
    result: dict[str, Any] = {
        "preprocess": parity.compare_preprocess(encoder, comparing),
        "tokenizer": parity.compare_tokenizer(encoder),
    }
    with (
        bundles.stage(out, "clip") as staging,
        tempfile.TemporaryDirectory() as scratch,
        tqdm(total=4, disable=None) as bar,
    ):
        scheme = {}
        # Where the tokenizer pads to the longest text and not to a fixed length, the graph takes any length.
        any_length = encoder.tokenizer.padding["length"] is None
        for name, module, example, input_name, outputs, dynamic_length in (
            ("visual", encoder.visual, pixels, "pixel_values", encoder.visual_outputs, False),
            ("text", encoder.text, ids, "input_ids", ["text_embeds"], any_length),
        ):
            bar.set_description(f"{name} to ONNX")
            full, final = Path(scratch) / f"{name}.onnx", staging.folder / f"{name}.onnx"
            graph.export_onnx(
                module,
                [torch.from_numpy(example)],
                full,
                inputs=[input_name],
                outputs=outputs,
                dynamic=[(0, 1) if dynamic_length else (0,)],
            )
            bar.update()
            bar.set_description(f"{name} to {precision}")
            scheme[name] = graph.convert(full, final, precision, _calibration(encoder, calibrating))
            bar.update()
        found = parity.compare_visual(encoder, staging.folder / "visual.onnx", comparing, precision)
        result.update((_PARITY[name], value) for name, value in found.items())
        result["text"] = parity.compare_text(encoder, staging.folder / "text.onnx", precision)
        encoder.tokenizer.save(str(staging.folder / "tokenizer.json"))
        write_json(staging.folder / "preprocess.json", encoder.preprocess.to_dict())
        with torch.inference_mode():
            dim = int(encoder.text(torch.from_numpy(ids)).shape[1])
        staging.info.update(
            source=encoder.source,
            precision=precision,
            scheme=scheme,
            dim=dim,
            clean=encoder.clean,
            templates=list(encoder.templates),
            parity=result,
            made_with={name: version(name) for name in ("torch", "onnx", "onnxruntime", "rar-runtime")},
        )
    return staging.info


def _calibration(encoder: DualEncoder, pictures: Sequence[Path]) -> Iterator[dict[str, npt.NDArray[np.float32]]]:
    """Each picture whole and as seeded square crops of 30 to 100 % of its shorter side."""
    chance = np.random.default_rng(0)
    for path in pictures:
        pixels = load_image(path)
        height, width = pixels.shape[:2]
        views = [pixels]
        for _ in range(_CROPS):
            side = max(1, int(chance.uniform(0.3, 1.0) * min(height, width)))
            top, left = int(chance.integers(height - side + 1)), int(chance.integers(width - side + 1))
            views.append(pixels[top : top + side, left : left + side])
        yield {"pixel_values": encoder.preprocess(views)}
