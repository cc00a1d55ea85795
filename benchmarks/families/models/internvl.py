# ruff: noqa: S106  # tokens of a vocabulary are no passwords
"""InternVL3 and InternVL3.5."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .parts import LLAMA, Shape, byte_level, library, save

# That of OpenGVLab/InternVL3-1B-hf, less what it does with videos.
INTERNVL_CHAT = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n'}}"
    "{% for content in message['content'] %}{% if content['type'] == 'image' %}{{ '<IMG_CONTEXT>\n' }}"
    "{% elif content['type'] == 'text' %}{{ content['text'] }}{% endif %}{% endfor %}{{'<|im_end|>\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{'<|im_start|>assistant\n' }}{% endif %}"
)


TINY = Shape(
    56,
    {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
        "patch_size": [14, 14], "layer_scale_init_value": 1.0,
    },
)  # fmt: skip
TINY35 = Shape(TINY.picture, TINY.vision, {**LLAMA, "head_dim": 16})


def write_internvl(folder: Path, shape: Shape = TINY, language: Any = None) -> Path:
    """InternVL3: InternViT, pixel shuffle, Qwen2; 4 tokens a tile in the tiny model."""
    import torch

    transformers = library("InternVLConfig")
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
    transformers.GotOcr2ImageProcessor(size={"height": shape.picture, "width": shape.picture}).save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.InternVLConfig(
        vision_config=transformers.InternVLVisionConfig(**shape.vision, image_size=[shape.picture] * 2),
        text_config=(language or transformers.Qwen2Config)(**{"vocab_size": len(tokenizer), **shape.text}),
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        **shape.model,
    )
    return save(transformers.InternVLForConditionalGeneration(config), tokenizer.eos_token_id, folder, shape)


def write_internvl35(folder: Path, shape: Shape = TINY35) -> Path:
    """InternVL3.5: the same with Qwen3."""
    transformers = library("Qwen3Config")
    return write_internvl(folder, shape, transformers.Qwen3Config)
