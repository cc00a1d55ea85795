"""Runs a batch in several parts if it does not fit an engine's profiles, or memory.

The batch is the first dynamic dimension of each input and output. That is dimension 0, except for M-RoPE positions,
[3, N, L].
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from ..errors import InputError, OutOfMemoryError, ProviderError
from .protocol import Array
from .tensorrt.stored import Profile
from .tensors import Tensor

_LOG = logging.getLogger("rar")

Axes: TypeAlias = Mapping[str, "int | None"]
Values: TypeAlias = Mapping[str, "Array | Tensor"]
Into: TypeAlias = Mapping[str, Tensor]
Run: TypeAlias = Callable[[Values, Into], dict[str, Array]]


@dataclass(frozen=True)
class Piece:
    """A part of a batch, and the profile that holds it."""

    profile: int
    rows: slice


def batch_axis(shape: Sequence[int | str | None]) -> int | None:
    """The batch dimension of a graph's tensor: the first that is a name, None or -1."""
    return next((axis for axis, size in enumerate(shape) if not isinstance(size, int) or size < 0), None)


def plan(profiles: Sequence[Profile], shapes: Mapping[str, Sequence[int]], axes: Axes) -> list[Piece]:
    """Plans how an engine runs inputs of these shapes.

    They run at once in the tightest profile that holds them. If the batch is too large for every profile, it runs in
    the largest parts that a profile allows.

    Raises:
        ProviderError: No profile holds the inputs, however small the parts.
    """
    count = _count(shapes, axes)
    tightest = _tightest(profiles, shapes)
    if tightest is not None:
        return [Piece(tightest, slice(0, count))]
    most = max((_most(profile, shapes, axes) for profile in profiles), default=0)
    if not 0 < most < count:
        raise ProviderError(_misfit(profiles, shapes, axes))
    # Parts of nearly equal size: a small rest might be below a profile's minimum.
    parts = -(-count // most)
    pieces, start = [], 0
    for part in range(parts):
        stop = start + count // parts + (part < count % parts)
        profile = _tightest(profiles, _resized(shapes, axes, stop - start))
        if profile is None:
            raise ProviderError(_misfit(profiles, shapes, axes))
        pieces.append(Piece(profile, slice(start, stop)))
        start = stop
    return pieces


def run_pieces(
    run: Callable[[Piece, Values, Into], dict[str, Array]],
    pieces: Sequence[Piece],
    inputs: Values,
    into: Into,
    axes: Axes,
) -> dict[str, Array]:
    """Runs each part and joins the outputs; a single part is not copied."""
    if len(pieces) == 1:
        return run(pieces[0], inputs, into)
    results = []
    for piece in pieces:
        part = {name: _part(value, axes.get(name), piece.rows) for name, value in inputs.items()}
        results.append(run(piece, part, {name: _rows(t, axes.get(name), piece.rows) for name, t in into.items()}))
    return {name: np.concatenate([part[name] for part in results], axes.get(name) or 0) for name in results[0]}


def run_or_halve(run: Run, inputs: Values, into: Into, axes: Axes, what: str) -> dict[str, Array]:
    """Runs a batch, or its two halves if the device's memory does not hold it.

    Raises:
        OutOfMemoryError: The memory does not hold half of it either, or the batch is 1.
    """
    try:
        return run(inputs, into)
    except OutOfMemoryError as error:
        count = _count({name: value.shape for name, value in inputs.items()}, axes)
        if count < 2:
            raise
        _LOG.warning("%s: no memory for a batch of %d (%s); running it in halves", what, count, error)
    half = (count + 1) // 2
    try:
        return run_pieces(
            lambda _, part, parts_into: run(part, parts_into),
            [Piece(0, slice(0, half)), Piece(0, slice(half, count))],
            inputs,
            into,
            axes,
        )
    except OutOfMemoryError as error:
        raise OutOfMemoryError(
            f"{what}: the device's memory holds neither a batch of {count} nor one of {half} ({error}); "
            "use a smaller batch_size, or free the device of other work"
        ) from error


def _count(shapes: Mapping[str, Sequence[int]], axes: Axes) -> int:
    """The batch that all inputs have."""
    counts = {name: shapes[name][axis] for name, axis in axes.items() if axis is not None and name in shapes}
    if len(set(counts.values())) > 1:
        raise InputError(f"the inputs' batches differ: {counts}")
    return next(iter(counts.values()), 1)


def _tightest(profiles: Sequence[Profile], shapes: Mapping[str, Sequence[int]]) -> int | None:
    sizes = {
        index: sum(math.prod(high) for _, _, high in profile.shapes.values())
        for index, profile in enumerate(profiles)
        if profile.holds(shapes)
    }
    return min(sizes, key=lambda index: (sizes[index], index)) if sizes else None


def _most(profile: Profile, shapes: Mapping[str, Sequence[int]], axes: Axes) -> int:
    """The largest part of the batch that a profile holds; 0 if another dimension does not fit."""
    most = min(
        (high[axis] for name, (_, _, high) in profile.shapes.items() if (axis := axes.get(name)) is not None), default=0
    )
    return most if most and profile.holds(_resized(shapes, axes, most)) else 0


def _resized(shapes: Mapping[str, Sequence[int]], axes: Axes, count: int) -> dict[str, list[int]]:
    return {
        name: [count if axis == axes.get(name) else size for axis, size in enumerate(shape)]
        for name, shape in shapes.items()
    }


def _misfit(profiles: Sequence[Profile], shapes: Mapping[str, Sequence[int]], axes: Axes) -> str:
    """For each profile, the input that does not fit it; the batch dimension is blamed last, because it can be split."""
    misfits = []
    for profile in profiles:
        if shapes.keys() != profile.shapes.keys():
            misfits.append(f"{profile.name} takes {', '.join(profile.shapes)}, not {', '.join(shapes)}")
            continue
        wrong = {
            name: axis
            for name, (low, _, high) in profile.shapes.items()
            for axis, (a, c) in enumerate(zip(low, high, strict=True))
            if len(shapes[name]) != len(low) or not a <= shapes[name][axis] <= c
        }
        name = min(wrong, key=lambda name: wrong[name] == axes.get(name))
        low, _, high = profile.shapes[name]
        misfits.append(f"{profile.name} takes {name} from {list(low)} to {list(high)}, not {list(shapes[name])}")
    return f"no profile of the engine holds these inputs: {'; '.join(misfits)}; build it with larger profiles"


def _part(value: Array | Tensor, axis: int | None, rows: slice) -> Array | Tensor:
    if axis is None:
        return value
    if isinstance(value, Tensor):
        return _rows(value, axis, rows)
    return value[(slice(None),) * axis + (rows,)]


def _rows(value: Tensor, axis: int | None, rows: slice) -> Tensor:
    if axis != 0:
        raise InputError("only a tensor whose batch is its first dimension can be split")
    return value.rows(rows.start, rows.stop)
