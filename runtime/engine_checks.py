"""The stored runs that an engine is compared by before anything is answered with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from .bundle import Bundle
from .engines import EngineRecord
from .errors import BundleError
from .files import DAMAGED

Array = npt.NDArray[np.generic]


@dataclass(frozen=True)
class Check:
    """One run to compare an engine by.

    Attributes:
        profile: Name of the profile it runs in.
        inputs: By name.
        outputs: What ONNX Runtime made of them on the CPU, by name; all the graph's outputs.
    """

    profile: str
    inputs: Mapping[str, Array]
    outputs: Mapping[str, Array]


def checks(bundle: Bundle, record: EngineRecord) -> list[Check]:
    """The stored runs of an engine; one for each profile at least.

    Raises:
        BundleError: The file is missing, altered or not such a file.
    """
    path = bundle.file(record.key.target.component, record.check_file)
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except DAMAGED as error:
        raise BundleError(f"{path}: not a file of stored inputs ({error}); build the engine again") from error
    found: dict[str, tuple[dict[str, Array], dict[str, Array]]] = {}
    for key, array in arrays.items():
        profile, side, name = [*key.split("|", 2), "", ""][:3]
        inputs, outputs = found.setdefault(profile, ({}, {}))
        (inputs if side == "in" else outputs)[name] = array
    missing = {profile.name for profile in record.key.profiles} - found.keys()
    if missing or not all(inputs and outputs for inputs, outputs in found.values()):
        raise BundleError(f"{path}: lacks runs of {', '.join(sorted(missing)) or 'a profile'}; build the engine again")
    return [Check(profile, *sides) for profile, sides in found.items()]


def save_checks(path: Path, runs: Sequence[Check]) -> None:
    """Writes what `checks` reads, a run a profile."""
    arrays = {
        f"{run.profile}|{side}|{name}": array
        for run in runs
        for side, values in (("in", run.inputs), ("out", run.outputs))
        for name, array in values.items()
    }
    with path.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]  # numpy types the flag `allow_pickle` only


def worst_cosine(expected: Mapping[str, Array], found: Mapping[str, Array]) -> float:
    """The lowest cosine between the rows of expected and found outputs.

    NaN where an output is absent, of another shape or not finite, so that no limit lets it pass.

    Args:
        expected: By name, [N, ...] each; an output without elements says nothing.
        found: The same of the engine.
    """
    worst = 1.0
    for name, array in expected.items():
        other = found.get(name)
        if other is None or other.shape != array.shape:
            return float("nan")
        if not array.size:
            continue
        a, b = (np.asarray(values, np.float64).reshape(len(array), -1) for values in (array, other))
        if not np.isfinite(b).all():
            return float("nan")
        norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        # Rows of zeros have no direction: equal to each other, unlike anything else.
        same = (a == b).all(1)
        cosines = np.where(same, 1.0, (a * b).sum(1) / np.where(norms > 0, norms, np.inf))
        worst = min(worst, float(cosines.min()))
    return worst
