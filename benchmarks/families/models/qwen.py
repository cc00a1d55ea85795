# ruff: noqa: S106  # tokens of a vocabulary are no passwords
"""Qwen2.5-VL and Qwen3-VL."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

from .parts import LLAMA, Shape, byte_level, library, save

# Those of Qwen/Qwen2.5-VL-3B-Instruct and Qwen/Qwen3-VL-2B-Instruct, less what they do with videos and tools.
QWEN_CHAT = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}<|im_start|>system\n"
    "You are a helpful assistant.<|im_end|>\n{% endif %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}<|im_end|>\n{% else %}"
    "{% for content in message['content'] %}{% if content['type'] == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% elif 'text' in content %}{{ content['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# It has no system message of its own.
QWEN3_CHAT = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for content in message['content'] %}{% if content['type'] == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% elif 'text' in content %}{{ content['text'] }}{% endif %}"
    "{% endfor %}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


TINY = Shape(
    336,
    {
        "hidden_size": 32, "intermediate_size": 64, "depth": 3, "num_heads": 2, "patch_size": 28, "window_size": 112,
        "out_hidden_size": 64, "fullatt_block_indexes": [1],
    },
    {**LLAMA, "tie_word_embeddings": True, "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]}},
    {"tie_word_embeddings": True},
)  # fmt: skip
TINY3 = Shape(
    384,
    {
        "hidden_size": 32, "intermediate_size": 64, "depth": 3, "num_heads": 2, "patch_size": 32,
        "out_hidden_size": 64, "num_position_embeddings": 25, "deepstack_visual_indexes": [0, 1],
    },
    {
        **LLAMA, "head_dim": 16, "tie_word_embeddings": True,
        "rope_scaling": {"rope_type": "default", "mrope_section": [4, 2, 2], "mrope_interleaved": True},
    },
    {"tie_word_embeddings": True},
)  # fmt: skip


def write_qwen25vl(folder: Path, shape: Shape = TINY) -> Path:
    """Qwen2.5-VL: a tower with windows, Qwen2 with M-RoPE; 36 tokens a picture in 9 windows in the tiny model."""
    import torch

    transformers, shape = library("Qwen2_5_VLConfig"), deepcopy(shape)  # it writes into what it is given
    tokenizer = _tokenizer(QWEN_CHAT)
    tokenizer.save_pretrained(folder)
    area = dict.fromkeys(("shortest_edge", "longest_edge"), shape.picture**2)
    transformers.Qwen2VLImageProcessor(patch_size=shape.vision["patch_size"], merge_size=2, size=area).save_pretrained(
        folder
    )
    number = tokenizer.convert_tokens_to_ids
    torch.manual_seed(0)
    config = transformers.Qwen2_5_VLConfig(
        vision_config=dict(shape.vision),
        text_config={"vocab_size": len(tokenizer), "bos_token_id": None, **shape.text},
        image_token_id=number("<|image_pad|>"), video_token_id=number("<|video_pad|>"),
        vision_start_token_id=number("<|vision_start|>"), vision_end_token_id=number("<|vision_end|>"),
        **shape.model,
    )  # fmt: skip
    return save(transformers.Qwen2_5_VLForConditionalGeneration(config), tokenizer.eos_token_id, folder, shape)


def write_qwen3vl(folder: Path, shape: Shape = TINY3) -> Path:
    """Qwen3-VL: features of inner layers reach the decoder's first ones, Qwen3 with M-RoPE; 36 tokens if tiny."""
    import torch

    transformers, shape = library("Qwen3VLConfig"), deepcopy(shape)
    tokenizer = _tokenizer(QWEN3_CHAT)
    tokenizer.save_pretrained(folder)
    transformers.Qwen2VLImageProcessor(
        patch_size=shape.vision["patch_size"], merge_size=2, image_mean=[0.5] * 3, image_std=[0.5] * 3,
        size=dict.fromkeys(("shortest_edge", "longest_edge"), shape.picture**2),
    ).save_pretrained(folder)  # fmt: skip
    number = tokenizer.convert_tokens_to_ids
    torch.manual_seed(0)
    config = transformers.Qwen3VLConfig(
        vision_config=dict(shape.vision),
        text_config={"vocab_size": len(tokenizer), **shape.text},
        image_token_id=number("<|image_pad|>"), video_token_id=number("<|video_pad|>"),
        vision_start_token_id=number("<|vision_start|>"), vision_end_token_id=number("<|vision_end|>"),
        **shape.model,
    )  # fmt: skip
    model = transformers.Qwen3VLForConditionalGeneration(config)
    return save(model, tokenizer.eos_token_id, folder, shape)


def _tokenizer(chat: str) -> Any:
    transformers = library("Qwen2Config")
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>"]
    return transformers.Qwen2TokenizerFast(
        tokenizer_object=byte_level([*special, "<|video_pad|>"]),
        eos_token="<|im_end|>", pad_token="<|endoftext|>", unk_token="<|endoftext|>", chat_template=chat,
    )  # fmt: skip
