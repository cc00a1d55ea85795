"""The JSON files of folders with ready-made graphs, read without transformers; they may come from a stranger."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rar.runtime.bundle.regular import read_regular
from rar.runtime.errors import ExportError
from rar.runtime.picture.preprocess import Preprocess

from .huggingface import preprocess_of

if TYPE_CHECKING:
    import tokenizers

_LARGEST_JSON, _LARGEST_TOKENIZER = 1 << 20, 1 << 28


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file.

    Raises:
        ExportError: There is no such file, it is too large, or holds something else.
    """
    try:
        value = json.loads(read_regular(path, _LARGEST_JSON, links=True).decode())
    except OSError as error:
        raise ExportError(
            f"{path}: cannot be read ({error.strerror}); download it from where the graphs are"
        ) from error
    except (ValueError, RecursionError) as error:
        raise ExportError(f"{path}: is not valid JSON ({error}); download it again") from error
    if not isinstance(value, dict):
        raise ExportError(f"{path}: must hold an object; download it again")
    return value


def read_config(path: Path, kinds: Collection[str], graph: str) -> tuple[dict[str, Any], str]:
    """A folder's `config.json`, and the model_type that it names.

    Args:
        path: The folder.
        kinds: The model types that are supported.
        graph: A graph that such folders hold, for messages.

    Raises:
        ExportError: There is no such folder or file, or it is of another kind.
    """
    if not path.is_dir():
        raise ExportError(f"{path}: is no folder; give one with config.json and onnx/{graph}.onnx")
    config = read_json(path / "config.json")
    kind = str(config.get("model_type"))
    if kind not in kinds:
        raise ExportError(f"{path}: is a {kind[:40]} model; supported as ready-made ONNX are {', '.join(kinds)}")
    return config, kind


def read_settings(path: Path, more: Mapping[str, Any] | None = None) -> Preprocess:
    """The picture preparation of a `preprocessor_config.json`; settings of old files take the form of today's.

    Args:
        path: The file.
        more: Settings that hold instead of the file's.

    Raises:
        ExportError: The runtime does not support it, or a setting is missing or wrong.
    """
    config = {"rescale_factor": 1 / 255, **read_json(path), **(more or {})}
    cut = bool(config.get("do_center_crop"))
    for name, square in (("size", not cut), ("crop_size", True)):
        if type(config.get(name)) is int:
            side = config[name]
            config[name] = {"height": side, "width": side} if square else {"shortest_edge": side}
    if config.get("do_normalize") is False:
        config.update(image_mean=[0.0] * 3, image_std=[1.0] * 3)
    if config.get("do_resize") is False or config.get("do_rescale") is False:
        raise ExportError(f"{path}: resizes no pictures, or leaves them at 0 to 255; choose a model that does both")
    try:
        return preprocess_of(str(path), config)
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise ExportError(f"{path}: lacks a setting or has a wrong one ({error}); download it again") from error


def read_tokenizer(path: Path) -> tokenizers.Tokenizer:
    """The tokenizer of a `tokenizer.json`.

    Raises:
        ExportError: There is no such file, it is too large, or holds none.
    """
    import tokenizers

    try:
        return tokenizers.Tokenizer.from_str(read_regular(path, _LARGEST_TOKENIZER, links=True).decode())
    except OSError as error:
        raise ExportError(
            f"{path}: cannot be read ({error.strerror}); download it from where the graphs are"
        ) from error
    except Exception as error:  # `tokenizers` raises the bare Exception
        raise ExportError(f"{path}: is no tokenizer ({error}); download it again") from error
