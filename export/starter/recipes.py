"""How each weight of the starter's graphs is made of the packages' tensors, bit by bit as PyTorch makes it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[np.generic]
Floats: TypeAlias = npt.NDArray[np.float32]
# A kind of `KINDS`, and the tensors that it takes.
Recipe: TypeAlias = Sequence[str]

# Of EfficientNet's batch normalisations, and of the shipped LoRA (alpha / r).
_EPSILON, _SCALE = np.float32(1e-3), np.float32(2)


def merge(base: Floats, down: Floats, up: Floats) -> Floats:
    """A weight with its LoRA: float32 [N, K] of [N, K], [r, K] and [N, r].

    The ranks are added one after the other: a matrix product would sum in an order of its own on each processor.
    """
    change = np.zeros_like(base)
    for rank in range(len(down)):
        change += up[:, rank, None] * down[rank]
    return base + change * _SCALE


def _fold(weight: Floats, gain: Floats, variance: Floats) -> Floats:
    """A convolution's weight with the batch normalisation behind it."""
    scale = gain / np.sqrt(variance + _EPSILON)
    return np.asarray(weight * scale.reshape(-1, *[1] * (weight.ndim - 1)))


def _fold_bias(gain: Floats, bias: Floats, mean: Floats, variance: Floats) -> Floats:
    return np.asarray(-mean * (gain / np.sqrt(variance + _EPSILON)) + bias)


KINDS: Mapping[str, Callable[..., Array]] = {
    "copy": lambda tensor: tensor,
    "transposed": lambda tensor: tensor.T,
    "folded": _fold,
    "folded bias": _fold_bias,
    "merged": merge,
    "merged, transposed": lambda *tensors: merge(*tensors).T,
}


def cook(recipe: Recipe, tensors: Mapping[str, Array]) -> Array:
    """The weight that a recipe makes, in C order.

    Raises:
        KeyError: The recipe or a tensor is unknown.
    """
    kind, *names = recipe
    return np.asarray(KINDS[kind](*(tensors[name] for name in names)), order="C")


def digest(array: Array) -> str:
    """Of an array's type, shape and bits."""
    content = np.asarray(array, order="C")
    return hashlib.sha256(f"{content.dtype.str}{content.shape}".encode() + content.tobytes()).hexdigest()


def find_recipes(tensors: Mapping[str, Array]) -> dict[str, Recipe]:
    """Every weight that a recipe can make of the tensors: its `digest` -> the recipe."""
    recipes: dict[str, Recipe] = {}
    for recipe in _candidates(list(tensors)):
        recipes.setdefault(digest(cook(recipe, tensors)), recipe)
    return recipes


def _candidates(names: Sequence[str]) -> Iterator[Recipe]:
    known = set(names)
    for name in names:
        part, _, inner = name.partition("/")
        yield ("copy", name)
        if inner.endswith("weight") or part in ("adapter", "projector"):
            yield ("transposed", name)
        if part == "picture" and inner.endswith("running_var"):
            stem = name.removesuffix("running_var")
            norm = [f"{stem}{field}" for field in ("weight", "bias", "running_mean", "running_var")]
            yield ("folded bias", *norm)
            if (convolution := _before(stem)) in known:
                yield ("folded", convolution, norm[0], norm[3])
        if part == "language" and (lora := _lora(inner)) is not None and f"{lora}.lora_A.weight" in known:
            yield from ((kind, name, f"{lora}.lora_A.weight", f"{lora}.lora_B.weight")
                        for kind in ("merged", "merged, transposed"))  # fmt: skip


# EfficientNet's names of a block's normalisations, and of the convolutions before them.
_NORMS = {"_bn0.": "_expand_conv", "_bn1.": "_depthwise_conv", "_bn2.": "_project_conv"}
# GGUF's names of a layer's weights, and those of transformers.
_LAYER = {
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}  # fmt: skip


def _before(norm: str) -> str:
    """The weight of the convolution before a normalisation of EfficientNet."""
    if norm in ("picture/_bn0.", "picture/_bn1."):
        return {"picture/_bn0.": "picture/_conv_stem", "picture/_bn1.": "picture/_conv_head"}[norm] + ".weight"
    block, name = norm[:-5], norm[-5:]
    return f"{block}{_NORMS.get(name, '')}.weight"


def _lora(name: str) -> str | None:
    """The adapter's name of a layer's weight; None for what it does not change."""
    parts = name.split(".")
    if len(parts) != 4 or parts[0] != "blk" or parts[2] not in _LAYER:
        return None
    return f"adapter/base_model.model.layers.{parts[1]}.{_LAYER[parts[2]]}"
