"""Merges the output of `rar-export finetune` into a loaded model, if it was made for that model."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rar.runtime.errors import ExportError
from rar.runtime.rank.mllm.prompt import MODES

from .model import Mllm

# The largest rank that stays beside the weights: below 2 % of a decoder's fp32 size.
THIN = 16
_WEIGHTS = "adapter_model.safetensors"


def merge(
    mllm: Mllm, folder: str | os.PathLike[str], keep_thin: bool = False
) -> tuple[dict[str, Any], dict[str, dict[str, str]] | None]:
    """Merges an adapter folder into a model, in place.

    Args:
        mllm: The model.
        folder: Holds `rar.json`, and any of `adapter_config.json` with its weights (LoRA on the language model),
            `projector.safetensors` (the starter's vision module) and `prompt.json` (the modes it was trained with).
        keep_thin: Keeps a LoRA of low rank beside the weights, as two thin products each. This is for 4 bits: rounding
            would lose LoRA's changes below one step, or all of them if the weights already lie on a grid.

    Returns:
        The manifest's entry about it, and the modes or None.

    Raises:
        ExportError: The folder is not an adapter, or was made for another model.
    """
    path = Path(folder)
    made = _read(path / "rar.json")
    expected = {"architecture": mllm.architecture, "dim": mllm.decoder.dim, "layers": mllm.decoder.layers}
    differing = {key: (made.get(key), value) for key, value in expected.items() if made.get(key) != value}
    if differing:
        told = ", ".join(f"{key} {theirs} where the model has {ours}" for key, (theirs, ours) in differing.items())
        raise ExportError(f"{path}: is an adapter for another model ({told}); give the model it was made for")
    modes = _modes(path / "prompt.json")
    lora, projector = (path / "adapter_config.json").is_file(), (path / "projector.safetensors").is_file()
    if lora:
        _add_lora(mllm, path, keep_thin)
    if projector:
        _load_projector(mllm, path / "projector.safetensors")
    return {"lora": lora, "projector": projector, "made": made}, modes


def _add_lora(mllm: Mllm, path: Path, keep_thin: bool) -> None:
    import peft
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        config: Any = peft.PeftConfig.from_pretrained(str(path))
        if config.peft_type != peft.PeftType.LORA:
            raise ExportError(f"{path}: is a {config.peft_type} adapter; only LoRA can be merged")
        config.inference_mode = True
        weights = load_file(path / _WEIGHTS)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a warning that the base is not a causal LM, which is intended
            model: Any = peft.PeftModel(mllm.language, config)
            loaded: Any = peft.set_peft_model_state_dict(model, weights)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise ExportError(
            f"{path}: the LoRA weights do not fit the model ({_short(error)}); name the adapter of this model"
        ) from error
    # peft itself only warns about unexpected or missing weights.
    missing = [key for key in loaded.missing_keys if "lora_" in key]
    if loaded.unexpected_keys or missing or not weights:
        example = (*loaded.unexpected_keys, *missing, _WEIGHTS)[0]
        raise ExportError(
            f"{path}: the LoRA weights do not fit the model's modules, as {example}; name the adapter of this model"
        )
    if not (keep_thin and config.r <= THIN and not config.use_dora):
        model.merge_and_unload()


def _load_projector(mllm: Mllm, path: Path) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        mllm.vision.load_state_dict(load_file(path))
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ExportError(
            f"{path}: does not fit the model's projector ({_short(error)}); name the adapter of this model"
        ) from error


def _modes(path: Path) -> dict[str, dict[str, str]] | None:
    if not path.is_file():
        return None
    modes = _read(path).get("modes")
    if not isinstance(modes, Mapping) or not modes or not set(modes) <= set(MODES):
        raise ExportError(
            f"{path}: modes must be some of {', '.join(MODES)}, each with its texts"
            "; correct the file, or train the adapter again"
        )
    for mode, texts in modes.items():
        if not isinstance(texts, Mapping) or not all(isinstance(text, str) for text in texts.values()):
            raise ExportError(
                f"{path}: the texts of {mode} must be strings; correct the file, or train the adapter again"
            )
    parts = ("instruction", "question", "answer")
    return {mode: {part: texts.get(part, "") for part in parts} for mode, texts in modes.items()}


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ExportError(f"{path}: cannot be read ({error}); give a folder of `rar-export finetune`") from error
    if not isinstance(content, dict):
        raise ExportError(f"{path}: must hold an object; correct the file, or train the adapter again")
    return content


def _short(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0]
