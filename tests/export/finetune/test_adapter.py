"""Which weights of a model learn."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_mllm
import torch

from rar.export.finetune.adapter import attach
from rar.export.mllm.source import load

SEVEN = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


@pytest.mark.parametrize("name", tiny_mllm.WRITERS)
def test_every_linear_layer_of_the_language_model_learns(name: str, tiny_mllm_folder: Callable[[str], Path]) -> None:
    mllm = load(str(tiny_mllm_folder(name)))
    linear = [name for name, module in mllm.language.named_modules() if isinstance(module, torch.nn.Linear)]
    attach(mllm, 2, 0.0)
    assert linear
    for layer in linear:
        assert hasattr(mllm.language.get_submodule(layer), "lora_A"), layer
    if name != "lfm2vl":
        assert {layer.rpartition(".")[2] for layer in linear} == SEVEN
    learning = {name for name, weight in mllm.decoder.named_parameters() if weight.requires_grad}
    assert len(learning) == 2 * len(linear)
    assert all("lora_" in name for name in learning)
