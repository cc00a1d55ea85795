# ruff: noqa: S106  # tokens of a vocabulary are no passwords
"""Tiny random multimodal LLMs in the layout that people have on disk, each with a tokenizer trained on the spot.

A plugin of pytest (`conftest.py`): fixtures that several test folders use.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

# The chat templates are those of llava-hf/llava-1.5-7b-hf, HuggingFaceTB/SmolVLM-Instruct, Qwen/Qwen2.5-VL-3B-Instruct
# and OpenGVLab/InternVL3-1B-hf, less what they do with videos and tools.
LLAVA_CHAT = (
    "{% for message in messages %}{% if message['role'] != 'system' %}{{ message['role'].upper() + ': '}}{% endif %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ content['text'] + ' '}}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
SMOLVLM_CHAT = (
    "<|im_start|>{% for message in messages %}{{message['role'] | capitalize}}"
    "{% if message['content'][0]['type'] == 'image' %}{{':'}}{% else %}{{': '}}{% endif %}"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{line['text']}}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
QWEN_CHAT = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}<|im_start|>system\n"
    "You are a helpful assistant.<|im_end|>\n{% endif %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}<|im_end|>\n{% else %}"
    "{% for content in message['content'] %}{% if content['type'] == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% elif 'text' in content %}{{ content['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
INTERNVL_CHAT = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n'}}"
    "{% for content in message['content'] %}{% if content['type'] == 'image' %}{{ '<IMG_CONTEXT>\n' }}"
    "{% elif content['type'] == 'text' %}{{ content['text'] }}{% endif %}{% endfor %}{{'<|im_end|>\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{'<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "initializer_range": 0.2,
}  # fmt: skip


def corpus() -> list[str]:
    """The prompts' own words and strings of many kinds."""
    from rar.export.parity import sample_strings
    from rar.runtime.mllm.prompt import LETTERS, MODES

    prompts = [text for mode in MODES.values() for text in mode.values()] * 20
    # Every real vocabulary holds each letter after a space.
    letters = [f"answer {letter} {letter}" for letter in LETTERS] * 40
    return [*prompts, *letters, "USER: ASSISTANT: Assistant: User: system user assistant", *sample_strings(200, seed=1)]


def byte_level(special: list[str]) -> Any:
    """A `tokenizers` BPE over bytes, as GPT-2, SmolLM and Qwen have it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    return tokenizer


def sentencepiece_like(prepend: str) -> Any:
    """LLaMA's form: BPE with byte fallback and a dummy prefix.

    Args:
        prepend: `legacy` for a prefix before every part of a text, `first` for its beginning only.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(corpus(), trainer)
    settings = json.loads(tokenizer.to_str())
    if prepend == "legacy":
        settings["pre_tokenizer"] = None
        settings["normalizer"] = {
            "type": "Sequence",
            "normalizers": [
                {"type": "Prepend", "prepend": "▁"},
                {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
            ],
        }
    else:
        metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}
        settings["pre_tokenizer"] = metaspace
    settings["added_tokens"] = settings["added_tokens"][:3]
    made = Tokenizer.from_str(json.dumps(settings))
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return made


def write_llava(folder: Path, prepend: str = "legacy") -> Path:
    """LLaVA-1.5: CLIP, projector, LLaMA; 16 tokens a picture."""
    import torch
    import transformers

    tokenizer = transformers.LlamaTokenizerFast(
        tokenizer_object=sentencepiece_like(prepend), chat_template=LLAVA_CHAT, extra_special_tokens={}
    )
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"], "pad_token": "<pad>"})
    images = transformers.CLIPImageProcessor(size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56})
    transformers.LlavaProcessor(
        images, tokenizer, patch_size=14, vision_feature_select_strategy="default", chat_template=LLAVA_CHAT,
        num_additional_image_tokens=1,
    ).save_pretrained(folder)  # fmt: skip
    tokenizer.save_pretrained(folder)
    vision = {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2,
        "image_size": 56, "patch_size": 14,
    }  # fmt: skip
    torch.manual_seed(0)
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**vision),
        text_config=transformers.LlamaConfig(**LLAMA, vocab_size=len(tokenizer)),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    return _save(transformers.LlavaForConditionalGeneration(config), tokenizer.eos_token_id, folder)


def write_smolvlm(folder: Path) -> Path:
    """SmolVLM: SigLIP, pixel shuffle, LLaMA; 4 tokens a tile."""
    import torch
    import transformers

    rows = [f"<row_{row}_col_{column}>" for row in range(1, 3) for column in range(1, 3)]
    special = ["<|im_start|>", "<|endoftext|>", "<end_of_utterance>"]
    special += ["<fake_token_around_image>", "<image>", "<global-img>", *rows]
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=byte_level(special),
        bos_token="<|im_start|>", eos_token="<end_of_utterance>", pad_token="<|endoftext|>",
        chat_template=SMOLVLM_CHAT,
        extra_special_tokens={"image_token": "<image>"},
    )  # fmt: skip
    tokenizer.save_pretrained(folder)
    transformers.SmolVLMImageProcessor(
        size={"longest_edge": 128}, max_image_size={"longest_edge": 64}, resample=1,
        image_mean=[0.5] * 3, image_std=[0.5] * 3,
    ).save_pretrained(folder)  # fmt: skip
    vision = {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
        "image_size": 64, "patch_size": 16,
    }  # fmt: skip
    torch.manual_seed(0)
    config = transformers.SmolVLMConfig(
        vision_config=vision,
        text_config=transformers.LlamaConfig(**LLAMA, vocab_size=len(tokenizer)),
        scale_factor=2,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        pad_token_id=tokenizer.pad_token_id,
    )
    return _save(transformers.SmolVLMForConditionalGeneration(config), tokenizer.eos_token_id, folder)


def write_qwen25vl(folder: Path) -> Path:
    """Qwen2.5-VL: a tower with windows, Qwen2 with M-RoPE; 36 tokens a picture in 9 windows."""
    import torch
    import transformers

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>"]
    tokenizer = transformers.Qwen2TokenizerFast(
        tokenizer_object=byte_level([*special, "<|video_pad|>"]),
        eos_token="<|im_end|>", pad_token="<|endoftext|>", unk_token="<|endoftext|>", chat_template=QWEN_CHAT,
    )  # fmt: skip
    tokenizer.save_pretrained(folder)
    images = transformers.Qwen2VLImageProcessor(patch_size=28, merge_size=2, size=dict.fromkeys(
        ("shortest_edge", "longest_edge"), 336 * 336
    ))  # fmt: skip
    images.save_pretrained(folder)
    vision = {
        "hidden_size": 32, "intermediate_size": 64, "depth": 3, "num_heads": 2, "patch_size": 28, "window_size": 112,
        "out_hidden_size": 64, "fullatt_block_indexes": [1],
    }  # fmt: skip
    number = tokenizer.convert_tokens_to_ids
    torch.manual_seed(0)
    config = transformers.Qwen2_5_VLConfig(
        vision_config=vision,
        text_config={
            **LLAMA, "vocab_size": len(tokenizer), "tie_word_embeddings": True, "bos_token_id": None,
            "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
        },
        image_token_id=number("<|image_pad|>"), video_token_id=number("<|video_pad|>"),
        vision_start_token_id=number("<|vision_start|>"), vision_end_token_id=number("<|vision_end|>"),
        tie_word_embeddings=True,
    )  # fmt: skip
    return _save(transformers.Qwen2_5_VLForConditionalGeneration(config), tokenizer.eos_token_id, folder)


def write_internvl(folder: Path) -> Path:
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
        text_config=transformers.Qwen2Config(**LLAMA, vocab_size=len(tokenizer)),
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
    )
    return _save(transformers.InternVLForConditionalGeneration(config), tokenizer.eos_token_id, folder)


def _save(model: Any, stop: int, folder: Path) -> Path:
    model.generation_config.eos_token_id = stop
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder. Shared: copy it before writing."""
    return write_llava(tmp_path_factory.mktemp("llava"))


@pytest.fixture(scope="session")
def tiny_smolvlm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder. Shared: copy it before writing."""
    return write_smolvlm(tmp_path_factory.mktemp("smolvlm"))


@pytest.fixture(scope="session")
def tiny_qwen25vl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder. Shared: copy it before writing."""
    return write_qwen25vl(tmp_path_factory.mktemp("qwen25vl"))


@pytest.fixture(scope="session")
def tiny_internvl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder. Shared: copy it before writing."""
    return write_internvl(tmp_path_factory.mktemp("internvl"))


@dataclass(frozen=True)
class Exported:
    """A model (`rar.export.mllm.model.Mllm`), the fp32 bundle it was exported to, and what its manifest says."""

    mllm: Any
    bundle: Path
    info: dict[str, Any]


@pytest.fixture(scope="session")
def exported_mllm(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Exported]:
    """Exports an architecture at its first use. Shared: copy a bundle before writing."""
    folder = tmp_path_factory.mktemp("mllm-bundles")
    made: dict[str, Exported] = {}

    def export(name: str) -> Exported:
        from rar.export.mllm.export import export_mllm
        from rar.export.mllm.source import load

        if name not in made:
            mllm = load(str(request.getfixturevalue(f"tiny_{name}")))
            made[name] = Exported(mllm, folder / name, export_mllm(mllm, folder / name))
        return made[name]

    return export
