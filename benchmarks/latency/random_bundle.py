"""A bundle of ViT-B/32 and a LLaVA of that tower and SmolLM2-135M, with random weights: its speed is the real one's."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from rar.export.pictures.labelled import few_shot, read_images

from ..made import made

NAME = "vit-b-32-random"
SOURCE = "open_clip ViT-B-32 and a LLaVA of ViT-B/32 and SmolLM2-135M, random weights (seed 0)"
_MODEL = "ViT-B-32"
_SHOTS = 8  # pictures a class in its memory
_BUNDLE, _CHECKPOINT, _LLAVA = "bundle", "random.pt", "llava-random"
_PICTURE = "<image>"
_ENDS = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|im_end|>"}
_CHAT = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% for content in message['content'] %}"
    "{% if content['type'] == 'image' %}{{ '<image>\n' }}{% else %}{{ content['text'] }}{% endif %}{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def build(memory: str, work: Path) -> tuple[str, tuple[str, ...]]:
    """Builds the bundle, int8, unless it is there.

    Args:
        memory: Labelled pictures.
        work: Where it goes.

    Returns:
        The bundle, and what its encoder was exported from; see `pytorch.Terms`.
    """
    folder, llava = work / NAME, work / _LLAVA
    made(llava, {"source": SOURCE}, write_llava)
    made(folder, {"source": SOURCE, "memory": memory, "shots": _SHOTS}, partial(_make, memory, llava))
    return str(folder / _BUNDLE), ("open_clip", _MODEL, str(folder / _CHECKPOINT))


def _make(memory: str, llava: Path, folder: Path) -> None:
    from rar.export.encoder.export import export_clip
    from rar.export.encoder.openclip import load
    from rar.export.memory.build import MemorySource, build_memory
    from rar.export.mllm import source
    from rar.export.mllm.export import export_mllm
    from rar.runtime.bundle.manifest import Bundle

    export_clip(load(_MODEL, str(write_clip(folder, _MODEL))), folder / _BUNDLE, "int8")
    # The peers load the same folder, which the bundle names.
    export_mllm(source.load(str(llava)), folder / _BUNDLE, "int8")
    images = few_shot(read_images(memory), _SHOTS, 0)
    build_memory(Bundle.open(folder / _BUNDLE), MemorySource(images=images), rank="mllm", provider="cpu")


def write_clip(folder: Path, model: str) -> Path:
    """Writes a checkpoint of an open_clip model with random weights, and returns its path."""
    import open_clip
    import torch

    torch.manual_seed(0)
    checkpoint = folder / _CHECKPOINT
    torch.save(open_clip.create_model(model).state_dict(), checkpoint)
    return checkpoint


def write_llava(
    folder: Path, tower: Mapping[str, int] | None = None, language_model: Mapping[str, int] | None = None
) -> None:
    """Writes a LLaVA with random weights in LLaVA-1.5's layout: a CLIP tower, a projector and a LLaMA.

    Args:
        folder: Where it goes.
        tower: Settings of transformers' `CLIPVisionConfig`; ViT-B/32 at 224 by default.
        language_model: Settings of transformers' `LlamaConfig` that differ from SmolLM2-135M's.
    """
    import torch
    import transformers

    from rar.export.starter.mllm import load_mllm

    starter = load_mllm()
    language: transformers.PreTrainedModel = starter.reference  # type: ignore[assignment]
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=starter.tokenizer, chat_template=_CHAT, **_ENDS)
    tokenizer.add_special_tokens({"additional_special_tokens": [_PICTURE]})
    given: dict[str, Any] = dict(tower or {})
    vision: Any = transformers.CLIPVisionConfig(**given)  # transformers' default is ViT-B/32
    size = vision.image_size
    images = transformers.CLIPImageProcessor(size={"shortest_edge": size}, crop_size={"height": size, "width": size})
    transformers.LlavaProcessor(
        images, tokenizer, patch_size=vision.patch_size, vision_feature_select_strategy="default", chat_template=_CHAT,
        num_additional_image_tokens=1,
    ).save_pretrained(folder)  # fmt: skip
    tokenizer.save_pretrained(folder)
    text = transformers.LlamaConfig(
        **{**language.config.to_dict(), **(language_model or {}), "vocab_size": len(tokenizer)}
    )
    place: Any = tokenizer.convert_tokens_to_ids(_PICTURE)
    torch.manual_seed(0)
    llava = transformers.LlavaForConditionalGeneration(
        transformers.LlavaConfig(vision_config=vision, text_config=text, image_token_index=place)
    )
    llava.generation_config = transformers.GenerationConfig(eos_token_id=tokenizer.eos_token_id)
    llava.save_pretrained(folder)
