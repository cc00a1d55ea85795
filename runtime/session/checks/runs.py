"""Runs of a graph, stored beside it in a bundle: inputs and their fp32 outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ...bundle.arrays import DAMAGED, load_npz
from ...bundle.manifest import Bundle
from ...errors import BundleError

_COMMANDS = {
    "clip": "`rar-export clip` (starter and grain export make it too)",
    "mllm": "`rar-export mllm` (starter makes it too)",
}
# Logits are kept at a stride, so that a vocabulary of 150,000 takes no more than this.
_WIDEST = 4096


@dataclass(frozen=True)
class Run:
    """One run.

    Attributes:
        inputs: By name.
        outputs: The fp32 outputs by name; some may be left out.
        strides: The stride at which a thinned output keeps the elements of its last dimension.
    """

    inputs: Mapping[str, npt.NDArray[np.generic]]
    outputs: Mapping[str, npt.NDArray[np.generic]]
    strides: Mapping[str, int] = field(default_factory=dict)


def check_file(graph: str) -> str:
    """The name of the file with a graph's runs, in the graph's component."""
    return f"{graph.removesuffix('.onnx')}.check.npz"


def again(component: str) -> str:
    """The command that exports a component with its runs."""
    return _COMMANDS.get(component, f"`rar-export {component}`")


def narrowed(inputs: Mapping[str, npt.NDArray[np.generic]]) -> dict[str, npt.NDArray[np.generic]]:
    """Inputs rounded to the file's 16-bit floats, as float32. The fp32 reference must run on these."""
    return {
        name: _small(array).astype(np.float32) if array.dtype.kind == "f" else array for name, array in inputs.items()
    }


def sampled(inputs: Mapping[str, npt.NDArray[np.generic]], outputs: Mapping[str, npt.NDArray[np.generic]]) -> Run:
    """A run whose widest outputs, a vocabulary's logits, are thinned.

    Args:
        inputs: From `narrowed`.
        outputs: The fp32 outputs of these inputs.
    """
    strides = {name: stride for name, array in outputs.items() if (stride := -(-array.shape[-1] // _WIDEST)) > 1}
    return Run(inputs, {name: array[..., :: strides.get(name, 1)] for name, array in outputs.items()}, strides)


def save_runs(path: Path, runs: Sequence[Run]) -> None:
    """Writes the file that `load_runs` reads. Floats take 16 bits; the rounding error is far below any limit."""
    arrays = {
        f"{number}|{side}|{name}": array
        for number, run in enumerate(runs)
        for side, values in (("in", run.inputs), ("out", run.outputs))
        for name, array in ((name, _small(array)) for name, array in values.items())
    }
    for number, run in enumerate(runs):
        arrays |= {f"{number}|stride|{name}": np.asarray(stride) for name, stride in run.strides.items()}
    with path.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]  # numpy types the flag `allow_pickle` only


def has_runs(bundle: Bundle, component: str, graph: str) -> bool:
    """Whether a graph was exported with runs; old exports have none.

    Raises:
        BundleError: The graph was exported with runs, but they are missing.
    """
    part = bundle.component(component)
    there = check_file(graph) in part.files
    told = part.info.get("checks")
    if not there and isinstance(told, dict) and graph in told:
        raise BundleError(
            f"{bundle.root}: {component} lacks {check_file(graph)}, the inputs that {graph} is checked with; copy the "
            f"bundle again, or export {component} again: {again(component)}"
        )
    return there


def load_runs(bundle: Bundle, component: str, graph: str) -> list[Run]:
    """The runs of a graph, the file's hash checked.

    Raises:
        BundleError: The file is missing, altered or damaged.
    """
    return read_runs(bundle.file(component, check_file(graph)), component)


def read_runs(path: Path, component: str) -> list[Run]:
    """The runs of a file that `save_runs` wrote.

    Raises:
        BundleError: The file is missing or damaged; the component is exported again.
    """
    try:
        arrays = load_npz(path)
        by_number: dict[str, dict[str, dict[str, npt.NDArray[np.generic]]]] = {}
        for key, array in arrays.items():
            number, side, name = key.split("|", 2)
            sides = by_number.setdefault(number, {"in": {}, "out": {}, "stride": {}})
            sides[side][name] = array.astype(np.float32) if array.dtype == np.float16 else array
        runs = [
            Run(sides["in"], sides["out"], {name: int(array) for name, array in sides["stride"].items()})
            for sides in by_number.values()
        ]
    except DAMAGED as error:
        raise _broken(path, component, error) from error
    if not runs or not all(run.inputs and run.outputs and min(run.strides.values(), default=1) > 0 for run in runs):
        raise _broken(path, component, "it holds no whole run")
    return runs


def _broken(path: Path, component: str, why: object) -> BundleError:
    return BundleError(f"{path}: not a file of check inputs ({why}); export {component} again: {again(component)}")


def _small(array: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    if array.dtype.kind != "f":
        return array
    with np.errstate(over="ignore"):
        half = array.astype(np.float16)
    return half if np.isfinite(half).all() else array.astype(np.float32)
