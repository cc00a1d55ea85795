# ruff: noqa: S106  # tokens of a vocabulary are no passwords
"""SmolVLM and SmolVLM2."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from .parts import Shape, byte_level, library, save

# Those of HuggingFaceTB/SmolVLM-Instruct and HuggingFaceTB/SmolVLM2-2.2B-Instruct, less what they do with videos.
SMOLVLM_CHAT = (
    "<|im_start|>{% for message in messages %}{{message['role'] | capitalize}}"
    "{% if message['content'][0]['type'] == 'image' %}{{':'}}{% else %}{{': '}}{% endif %}"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{line['text']}}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
SMOLVLM2_CHAT = (
    "<|im_start|>{% for message in messages %}{{message['role'] | capitalize}}"
    "{% if message['content'][0]['type'] == 'image' %}{{':'}}{% else %}{{': '}}{% endif %}"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{line['text']}}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% elif line['type'] == 'video' %}{{ '<video>' }}{% endif %}"
    "{% endfor %}<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)


TINY = Shape(
    64,
    {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 16,
    },
    model={"scale_factor": 2},
)  # fmt: skip
# Tiles are no whole number of patches, whose rest the tower leaves out.
TINY2 = replace(TINY, picture=70)


def write_smolvlm(folder: Path, shape: Shape = TINY, chat: str = SMOLVLM_CHAT) -> Path:
    """SmolVLM: SigLIP, pixel shuffle, LLaMA; 4 tokens a tile in the tiny model."""
    import torch

    transformers = library("SmolVLMConfig")
    rows = [f"<row_{row}_col_{column}>" for row in range(1, 3) for column in range(1, 3)]
    special = ["<|im_start|>", "<|endoftext|>", "<end_of_utterance>"]
    special += ["<fake_token_around_image>", "<image>", "<global-img>", *rows]
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=byte_level(special),
        bos_token="<|im_start|>", eos_token="<end_of_utterance>", pad_token="<|endoftext|>",
        chat_template=chat,
        extra_special_tokens={"image_token": "<image>"},
    )  # fmt: skip
    tokenizer.save_pretrained(folder)
    transformers.SmolVLMImageProcessor(
        size={"longest_edge": 2 * shape.picture}, max_image_size={"longest_edge": shape.picture}, resample=1,
        image_mean=[0.5] * 3, image_std=[0.5] * 3,
    ).save_pretrained(folder)  # fmt: skip
    torch.manual_seed(0)
    config = transformers.SmolVLMConfig(
        vision_config={**shape.vision, "image_size": shape.picture},
        text_config=transformers.LlamaConfig(**{"vocab_size": len(tokenizer), **shape.text}),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        pad_token_id=tokenizer.pad_token_id,
        **shape.model,
    )
    return save(transformers.SmolVLMForConditionalGeneration(config), tokenizer.eos_token_id, folder, shape)


def write_smolvlm2(folder: Path, shape: Shape = TINY2) -> Path:
    """SmolVLM2 of 2.2B: the same with another chat; 4 tokens a tile in the tiny model."""
    return write_smolvlm(folder, shape, SMOLVLM2_CHAT)
