# ruff: noqa: S106  # tokens of a vocabulary are no passwords
"""InternVL3 and InternVL3.5."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from .parts import LLAMA, byte_level, save

# That of OpenGVLab/InternVL3-1B-hf, less what it does with videos.
INTERNVL_CHAT = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n'}}"
    "{% for content in message['content'] %}{% if content['type'] == 'image' %}{{ '<IMG_CONTEXT>\n' }}"
    "{% elif content['type'] == 'text' %}{{ content['text'] }}{% endif %}{% endfor %}{{'<|im_end|>\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{'<|im_start|>assistant\n' }}{% endif %}"
)


def write_internvl(folder: Path, language: Any = None, shape: Mapping[str, Any] = MappingProxyType({})) -> Path:
    """InternVL: InternViT, pixel shuffle, Qwen2; 4 tokens a tile."""
    import torch
    import transformers

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<img>", "</img>", "<IMG_CONTEXT>", "<video>"]
    tokenizer = transformers.Qwen2TokenizerFast(
        tokenizer_object=byte_level(special),
        eos_token="<|im_end|>", pad_token="<|endoftext|>", unk_token="<|endoftext|>", chat_template=INTERNVL_CHAT,
        extra_special_tokens={
            "start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>",
            "video_token": "<video>",
        },
    )  # fmt: skip
    tokenizer.save_pretrained(folder)
    transformers.GotOcr2ImageProcessor(size={"height": 56, "width": 56}).save_pretrained(folder)
    vision = {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
        "image_size": [56, 56], "patch_size": [14, 14], "layer_scale_init_value": 1.0,
    }  # fmt: skip
    torch.manual_seed(0)
    config = transformers.InternVLConfig(
        vision_config=transformers.InternVLVisionConfig(**vision),
        text_config=(language or transformers.Qwen2Config)(**LLAMA, **shape, vocab_size=len(tokenizer)),
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
    )
    return save(transformers.InternVLForConditionalGeneration(config), tokenizer.eos_token_id, folder)


def write_internvl35(folder: Path) -> Path:
    """InternVL3.5: the same with Qwen3."""
    import transformers

    return write_internvl(folder, transformers.Qwen3Config, {"head_dim": 16})
