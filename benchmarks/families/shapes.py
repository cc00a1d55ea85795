"""The shapes of published MLLMs, by family and size. Shapes only: no checkpoint is loaded.

A shape is what a checkpoint's configuration says of widths, depths, vocabulary and pictures; the weights of the models
that are made of it are random, and their tokenizers small.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .models.parts import Shape

# Smaller to larger; by the published names, so that a "0.5B" with its picture tower may have more.
SIZES = ("tiny", "256m", "500m", "1b", "2b", "3b", "4b", "7b")


@dataclass(frozen=True)
class Published:
    """A published size of a family.

    Attributes:
        size: One of `SIZES`.
        name: Whose shape it is.
        shape: The shape.
    """

    size: str
    name: str
    shape: Shape


def _shape(picture: int, vision: Mapping[str, Any], text: Mapping[str, Any], *, tied: bool, **model: Any) -> Shape:
    """Weights at bfloat16, as they are published; `tied` is whether the head is the token table."""
    return Shape(
        picture,
        vision,
        {**text, "tie_word_embeddings": tied},
        {**model, "tie_word_embeddings": tied},
        dtype="bfloat16",
    )


def _vit(width: int, inner: int, layers: int, heads: int, **more: Any) -> dict[str, Any]:
    return {
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        **more,
    }


def _lm(
    width: int, inner: int, layers: int, heads: int, kv: int, vocab: int, context: int, **more: Any
) -> dict[str, Any]:
    return {
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        "vocab_size": vocab,
        "max_position_embeddings": context,
        **more,
    }


_SIGLIP_B = _vit(768, 3072, 12, 12)
_SIGLIP_SO = _vit(1152, 4304, 27, 16, patch_size=14)
_SIGLIP_26 = _vit(1152, 4304, 26, 16, patch_size=14)
_QWEN2_HALF = _lm(896, 4864, 24, 14, 2, 151936, 32768)
_LFM2_350M = _lm(
    1024, 4608, 16, 16, 8, 65536, 128000,
    layer_types=["full_attention" if layer in (2, 5, 8, 10, 12, 14) else "conv" for layer in range(16)],
)  # fmt: skip

_INTERNVIT = _vit(1024, 4096, 24, 16, patch_size=[14, 14])
_QWEN3_TOWER = {
    "hidden_size": 1024, "intermediate_size": 4096, "depth": 24, "num_heads": 16, "patch_size": 16,
    "out_hidden_size": 2048, "num_position_embeddings": 2304, "deepstack_visual_indexes": [5, 11, 17],
}  # fmt: skip
_QWEN25_TOWER = {
    "hidden_size": 1280, "intermediate_size": 3420, "depth": 32, "num_heads": 16, "patch_size": 14, "window_size": 112,
    "out_hidden_size": 2048, "fullatt_block_indexes": [7, 15, 23, 31],
}  # fmt: skip
_QWEN3_ROPE = {"rope_type": "default", "mrope_section": [24, 20, 20], "mrope_interleaved": True}
_QWEN25_ROPE = {"type": "mrope", "mrope_section": [16, 24, 24]}
_GEMMA = {"head_dim": 256, "query_pre_attn_scalar": 256, "sliding_window": 1024}


def _smolvlm(size: str, name: str, text: Mapping[str, Any]) -> Published:
    return Published(size, name, _shape(512, {**_SIGLIP_B, "patch_size": 16}, text, tied=False, scale_factor=4))


PUBLISHED: Mapping[str, tuple[Published, ...]] = {
    "smolvlm": (
        _smolvlm("256m", "SmolVLM-256M-Instruct", _lm(576, 1536, 30, 9, 3, 49280, 8192)),
        _smolvlm("500m", "SmolVLM-500M-Instruct", _lm(960, 2560, 32, 15, 5, 49280, 8192)),
    ),
    "smolvlm2": (
        Published(
            "2b",
            "SmolVLM2-2.2B-Instruct",
            _shape(384, _SIGLIP_SO, _lm(2048, 8192, 24, 32, 32, 49280, 8192), tied=False, scale_factor=3),
        ),
    ),
    "llava_onevision": (
        Published("500m", "llava-onevision-qwen2-0.5b", _shape(384, _SIGLIP_26, _QWEN2_HALF, tied=True)),
    ),
    "fastvlm": (Published("500m", "FastVLM-0.5B", _shape(1024, {"hidden_size": 3072}, _QWEN2_HALF, tied=False)),),
    "lfm2vl": (
        Published(
            "500m",
            "LFM2-VL-450M",
            _shape(512, {**_SIGLIP_B, "num_patches": 256}, _LFM2_350M, tied=True, projector_hidden_size=2560),
        ),
    ),
    "internvl": (
        Published("1b", "InternVL3-1B", _shape(448, _INTERNVIT, {**_QWEN2_HALF, "vocab_size": 151674}, tied=False)),
    ),
    "internvl35": (
        Published(
            "1b",
            "InternVL3_5-1B",
            _shape(448, _INTERNVIT, _lm(1024, 3072, 28, 16, 8, 151936, 40960, head_dim=128), tied=False),
        ),
    ),
    "qwen3vl": (
        Published(
            "2b",
            "Qwen3-VL-2B-Instruct",
            _shape(
                384,
                _QWEN3_TOWER,
                _lm(2048, 6144, 28, 16, 8, 151936, 262144, head_dim=128, rope_scaling=_QWEN3_ROPE),
                tied=True,
            ),
        ),
    ),
    "qwen25vl": (
        Published(
            "3b",
            "Qwen2.5-VL-3B-Instruct",
            _shape(
                336,
                _QWEN25_TOWER,
                _lm(2048, 11008, 36, 16, 2, 151936, 128000, rope_scaling=_QWEN25_ROPE),
                tied=True,
            ),
        ),
    ),
    "gemma3": (
        Published(
            "4b",
            "gemma-3-4b-it",
            _shape(
                896,
                _SIGLIP_SO,
                _lm(2560, 10240, 34, 8, 4, 262208, 131072, **_GEMMA),
                tied=True,
                mm_tokens_per_image=256,
            ),
        ),
    ),
    "llava": (
        Published(
            "7b",
            "llava-1.5-7b",
            _shape(336, _vit(1024, 4096, 24, 16, patch_size=14), _lm(4096, 11008, 32, 32, 32, 32064, 4096), tied=False),
        ),
    ),
}
