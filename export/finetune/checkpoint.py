"""The state of a run, in safetensors: the trained weights, the optimizer's moments, and the progress."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from rar.runtime.bundle.files import atomic_file
from rar.runtime.errors import ExportError

_NAME = "checkpoint.safetensors"


def save(
    folder: Path,
    step: int,
    settings: Mapping[str, Any],
    parameters: Mapping[str, torch.nn.Parameter],
    optimizer: torch.optim.Optimizer,
) -> None:
    """Replaces the folder's checkpoint."""
    import safetensors.torch

    tensors = {name: parameter.detach().cpu().contiguous() for name, parameter in parameters.items()}
    for name, parameter in parameters.items():
        for key, value in optimizer.state[parameter].items():
            tensors[f"{name}/{key}"] = value.detach().cpu().contiguous()
    metadata = {"step": str(step), "settings": json.dumps(settings, sort_keys=True)}
    with atomic_file(folder / _NAME) as file:
        file.write(safetensors.torch.save(tensors, metadata))


def load(
    folder: Path,
    settings: Mapping[str, Any],
    parameters: Mapping[str, torch.nn.Parameter],
    optimizer: torch.optim.Optimizer,
) -> int:
    """Restores a run, if the folder holds one.

    Returns:
        The number of finished steps.

    Raises:
        ExportError: The stored run has other settings, or its file is damaged.
    """
    import safetensors

    path = folder / _NAME
    if not path.exists():
        return 0
    try:
        with safetensors.safe_open(str(path), "pt") as file:
            metadata = file.metadata()
            if json.loads(metadata["settings"]) != json.loads(json.dumps(settings)):
                raise ExportError(
                    f"{folder}: holds an unfinished run with other settings; delete it or name a new folder"
                )
            keys = set(file.keys())
            for name, parameter in parameters.items():
                parameter.data.copy_(file.get_tensor(name))
                chosen = [key for key in keys if key.startswith(f"{name}/")]
                optimizer.state[parameter] = {
                    key.removeprefix(f"{name}/"): _like(key, file.get_tensor(key), parameter) for key in chosen
                }
            return int(metadata["step"])
    except (OSError, ValueError, KeyError, RuntimeError, TypeError, safetensors.SafetensorError) as error:
        raise ExportError(f"{path}: damaged ({error}); delete it to begin anew") from error


def remove(folder: Path) -> None:
    """Deletes the checkpoint of a finished run."""
    (folder / _NAME).unlink(missing_ok=True)


def _like(key: str, value: torch.Tensor, parameter: torch.nn.Parameter) -> torch.Tensor:
    # Adam counts its steps on the CPU.
    return value if key.endswith("/step") else value.to(parameter.device)
