"""Inputs like the real ones, to take the ranges of activations from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rar.runtime.bundle.files import sha256
from rar.runtime.bundle.manifest import Bundle
from rar.runtime.encoder.info import EncoderInfo
from rar.runtime.encoder.tokenizer import Tokenizer
from rar.runtime.errors import BundleError
from rar.runtime.picture.folder import find_images
from rar.runtime.picture.load import load_image
from rar.runtime.picture.preprocess import Preprocess
from rar.runtime.rank.mllm.info import MllmInfo
from rar.runtime.session import OnnxSession

from ..pictures.photos import package_photos

Inputs = Mapping[str, npt.NDArray[np.generic]]

_TEXTS = (
    "a photo of a Granny Smith apple.",
    "Chevrolet Silverado 1500 Hybrid Crew Cab 2012",
    "crème brûlée",
    "747-400",
)
_CALIBRATION = 32
_SEEING = ("clip/visual.onnx", "mllm/vision.onnx")


def calibration(bundle: Bundle, graph: str, images: str | None) -> Iterator[Inputs]:
    """Inputs to take the ranges of a graph's activations from.

    Args:
        bundle: The bundle.
        graph: One of an encoder or picture tower.
        images: A folder of pictures; by default the photos that packages ship.

    Raises:
        ExportError: No pictures.
        InputError: The folder is missing or empty.
    """
    if graph not in _SEEING:
        tokenizer = Tokenizer.open(bundle.file("clip", "tokenizer.json"), EncoderInfo.of(bundle).clean)
        yield {"input_ids": tokenizer(_TEXTS)}
        return
    for path in _photos(images):
        yield _pictures(bundle, graph, [load_image(path)])


def calibration_flag(images: str | None) -> str:
    """For an engine's key: which pictures it was calibrated on; raises as `calibration` does."""
    digests = "".join(sha256(path) for path in _photos(images))
    return f"calibrated-{hashlib.sha256(digests.encode()).hexdigest()[:16]}"


def _photos(images: str | None) -> list[Path]:
    return (find_images(Path(images)) if images is not None else package_photos())[:_CALIBRATION]


def _pictures(bundle: Bundle, graph: str, pictures: Sequence[npt.NDArray[np.uint8]]) -> Inputs:
    component = graph.partition("/")[0]
    if component == "mllm" and MllmInfo.of(bundle).vision_input == "image_features":
        outputs = OnnxSession(bundle.graph("clip", "visual.onnx"), "cpu", fp16=True).run(
            _pictures(bundle, _SEEING[0], pictures)
        )
        if "image_features" not in outputs:
            raise BundleError(f"{bundle.root}: the encoder gives no features for the MLLM; export both again")
        return {"image_features": outputs["image_features"]}
    preprocess = Preprocess.from_dict(bundle.read_json(component, "preprocess.json"))
    return {"pixel_values": preprocess(list(pictures))}
