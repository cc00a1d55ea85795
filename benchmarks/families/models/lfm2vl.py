# ruff: noqa: S106  # tokens of a vocabulary are no passwords
"""LFM2-VL."""

from __future__ import annotations

import json
from pathlib import Path

from .parts import LLAMA, Shape, byte_level, library, save

# That of LiquidAI/LFM2-VL-450M.
LFM2_CHAT = (
    "{{- bos_token -}}{% for message in messages %}{{- '<|im_start|>' + message['role'] + '\n' -}}"
    "{% if message['content'] is string %}{{- message['content'] -}}{% else %}"
    "{% for item in message['content'] %}{% if item['type'] == 'image' %}{{- '<image>' -}}"
    "{% elif item['type'] == 'text' %}{{- item['text'] -}}{% endif %}{% endfor %}{% endif %}"
    "{{- '<|im_end|>\n' -}}{% endfor %}{% if add_generation_prompt %}{{- '<|im_start|>assistant\n' -}}{% endif %}"
)


TINY = Shape(
    64,
    {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "num_patches": 9},
    {**LLAMA, "layer_types": ["conv", "full_attention"]},
    {"projector_hidden_size": 48},
)
_PATCH, _FACTOR = 16, 2


def write_lfm2vl(folder: Path, shape: Shape = TINY) -> Path:
    """LFM2-VL: SigLIP 2, pixel unshuffle, short convolutions and layers that attend; 4 tokens a picture if tiny."""
    import torch

    transformers = library("Lfm2VlConfig")
    special = ["<|pad|>", "<|startoftext|>", "<|im_start|>", "<|im_end|>", "<image>", "<|image_start|>"]
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=byte_level([*special, "<|image_end|>"]),
        bos_token="<|startoftext|>", eos_token="<|im_end|>", pad_token="<|pad|>", chat_template=LFM2_CHAT,
        extra_special_tokens={"image_token": "<image>"},
    )  # fmt: skip
    tokenizer.save_pretrained(folder)
    # The second is transformers 4's name for the same.
    kind = getattr(transformers, "Lfm2VlImageProcessor", None) or transformers.Lfm2VlImageProcessorFast
    kind(
        downsample_factor=_FACTOR, encoder_patch_size=_PATCH, min_image_tokens=1, tile_size=shape.picture,
        max_image_tokens=(shape.picture // _PATCH // _FACTOR) ** 2,
        do_convert_rgb=True, image_mean=[0.5] * 3, image_std=[0.5] * 3, resample=2,
    ).save_pretrained(folder)  # fmt: skip
    torch.manual_seed(0)
    config = transformers.Lfm2VlConfig(
        vision_config=transformers.Siglip2VisionConfig(**shape.vision, patch_size=_PATCH, vision_use_head=False),
        text_config=transformers.Lfm2Config(
            **{"vocab_size": len(tokenizer), **shape.text},
            block_auto_adjust_ff_dim=False, bos_token_id=1, eos_token_id=3, pad_token_id=0,
        ),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        downsample_factor=_FACTOR,
        **shape.model,
    )  # fmt: skip
    model = transformers.Lfm2VlForConditionalGeneration(config)
    save(model, tokenizer.eos_token_id, folder, shape)
    # transformers 4 writes a name that it does not read.
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "model_type": "lfm2_vl"}))
    return folder
