"""The shapes that engines take, from what a bundle says of its models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import onnx

from rar.runtime.bundle.manifest import Bundle
from rar.runtime.errors import BundleError, InputError
from rar.runtime.session.tensorrt.stored import Profile, Shape

Batch = tuple[int, int, int]
# Smallest, best and largest number: of the batch N, of new tokens L, of tokens in the cache P, of logits M.
Ranges = Mapping[str, tuple[int, int, int]]

# A prefill holds this many rows at most: memory is set aside for the largest shape, and rows of a prefill are long.
_PREFILL_ROWS = 8
# New tokens a call beside a picture's: names, question and answers.
_TEXT_TOKENS = 256
_LEAST_TOKENS = 512
_LOGITS = 256


@dataclass(frozen=True)
class Shapes:
    """What the user may set.

    Attributes:
        batch: Smallest, best and largest batch.
        tokens: The most new tokens a call of the language model; None for what its pictures need.
    """

    batch: Batch = (1, 8, 32)
    tokens: int | None = None

    def __post_init__(self) -> None:
        low, best, high = self.batch
        if not 1 <= low <= best <= high:
            raise InputError(f"--batch {low} {best} {high}: give the smallest, the best and the largest, from 1 up")
        if self.tokens is not None and self.tokens < 1:
            raise InputError(f"--tokens {self.tokens}: give 1 or more")


def load_graph(bundle: Bundle, graph: str) -> onnx.ModelProto:
    """A graph of a bundle without its weights, which are not looked at.

    Args:
        bundle: The bundle.
        graph: `component/name`.

    Raises:
        BundleError: It is missing, altered or no graph.
    """
    path = bundle.file(*graph.split("/"))
    try:
        return onnx.load(str(path), load_external_data=False)
    except Exception as error:  # protobuf has types of its own
        raise BundleError(f"{path}: not an ONNX graph ({error}); export it again") from error


def graph_profiles(bundle: Bundle, model: onnx.ModelProto, graph: str, shapes: Shapes) -> tuple[Profile, ...]:
    """The profiles of a graph's engine.

    Args:
        bundle: The bundle.
        model: From `load_graph`.
        graph: `component/name`.
        shapes: What is to fit.

    Raises:
        BundleError: The graph's settings are not what this package exports.
        InputError: They do not fit the shapes.
    """
    component, _, name = graph.partition("/")
    # None for what is dynamic.
    inputs = {
        value.name: tuple(
            dim.dim_value if dim.HasField("dim_value") else None for dim in value.type.tensor_type.shape.dim
        )
        for value in model.graph.input
    }
    batch = shapes.batch
    if component == "clip":
        longest = _longest_text(bundle) if name == "text.onnx" else 1
        return (_profile("batch", inputs, {"N": batch, "L": (1, min(16, longest), longest)}),)
    if name == "vision.onnx":
        return (_profile("batch", inputs, {"N": batch, "L": (1, 1, 1)}),)
    most, best, context = _tokens(bundle, shapes)
    if name == "embed.onnx":
        return (_profile("batch", inputs, {"N": batch, "L": (1, best, most)}),)
    past = min(context, 2 * most)
    rows = min(_PREFILL_ROWS, batch[2])
    logits = min(_LOGITS, most)
    # The first call has no cache, hence 0. A step of writing is a call of one token.
    prefill = {
        "N": (1, 1, rows),
        "L": (1, best, most),
        "P": (0, min(32, past), past),
        "M": (1, min(16, logits), logits),
    }
    # Rows drop out as their answers end, hence 1.
    decode = {"N": (1, *batch[1:]), "L": (1, 1, 1), "P": (1, min(best, past), past), "M": (1, 1, 1)}
    return _profile("prefill", inputs, prefill), _profile("decode", inputs, decode)


def _profile(name: str, inputs: Mapping[str, tuple[int | None, ...]], ranges: Ranges) -> Profile:
    low, best, high = ({key: sizes[at] for key, sizes in ranges.items()} for at in range(3))
    return Profile(
        name,
        {
            tensor: (_shape(tensor, dims, low), _shape(tensor, dims, best), _shape(tensor, dims, high))
            for tensor, dims in inputs.items()
        },
    )


def _shape(tensor: str, dims: tuple[int | None, ...], sizes: Mapping[str, int]) -> Shape:
    """One shape of an input: what is fixed in the graph stays, the rest is what the decoder's signature says."""
    if tensor == "attention_mask":
        return (sizes["N"], 1, sizes["L"], sizes["P"] + sizes["L"])
    if tensor == "position_ids":
        return (*([3] if len(dims) == 3 else []), sizes["N"], sizes["L"])
    inner = {"logit_positions": "M"}.get(tensor, "P" if tensor.startswith("past_key_values.") else "L")
    return tuple(
        fixed if fixed is not None else sizes["N" if place == 0 else inner] for place, fixed in enumerate(dims)
    )


def _longest_text(bundle: Bundle) -> int:
    """Tokens that texts are cut to."""
    settings: Any = bundle.read_json("clip", "tokenizer.json")
    try:
        return int(settings["truncation"]["max_length"])
    except (KeyError, TypeError, ValueError) as error:
        raise BundleError(
            f"{bundle.root}: clip/tokenizer.json has no length to cut texts to ({error})"
            "; export the encoder again with `rar-export clip`"
        ) from error


def _tokens(bundle: Bundle, shapes: Shapes) -> tuple[int, int, int]:
    """The language model's token counts: the most new ones a call, a usual number, and the most in its cache."""
    settings: Any = bundle.read_json("mllm", "prompt.json")
    try:
        picture, context = int(settings["image_tokens"]), int(settings["context"])
    except (KeyError, TypeError, ValueError) as error:
        raise BundleError(f"{bundle.root}: mllm/prompt.json lacks {error}; export the model again") from error
    wanted = max(_LEAST_TOKENS, picture + _TEXT_TOKENS) if shapes.tokens is None else shapes.tokens
    if picture > min(wanted, context):
        raise InputError(f"--tokens {wanted}: a picture alone takes {picture}; give more")
    most = min(wanted, context)
    return most, min(most, picture + 64), context
