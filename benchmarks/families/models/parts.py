# ruff: noqa: S106  # tokens of a vocabulary are no passwords
"""What the random models share: their shapes, tokenizers trained on the spot, and how a model is written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rar.runtime.errors import InputError

LLAMA = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "initializer_range": 0.2,
}  # fmt: skip


@dataclass(frozen=True)
class Shape:
    """The sizes that a model's configuration names.

    Attributes:
        picture: Side of a picture, or of one tile, in pixels.
        vision: Settings of the picture tower.
        text: Settings of the language model; without `vocab_size` it is the tokenizer's.
        model: Settings of the whole model.
        dtype: The type that the weights are written in.
    """

    picture: int
    vision: Mapping[str, Any]
    text: Mapping[str, Any] = field(default_factory=lambda: LLAMA)
    model: Mapping[str, Any] = field(default_factory=dict)
    dtype: str = "float32"


def library(config: str) -> Any:
    """The installed transformers; its names differ between the versions, as no type checker knows.

    Raises:
        InputError: It has no such configuration.
    """
    import transformers

    if not hasattr(transformers, config):
        raise InputError(f"transformers {transformers.__version__} has no {config}; install a newer one")
    return transformers


def corpus() -> list[str]:
    """The prompts' own words and strings of many kinds."""
    from rar.export.encoder.parity import sample_strings
    from rar.runtime.rank.mllm.prompt import LETTERS, MODES

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
        prepend: `legacy` for a prefix before every part of a text, `first` for its beginning only, `none` for none, as
            Gemma has it.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(corpus(), trainer)
    settings = json.loads(tokenizer.to_str())
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    if prepend == "none":
        settings["pre_tokenizer"], settings["normalizer"] = None, replace
    elif prepend == "legacy":
        before = {"type": "Prepend", "prepend": "▁"}
        settings["pre_tokenizer"], settings["normalizer"] = None, {"type": "Sequence", "normalizers": [before, replace]}
    else:
        metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}
        settings["pre_tokenizer"] = metaspace
    settings["added_tokens"] = settings["added_tokens"][:3]
    made = Tokenizer.from_str(json.dumps(settings))
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    strip = [] if prepend == "none" else [decoders.Strip(" ", 1, 0)]
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip])
    return made


def save(model: Any, stop: int, folder: Path, shape: Shape) -> Path:
    """Writes a model whose answers end by the token `stop`."""
    import torch

    model.generation_config.eos_token_id = stop
    model.to(getattr(torch, shape.dtype)).save_pretrained(folder)
    return folder
