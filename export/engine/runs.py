"""The runs that an engine is compared by: small inputs like the real ones, and what ONNX Runtime makes of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tokenizers
from PIL import Image

from rar.runtime.bundle import Bundle
from rar.runtime.engine_checks import Array, Check
from rar.runtime.errors import BundleError
from rar.runtime.files import sha256
from rar.runtime.images import find_images, load_image
from rar.runtime.preprocess import Preprocess
from rar.runtime.session import OnnxSession
from rar.runtime.tokenizer import Tokenizer

from ..photos import package_photos

Inputs = Mapping[str, Array]

_TEXTS = (
    "a photo of a Granny Smith apple.",
    "Chevrolet Silverado 1500 Hybrid Crew Cab 2012",
    "crème brûlée",
    "747-400",
)
_QUESTION = "Which of these categories is shown in the image? apple, pear, oat milk (barista), black-footed albatross"
_TOKENS = 16
_CALIBRATION = 32


def reference(bundle: Bundle, graph: str) -> list[Check]:
    """A graph's stored runs, one a profile, with the outputs of the bundle's own graph on the CPU.

    Of a language model's keys and values only the first and the last layer's are kept.

    Raises:
        BundleError: A part of the bundle is missing or damaged, or does not fit the others.
    """
    if graph == "mllm/decoder.onnx":
        return _decoder(bundle)
    inputs = _pictures(bundle, graph, _drawn()) if graph in _SEEING else _texts(bundle, graph)
    return [Check("batch", inputs, run(bundle, graph, inputs))]


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
        yield _texts(bundle, graph)
        return
    for path in _photos(images):
        yield _pictures(bundle, graph, [load_image(path)])


def calibration_flag(images: str | None) -> str:
    """For an engine's key: which pictures it was calibrated on; raises as `calibration` does."""
    digests = "".join(sha256(path) for path in _photos(images))
    return f"calibrated-{hashlib.sha256(digests.encode()).hexdigest()[:16]}"


def _photos(images: str | None) -> list[Path]:
    return (find_images(Path(images)) if images is not None else package_photos())[:_CALIBRATION]


def run(bundle: Bundle, graph: str, inputs: Inputs) -> dict[str, Array]:
    """Runs a graph of a bundle on the CPU."""
    component, _, name = graph.partition("/")
    return OnnxSession(bundle.graph(component, name), "cpu", fp16=True).run(inputs)


_SEEING = ("clip/visual.onnx", "mllm/vision.onnx")


def _drawn() -> list[npt.NDArray[np.uint8]]:
    """Two pictures of soft coloured shapes: smooth in most places as photos are, and the same everywhere."""
    chance = np.random.default_rng(0)
    small = chance.integers(0, 256, (2, 6, 8, 3), dtype=np.uint8)
    return [np.asarray(Image.fromarray(pixels).resize((400, 300), Image.Resampling.BICUBIC)) for pixels in small]


def _pictures(bundle: Bundle, graph: str, pictures: Sequence[npt.NDArray[np.uint8]]) -> Inputs:
    component = graph.partition("/")[0]
    if component == "mllm" and bundle.component("mllm").info.get("vision_input") == "image_features":
        found = run(bundle, _SEEING[0], _pictures(bundle, _SEEING[0], pictures))
        if "image_features" not in found:
            raise BundleError(f"{bundle.root}: the encoder gives no features for the MLLM; export both again")
        return {"image_features": found["image_features"]}
    preprocess = Preprocess.from_dict(bundle.read_json(component, "preprocess.json"))
    return {"pixel_values": preprocess(list(pictures))}


def _texts(bundle: Bundle, graph: str) -> Inputs:
    if graph == "clip/text.onnx":
        clean = str(bundle.component("clip").info.get("clean"))
        return {"input_ids": Tokenizer.open(bundle.file("clip", "tokenizer.json"), clean)(_TEXTS)}
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(bundle.file("mllm", "tokenizer.json")))
    except Exception as error:  # `tokenizers` raises the bare Exception
        raise BundleError(f"{bundle.root}: mllm/tokenizer.json: {error}; export the MLLM again") from error
    return {"input_ids": np.resize(tokenizer.encode(_QUESTION).ids, (1, _TOKENS)).astype(np.int64)}


def _decoder(bundle: Bundle) -> list[Check]:
    """A prompt's first tokens at once, and then one more with half of them as the cache."""
    info: Any = bundle.component("mllm").info
    try:
        layers, shape = int(info["layers"]), (1, int(info["kv_heads"]), 0, int(info["head_dim"]))
        dims = int(bundle.read_json("mllm", "prompt.json").get("position_dims", 1))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BundleError(f"{bundle.root}: the MLLM's settings lack {error}; export it again") from error
    embeds = run(bundle, "mllm/embed.onnx", _texts(bundle, "mllm/embed.onnx"))["inputs_embeds"]
    names = [f"{layer}.{part}" for layer in range(layers) for part in ("key", "value")]
    kept = {"logits", *(f"present.{name}" for name in (*names[:2], *names[-2:]))}

    def check(profile: str, begin: int, end: int, past: Mapping[str, Array]) -> tuple[Check, dict[str, Array]]:
        length = end - begin
        positions = np.arange(begin, end)[None]
        inputs = {
            "inputs_embeds": embeds[:, begin:end],
            "attention_mask": np.tri(length, end, begin, dtype=bool)[None, None],
            "position_ids": np.repeat(positions[None], dims, 0) if dims > 1 else positions,
            "logit_positions": np.array([sorted({0, length // 2, length - 1})]),
            **{f"past_key_values.{name}": past[f"present.{name}"] for name in names},
        }
        outputs = run(bundle, "mllm/decoder.onnx", inputs)
        return Check(profile, inputs, {name: array for name, array in outputs.items() if name in kept}), outputs

    prefill, outputs = check("prefill", 0, _TOKENS, {f"present.{name}": np.zeros(shape, np.float32) for name in names})
    half = {name: array[:, :, : _TOKENS // 2] for name, array in outputs.items() if name.startswith("present.")}
    return [prefill, check("decode", _TOKENS // 2, _TOKENS // 2 + 1, half)[0]]
