"""The output folder of a fine-tuning: LoRA in peft's form, the projector if it was trained, and the prompts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rar.runtime.bundle.files import atomic_file, write_json

from ..mllm.model import Mllm


def exists(folder: Path) -> bool:
    """Whether a folder holds a finished adapter."""
    return (folder / "rar.json").exists()


def attach(mllm: Mllm, rank: int, dropout: float) -> Any:
    """Adds LoRA to every linear layer of the language model, in place; all other weights are frozen.

    Returns:
        peft's wrapper.
    """
    import peft
    import torch

    # Their names differ: LLaMA, Qwen and Gemma have the same seven in a block, LFM2 has others in its convolutions.
    modules = mllm.language.named_modules()
    linear = {name.rpartition(".")[2] for name, module in modules if isinstance(module, torch.nn.Linear)}
    for module in (mllm.vision, mllm.embed, mllm.decoder):
        module.requires_grad_(False)
    config = peft.LoraConfig(
        r=rank, lora_alpha=2 * rank, lora_dropout=dropout, target_modules=sorted(linear), bias="none"
    )
    language = peft.get_peft_model(mllm.language, config)
    if mllm.vision_input == "image_features":
        mllm.vision.requires_grad_(True)
    return language


def save(
    folder: Path, mllm: Mllm, language: Any, modes: Mapping[str, Mapping[str, str]], made: Mapping[str, Any]
) -> None:
    """Writes the adapter; `rar.json` comes last and makes it complete. Weights are stored in fp16."""
    import peft
    import safetensors.torch

    # "auto" would ask the model hub whether the base has other embeddings; embeddings are not trained here.
    weights = peft.get_peft_model_state_dict(language, save_embedding_layers=False)
    state = {name: value.detach().half().cpu() for name, value in weights.items()}
    language.peft_config["default"].inference_mode = True
    language.peft_config["default"].base_model_name_or_path = mllm.source  # otherwise a path of this machine
    language.peft_config["default"].save_pretrained(str(folder))
    with atomic_file(folder / "adapter_model.safetensors") as file:
        file.write(safetensors.torch.save(state))
    if mllm.vision_input == "image_features":
        projector = {name: value.detach().half().cpu().contiguous() for name, value in mllm.vision.state_dict().items()}
        with atomic_file(folder / "projector.safetensors") as file:
            file.write(safetensors.torch.save(projector))
    write_json(folder / "prompt.json", {"modes": {mode: dict(texts) for mode, texts in modes.items()}})
    write_json(folder / "rar.json", {**describe(mllm), "made": dict(made)})


def describe(mllm: Mllm) -> dict[str, Any]:
    """What an adapter must share with the model that it is applied to."""
    decoder = mllm.decoder
    return {
        "architecture": mllm.architecture,
        "base": mllm.source,
        "dim": decoder.dim,
        "layers": decoder.layers,
        "kv_heads": decoder.kv_heads,
        "head_dim": decoder.head_dim,
    }
