"""The state of a run: all of it comes back, or it is said why not."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from rar.export.finetune import checkpoint
from rar.runtime import ExportError

SETTINGS = {"lr": 1e-3, "objectives": ("likelihood",), "modes": {"likelihood": {"question": "Was ist das? 🦆"}}}


def make(seed: int = 0) -> tuple[dict[str, torch.nn.Parameter], torch.optim.Optimizer]:
    torch.manual_seed(seed)
    parameters = {"lora/a": torch.nn.Parameter(torch.randn(3, 4)), "lora/a.b": torch.nn.Parameter(torch.randn(2))}
    return parameters, torch.optim.AdamW(parameters.values(), 0.1)


def step(parameters: dict[str, torch.nn.Parameter], optimizer: torch.optim.Optimizer, times: int = 1) -> None:
    for _ in range(times):
        optimizer.zero_grad()
        torch.stack([(parameter**2).sum() for parameter in parameters.values()]).sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """After three steps."""
    parameters, optimizer = make()
    step(parameters, optimizer, 3)
    checkpoint.save(tmp_path, 3, SETTINGS, parameters, optimizer)
    return tmp_path


def test_a_restored_run_goes_on_as_one_that_was_not_cut_off(saved: Path) -> None:
    whole, optimizer = make()
    step(whole, optimizer, 5)
    restored, optimizer = make(seed=1)
    assert checkpoint.load(saved, SETTINGS, restored, optimizer) == 3
    step(restored, optimizer, 2)
    for name, parameter in whole.items():
        assert torch.equal(restored[name], parameter), name


def test_a_folder_without_a_checkpoint_is_a_beginning(tmp_path: Path) -> None:
    parameters, optimizer = make()
    before = {name: parameter.clone() for name, parameter in parameters.items()}
    assert checkpoint.load(tmp_path, SETTINGS, parameters, optimizer) == 0
    assert all(torch.equal(parameters[name], value) for name, value in before.items())


@pytest.mark.parametrize("change", [{"lr": 2e-3}, {"objectives": ("choice",)}, {"more": 1}])
def test_other_settings_are_refused(saved: Path, change: dict[str, Any]) -> None:
    with pytest.raises(ExportError, match="unfinished run with other settings"):
        checkpoint.load(saved, {**SETTINGS, **change}, *make())


def truncate(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


@pytest.mark.parametrize(
    "damage", [truncate, lambda file: file.write_bytes(b""), lambda file: file.write_bytes(b"\xff" * 100)]
)
def test_a_damaged_file_is_named(saved: Path, damage: Any) -> None:
    damage(saved / "checkpoint.safetensors")
    with pytest.raises(ExportError, match=r"checkpoint\.safetensors: damaged .*; delete it"):
        checkpoint.load(saved, SETTINGS, *make())


def test_weights_of_another_shape_are_damage(saved: Path) -> None:
    other = {"lora/a": torch.nn.Parameter(torch.zeros(7, 4)), "lora/new": torch.nn.Parameter(torch.zeros(1))}
    with pytest.raises(ExportError, match="damaged"):
        checkpoint.load(saved, SETTINGS, other, torch.optim.AdamW(other.values()))


def test_removing_leaves_nothing_and_may_be_done_twice(saved: Path) -> None:
    checkpoint.remove(saved)
    checkpoint.remove(saved)
    assert os.listdir(saved) == []
