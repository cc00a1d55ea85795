"""The starter's fp32 graphs, stored without their weights, and filled from the Python packages that hold those.

`graphs/` holds of each graph the ONNX without values, compressed; `weights.json` with the recipe of each weight (see
`recipes`); and PyTorch's fp32 outputs. `store` makes the folder anew.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from rar.runtime.errors import ExportError
from rar.runtime.session import OnnxSession
from rar.runtime.session.checks import Limit, Run, check_file, measure, read_runs

from ..graphs import files
from .packages import STORED, how_to_install
from .recipes import Recipe, cook, digest

Array = npt.NDArray[np.generic]

# `decoder-thin` has the LoRA beside the weights, for int4.
GRAPHS = ("visual", "text", "vision", "embed", "decoder", "decoder-thin")
# The stored outputs have 16 bits and another order of summation, no more.
_EQUAL = Limit(0.99999, 0.99999)
# Bytes of a constant that no recipe makes, such as a table of positions, and that stays in the graph.
_LARGEST = 1 << 14


def strip(graph: Path, known: Mapping[str, Recipe]) -> tuple[onnx.ModelProto, dict[str, Recipe]]:
    """A graph without the values that recipes make, and those recipes.

    Args:
        graph: The fp32 graph.
        known: From `find_recipes`.

    Raises:
        ExportError: No recipe makes a large weight.
    """
    model = onnx.load(str(graph))
    recipes: dict[str, Recipe] = {}
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        recipe = known.get(digest(values))
        if recipe is None:
            if values.nbytes > _LARGEST:
                raise ExportError(
                    f"{graph.name}: no recipe makes the weight {tensor.name} {values.shape}; add one to `recipes`"
                )
            tensor.raw_data = values.tobytes()
            continue
        recipes[tensor.name] = recipe
        tensor.ClearField("raw_data")
        tensor.ClearField("data_location")
    # Versions of the exporter that wrote the same graph.
    model.ClearField("producer_version")
    return model, recipes


def pack(model: onnx.ModelProto) -> bytes:
    """The same graph gives the same bytes."""
    return gzip.compress(model.SerializeToString(deterministic=True), mtime=0)


def stored(name: str) -> tuple[onnx.ModelProto, Mapping[str, Recipe]]:
    """A stored graph without its weights, and their recipes.

    Raises:
        ExportError: The package is incomplete.
    """
    path = STORED / f"{name}.onnx.gz"
    try:
        model = onnx.load_from_string(gzip.decompress(path.read_bytes()))
        return model, _weights()[name]
    except (OSError, EOFError, zlib.error, ValueError, KeyError) as error:
        raise ExportError(f"{path}: cannot be read ({error}); install rar-runtime again") from error


@cache
def _weights() -> dict[str, dict[str, Recipe]]:
    content: dict[str, dict[str, Recipe]] = json.loads((STORED / "weights.json").read_text(encoding="utf-8"))
    return content


def fill(name: str, tensors: Mapping[str, Array], path: Path) -> None:
    """Writes one of `GRAPHS` with its weights.

    Args:
        name: The graph.
        tensors: What its weights are made of.
        path: The `.onnx` to write.

    Raises:
        ExportError: A tensor is missing or has another shape: a package is of another version.
    """
    model, recipes = stored(name)
    files.save(model, path, _filled(list(model.graph.initializer), recipes, tensors))


def _filled(
    initializers: list[onnx.TensorProto], recipes: Mapping[str, Recipe], tensors: Mapping[str, Array]
) -> Iterator[onnx.TensorProto]:
    for tensor in initializers:
        if (recipe := recipes.get(tensor.name)) is None:
            yield tensor
            continue
        try:
            values = cook(recipe, tensors)
        except (KeyError, ValueError) as error:
            raise ExportError(f"{tensor.name} is made of {recipe}, but {error}; {how_to_install()}") from error
        if values.shape != tuple(tensor.dims):
            raise ExportError(f"{tensor.name} has {values.shape} where {tuple(tensor.dims)} fits; {how_to_install()}")
        yield numpy_helper.from_array(values, tensor.name)


def runs(name: str) -> list[Run]:
    """The stored runs of a graph: inputs and PyTorch's fp32 outputs."""
    return read_runs(STORED / check_file(name.removesuffix("-thin")), "starter")


def hold(name: str, path: Path) -> OnnxSession:
    """Opens a filled graph that gives PyTorch's outputs.

    Raises:
        ExportError: It gives others.
    """
    session = OnnxSession(path, "cpu")
    measured = measure(session, runs(name))
    if not measured.within(_EQUAL):
        raise ExportError(
            f"the fp32 graph {name} gives other outputs than PyTorch gave: {measured}; the limits are {_EQUAL}; "
            f"please {how_to_install()}; report this if it stays"
        )
    return session


def reference() -> Mapping[str, Any]:
    """What PyTorch, torchvision and transformers gave: see `store`."""
    content: Mapping[str, Any] = json.loads((STORED / "reference.json").read_text(encoding="utf-8"))
    return content
