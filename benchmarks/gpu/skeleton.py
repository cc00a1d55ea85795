"""Bundles that travel without their weights: graphs, settings, and what random weights are drawn from.

Speed and parity depend on a model's shapes and not on what it learned. A bundle of gigabytes becomes a few megabytes,
and the machine that is measured draws the weights anew: the same ones at every precision, since a tensor's name is
its seed.
"""

from __future__ import annotations

import json
import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rar.runtime.bundle.arrays import load_npz
from rar.runtime.bundle.files import sha256, write_json
from rar.runtime.bundle.manifest import MANIFEST
from rar.runtime.errors import InputError

WEIGHTS, KEPT = "weights.json", "kept.npz"
_SMALL = 1 << 14  # elements of a tensor that travels as it is: masks, frequencies, biases
_BLOCK = 1_000_003  # random numbers a tensor repeats: a prime, so that no two rows of a matrix are equal
_SAMPLE = 1 << 20  # elements that a large tensor's mean and deviation are measured on


def strip(bundle: Path, out: Path) -> None:
    """Copies a bundle without the weights beside its graphs, and without the runs that hold for those weights.

    Args:
        bundle: A bundle of fp32 or fp16 graphs with random weights.
        out: The new folder.
    """
    shutil.copytree(bundle, out, ignore=shutil.ignore_patterns("*.onnx.data", "*.check.npz"))
    drawn: dict[str, dict[str, list[float]]] = {}
    kept: dict[str, npt.NDArray[Any]] = {}
    for path in sorted(bundle.rglob("*.onnx")):
        graph = str(path.relative_to(bundle))
        drawn[graph] = {}
        for name, kind, shape, place in _external(path):
            values = np.memmap(path.with_name(place["location"]), kind, "r", place["offset"], shape)
            if values.size < _SMALL or values.dtype.kind != "f":
                kept[f"{graph}|{name}"] = np.array(values)
            else:
                drawn[graph][name] = _distribution(values)
    write_json(out / WEIGHTS, drawn)
    with (out / KEPT).open("wb") as file:
        np.savez_compressed(file, **kept)  # type: ignore[arg-type]  # numpy types the flag `allow_pickle` only


def fill(skeleton: Path, out: Path) -> None:
    """Draws the weights of a stripped bundle; `out` is then a bundle like any other.

    Raises:
        InputError: The folder was not written by `strip`.
    """
    try:
        drawn = json.loads((skeleton / WEIGHTS).read_text(encoding="utf-8"))
        manifest = json.loads((skeleton / MANIFEST).read_text(encoding="utf-8"))
        kept = load_npz(skeleton / KEPT)
    except (OSError, ValueError) as error:
        raise InputError(f"{skeleton}: holds no models without weights ({error}); make them by --prepare") from error
    shutil.copytree(skeleton, out, ignore=shutil.ignore_patterns(WEIGHTS, KEPT), dirs_exist_ok=True)
    for graph, tensors in drawn.items():
        _draw(out, graph, tensors, kept)
    for component in manifest["components"].values():
        component["info"].pop("checks", None)
        component["files"] = {
            name: record for name, record in component["files"].items() if (out / record["path"]).exists()
        }
        for record in component["files"].values():
            path = out / record["path"]
            record.update(bytes=path.stat().st_size, sha256=sha256(path))
    write_json(out / MANIFEST, manifest)


def _draw(root: Path, graph: str, tensors: dict[str, list[float]], kept: dict[str, npt.NDArray[Any]]) -> None:
    for name, kind, shape, place in _external(root / graph):
        values = kept.get(f"{graph}|{name}")
        if values is None:
            mean, deviation = tensors[name]
            # One name at every precision, one seed, one weight.
            seed = zlib.crc32(name.removesuffix(".fp16").removesuffix(".fp32").encode())
            block = np.random.default_rng(seed).standard_normal(_BLOCK, np.float32)
            values = np.resize((block * deviation + mean).astype(kind), shape)
        path = (root / graph).with_name(place["location"])
        path.touch()
        with path.open("r+b") as file:
            file.seek(place["offset"])
            file.write(np.ascontiguousarray(values).view(np.uint8).data)


def _external(graph: Path) -> Iterator[tuple[str, np.dtype[Any], tuple[int, ...], dict[str, Any]]]:
    """Name, dtype, shape and place of each tensor that lies beside a graph."""
    import onnx

    for tensor in onnx.load(str(graph), load_external_data=False).graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            place: dict[str, Any] = {entry.key: entry.value for entry in tensor.external_data}
            place["offset"] = int(place.get("offset", 0))
            yield tensor.name, onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type), tuple(tensor.dims), place


def _distribution(values: npt.NDArray[Any]) -> list[float]:
    sample = np.asarray(values.reshape(-1)[:: max(1, values.size // _SAMPLE)], np.float32)
    return [float(sample.mean()), float(sample.std())]
