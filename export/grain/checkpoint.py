"""Checkpoints in the layout of the released code; training resumes from them too.

A checkpoint is a `torch.save` dictionary with `state_dict`, the decoder's, and `backbone_state_dict`. Names in both may
have the prefix `module.`.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rar.runtime.bundle.files import atomic_file
from rar.runtime.errors import ExportError

from .config import SIZES, GrainConfig
from .model import Grain

State = Mapping[str, Tensor]

# Released checkpoints hold these unused weights: the classes of HelpingHands, positions of video frames.
_UNUSED = {
    "backbone_state_dict": ("image_projection",),
    "state_dict": ("pos_embed", "temporal_embed", "class_embed.weight", "class_embed.bias"),
}
_CLASSES, _PLACES, _FRAMES = 22048, 513, 4
_NAMED = 3


@dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint.

    Attributes:
        model: The network, in eval mode.
        iteration: Steps it was trained for.
        rest: The other entries (`optimizer`, ...).
    """

    model: Grain
    iteration: int
    rest: Mapping[str, Any]


def save(path: Path, model: Grain, *, epoch: int, iteration: int, **rest: Any) -> None:
    """Writes a checkpoint that the released code loads too, all of it or nothing.

    Args:
        path: The file.
        model: The network.
        epoch: Whole passes over the training set.
        iteration: Steps.
        rest: Further entries: tensors, numbers, strings, and lists and dictionaries of them.
    """
    config = model.config
    shapes = {
        "image_projection": (config.width, config.embed),
        "pos_embed": (1, _PLACES, config.hidden),
        "temporal_embed": (1, _FRAMES, config.hidden),
        "class_embed.weight": (_CLASSES, config.hidden),
        "class_embed.bias": (_CLASSES,),
    }
    content: dict[str, Any] = {"epoch": epoch, "iteration": iteration, "best_acc": 0.0, **rest}
    for part, module in (("backbone_state_dict", model.backbone), ("state_dict", model.decoder)):
        # A single expanded zero takes no space.
        unused = {name: torch.zeros(1).expand(shapes[name]) for name in _UNUSED[part]}
        content[part] = {**{name: value.detach().cpu() for name, value in module.state_dict().items()}, **unused}
    with atomic_file(path) as file:
        torch.save(content, file)


def load(path: Path, size: str | None = None, queries: int | None = None) -> Checkpoint:
    """Loads a checkpoint without running any code in it.

    Args:
        path: The file.
        size: The name of its shape in `SIZES`; None detects it.
        queries: The required number of region queries; None accepts any.

    Raises:
        ExportError: The file is missing, half-written or not a checkpoint, has another size or query count, or has
            missing or unknown weights; the message says which.
    """
    content = _read(path)
    parts = {part: _tensors(path, content, part) for part in ("backbone_state_dict", "state_dict")}
    shape = _shape(path, parts["backbone_state_dict"], parts["state_dict"])
    if queries is not None and shape["queries"] != queries:
        raise ExportError(
            f"{path}: has {shape['queries']} region queries and not {queries}; give --queries as it was trained"
        )
    config = replace(_config(path, shape, size), queries=shape["queries"])
    model = Grain(config)
    for part, module in (("backbone_state_dict", model.backbone), ("state_dict", model.decoder)):
        _load_part(path, part, module, parts[part])
    iteration = content.get("iteration", 0)
    rest = {key: value for key, value in content.items() if key not in parts}
    return Checkpoint(model.eval(), iteration if isinstance(iteration, int) else 0, rest)


def _read(path: Path) -> Mapping[str, Any]:
    try:
        with torch.serialization.safe_globals(_numpy_scalars()):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ExportError(f"{path}: cannot be read ({error.strerror or error}); check the path") from error
    except pickle.UnpicklingError as error:
        raise ExportError(
            f"{path}: is no plain checkpoint, or would run code when it is loaded ({_first_line(error)}); "
            "get it from somewhere else"
        ) from error
    except Exception as error:  # a truncated or foreign file makes PyTorch raise a family of unrelated types
        raise ExportError(f"{path}: is damaged or half-written ({_first_line(error)}); copy it again") from error
    if not isinstance(content, dict):
        raise ExportError(
            f"{path}: holds a {type(content).__name__}, not a checkpoint's dictionary; give weights of this network"
        )
    return content


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).split("\n", 1)[0].split(". ", 1)[0]


def _numpy_scalars() -> list[Any]:
    """The types that make up a NumPy number: released checkpoints store learning rates this way in `optimizer`."""
    scalar = np.array(0.0)[()].__reduce__()[0]
    names = [(scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    return [*names, np.dtype, np.dtypes.Float64DType, np.dtypes.Float32DType]


def _tensors(path: Path, content: Mapping[str, Any], part: str) -> State:
    state = content.get(part)
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise ExportError(f"{path}: has no weights under {part!r}; this is not a GRAIN checkpoint")
    prefix = "module." if all(name.startswith("module.") for name in state) else ""
    return {name.removeprefix(prefix): value for name, value in state.items()}


def _shape(path: Path, backbone: State, decoder: State) -> dict[str, int]:
    """The fields of a `GrainConfig` that follow from the weights' shapes."""
    with _asked_for(path):
        patch, places = backbone["visual.patch_embed.proj.weight"], backbone["visual.pos_embed"]
        return {
            "image": round((places.shape[1] - 1) ** 0.5) * patch.shape[-1],
            "patch": patch.shape[-1],
            "width": patch.shape[0],
            "depth": _count(backbone, r"visual\.blocks\.(\d+)\."),
            "heads": patch.shape[0] // backbone["visual.blocks.0.attn.q_norm.weight"].shape[0],
            "text_width": backbone["token_embedding.weight"].shape[1],
            "text_depth": _count(backbone, r"transformer\.resblocks\.(\d+)\."),
            "context": backbone["positional_embedding"].shape[0],
            "vocabulary": backbone["token_embedding.weight"].shape[0],
            "embed": backbone["text_projection"].shape[1],
            "hidden": decoder["proj.weight"].shape[0],
            "decoder_depth": _count(decoder, r"transformer\.decoder\.layers\.(\d+)\."),
            "feedforward": decoder["transformer.decoder.layers.0.linear1.weight"].shape[0],
            "queries": decoder["query_embed.weight"].shape[0] - 1,
        }


@contextmanager
def _asked_for(path: Path) -> Iterator[None]:
    try:
        yield
    except KeyError as error:
        raise ExportError(f"{path}: lacks {error.args[0]}; this is not a whole GRAIN checkpoint") from error
    except (IndexError, ZeroDivisionError) as error:
        raise ExportError(f"{path}: its weights have impossible shapes; this is not a GRAIN checkpoint") from error


def _count(state: State, pattern: str) -> int:
    return len({match[1] for name in state if (match := re.match(pattern, name))})


def _config(path: Path, shape: Mapping[str, int], size: str | None) -> GrainConfig:
    """The named configuration that has a shape, with any number of queries."""

    def differences(name: str) -> list[str]:
        named = asdict(replace(SIZES[name], queries=shape["queries"]))
        return [f"{key} {value} where it is {named[key]}" for key, value in shape.items() if value != named[key]]

    if size is not None and size not in SIZES:
        raise ExportError(f"{size!r} is no size; choose {', '.join(SIZES)}")
    name = size or min(SIZES, key=lambda name: len(differences(name)))
    if differing := differences(name):
        raise ExportError(
            f"{path}: is not of the size {name}: {', '.join(differing)}; choose the size that it was trained at"
        )
    if shape["queries"] < 1:
        raise ExportError(f"{path}: has no region queries; this is not a GRAIN checkpoint")
    return SIZES[name]


def _load_part(path: Path, part: str, module: torch.nn.Module, state: State) -> None:
    expected = module.state_dict()
    given = {name: value for name, value in state.items() if name not in _UNUSED[part]}
    for what, names in (("lacks", expected.keys() - given.keys()), ("has unknown", given.keys() - expected.keys())):
        if names:
            shown = ", ".join(sorted(names)[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
            raise ExportError(f"{path}: {part} {what} weights ({len(names)}): {shown}; give weights of this network")
    for name, value in given.items():
        if value.shape != expected[name].shape:
            raise ExportError(
                f"{path}: {name} is {list(value.shape)} where {list(expected[name].shape)} belong"
                "; give the size that it was trained at"
            )
    module.load_state_dict(given)
