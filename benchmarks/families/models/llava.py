# ruff: noqa: S106  # tokens of a vocabulary are no passwords
"""LLaVA-1.5 and LLaVA-OneVision."""

from __future__ import annotations

from pathlib import Path

from .parts import Shape, byte_level, library, save, sentencepiece_like

# Those of llava-hf/llava-1.5-7b-hf and llava-hf/llava-onevision-qwen2-0.5b-ov-hf, less what they do with videos.
LLAVA_CHAT = (
    "{% for message in messages %}{% if message['role'] != 'system' %}{{ message['role'].upper() + ': '}}{% endif %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ content['text'] + ' '}}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
ONEVISION_CHAT = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + ' '}}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ content['text'] }}{% endfor %}"
    "{{'<|im_end|>'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TINY = Shape(
    56,
    {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2, "patch_size": 14,
    },
)  # fmt: skip


def write_llava(folder: Path, shape: Shape = TINY, prepend: str = "legacy") -> Path:
    """LLaVA-1.5: CLIP, projector, LLaMA; 16 tokens a picture in the tiny model."""
    import torch

    transformers = library("LlavaConfig")
    tokenizer = transformers.LlamaTokenizerFast(
        tokenizer_object=sentencepiece_like(prepend), chat_template=LLAVA_CHAT, extra_special_tokens={}
    )
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"], "pad_token": "<pad>"})
    size = shape.picture
    images = transformers.CLIPImageProcessor(size={"shortest_edge": size}, crop_size={"height": size, "width": size})
    transformers.LlavaProcessor(
        images, tokenizer, patch_size=shape.vision["patch_size"], vision_feature_select_strategy="default",
        chat_template=LLAVA_CHAT, num_additional_image_tokens=1,
    ).save_pretrained(folder)  # fmt: skip
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**shape.vision, image_size=size),
        text_config=transformers.LlamaConfig(**{"vocab_size": len(tokenizer), **shape.text}),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        **shape.model,
    )
    return save(transformers.LlavaForConditionalGeneration(config), tokenizer.eos_token_id, folder, shape)


def write_llava_siglip(folder: Path, shape: Shape = TINY) -> Path:
    """LLaVA with a tower that has no class token, as SigLIP; 16 tokens a picture in the tiny model."""
    import torch

    transformers = library("LlavaConfig")
    write_llava(folder, shape)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    transformers.SiglipImageProcessor(
        size={"height": shape.picture, "width": shape.picture}, resample=3, do_convert_rgb=True
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.LlavaConfig(
        vision_config=transformers.SiglipVisionConfig(**shape.vision, image_size=shape.picture, vision_use_head=False),
        text_config=transformers.LlamaConfig(**{"vocab_size": len(tokenizer), **shape.text}),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_select_strategy="full",
        **shape.model,
    )
    return save(transformers.LlavaForConditionalGeneration(config), tokenizer.eos_token_id, folder, shape)


def write_llava_onevision(folder: Path, shape: Shape = TINY) -> Path:
    """LLaVA-OneVision: SigLIP, projector, Qwen2; 16 tokens a picture if tiny, and the end of a line."""
    import torch

    transformers = library("LlavaOnevisionConfig")
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>", "<video>"]
    tokenizer = transformers.Qwen2TokenizerFast(
        tokenizer_object=byte_level(special),
        eos_token="<|im_end|>", pad_token="<|endoftext|>", unk_token="<|endoftext|>", chat_template=ONEVISION_CHAT,
    )  # fmt: skip
    tokenizer.save_pretrained(folder)
    size = shape.picture
    grids = [[rows * size, columns * size] for rows in (1, 2) for columns in (1, 2)]
    transformers.LlavaOnevisionImageProcessor(
        size={"height": size, "width": size}, image_grid_pinpoints=grids
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.LlavaOnevisionConfig(
        vision_config=transformers.SiglipVisionConfig(**shape.vision, image_size=shape.picture, vision_use_head=False),
        text_config=transformers.Qwen2Config(**{"vocab_size": len(tokenizer), **shape.text}),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=grids,
        **shape.model,
    )
    return save(transformers.LlavaOnevisionForConditionalGeneration(config), tokenizer.eos_token_id, folder, shape)
