"""LoRA adapters: what is exported is what peft computes, and a foreign one is refused before anything is written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rar.export.cli import main
from rar.export.mllm.adapter import merge
from rar.export.mllm.export import export_mllm
from rar.export.mllm.source import load
from rar.runtime import Bundle, ExportError

MODES = {"likelihood": {"instruction": "Name it.", "question": "What is it?", "answer": ""}}


@pytest.fixture(scope="module")
def adapted(tiny_llava: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """An adapter folder with random LoRA weights, and the language model that peft made with it."""
    import peft

    folder = tmp_path_factory.mktemp("adapter")
    torch.manual_seed(1)
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    model = peft.PeftModel(load(str(tiny_llava)).language, config)
    model.save_pretrained(str(folder))
    (folder / "prompt.json").write_text(json.dumps({"modes": MODES}))
    (folder / "rar.json").write_text(json.dumps({"base": "x", "architecture": "llava", "dim": 64, "layers": 2}))
    return folder, model.eval()


@pytest.mark.parametrize("keep_thin", [False, True])
def test_the_model_with_an_adapter_computes_what_peft_does(
    keep_thin: bool, adapted: tuple[Path, Any], tiny_llava: Path
) -> None:
    folder, model = adapted
    mllm = load(str(tiny_llava))
    embeds = torch.randn(1, 9, 64)
    with torch.inference_mode():
        plain = mllm.language(inputs_embeds=embeds).last_hidden_state
        info, modes = merge(mllm, folder, keep_thin)
        merged = mllm.language(inputs_embeds=embeds).last_hidden_state
        own = model(inputs_embeds=embeds).last_hidden_state
    assert modes == MODES
    assert info["lora"]
    assert (merged - own).abs().max() < 1e-4
    assert (plain - own).abs().max() > 0.1
    assert any("lora_" in name for name, _ in mllm.language.named_parameters()) == keep_thin


def test_the_command_exports_an_adapter_and_its_prompt(
    adapted: tuple[Path, Any], tiny_llava: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "bundle"
    options = ["--model", str(tiny_llava), "--precision", "int4", "--adapter", str(adapted[0])]
    assert main(["mllm", str(out), *options]) == 0
    assert "int4, against transformers: max_logit_difference" in capsys.readouterr().out
    assert json.loads((out / "mllm" / "prompt.json").read_text())["modes"] == MODES
    info = Bundle.open(out).component("mllm").info
    assert info["adapter"] == {
        "lora": True,
        "projector": False,
        "made": {"base": "x", "architecture": "llava", "dim": 64, "layers": 2},
    }
    assert info["parity"]["logits"]["kl"] < 0.5


def edit(name: str, **change: Any) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        path = folder / name
        path.write_text(json.dumps({**json.loads(path.read_text()), **change}))

    return apply


def wrong_shapes(folder: Path) -> None:
    from safetensors.numpy import load_file, save_file

    path = folder / "adapter_model.safetensors"
    save_file({name: np.zeros((3, 5), np.float32) for name in load_file(path)}, path)


def half_of_the_weights(folder: Path) -> None:
    from safetensors.numpy import load_file, save_file

    path = folder / "adapter_model.safetensors"
    save_file(dict(list(load_file(path).items())[::2]), path)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (edit("rar.json", architecture="internvl"), "another model"),
        (edit("rar.json", dim=128), "another model"),
        (edit("rar.json", layers=9), "another model"),
        (lambda folder: (folder / "rar.json").unlink(), "cannot be read"),
        (edit("adapter_config.json", target_modules=["query_key_value"]), "do not fit"),
        (wrong_shapes, "do not fit"),
        (half_of_the_weights, "do not fit"),
        (lambda folder: (folder / "adapter_model.safetensors").unlink(), "do not fit"),
        (edit("prompt.json", modes={"guess": {}}), "modes must be"),
        (lambda folder: (folder / "projector.safetensors").write_bytes(b"{}"), "does not fit"),
    ],
)
def test_a_foreign_or_broken_adapter_is_refused(
    spoil: Callable[[Path], None], message: str, adapted: tuple[Path, Any], tiny_llava: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(adapted[0], tmp_path / "adapter"))
    spoil(folder)
    with pytest.raises(ExportError, match=message):
        export_mllm(load(str(tiny_llava)), tmp_path / "bundle", "fp32", folder)
    assert not (tmp_path / "bundle").exists()
