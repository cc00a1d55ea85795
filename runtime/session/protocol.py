"""The one protocol for everything that runs a graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from .tensors import Device, Tensor

Array: TypeAlias = npt.NDArray[np.generic]


class Session(Protocol):
    """A loaded graph: named NumPy arrays in, named NumPy arrays out. Several threads may call it.

    Attributes:
        provider: What runs it; see `session.CHOICES`.
        outputs: Names of the graph's outputs.
        device: Makes the tensors that stay between runs.
    """

    provider: str
    outputs: Sequence[str]
    device: Device

    def run(
        self,
        inputs: Mapping[str, Array | Tensor],
        outputs: Sequence[str] | None = None,
        into: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Array]:
        """Runs the graph once.

        Args:
            inputs: All of the graph's inputs: arrays, or tensors of `device`.
            outputs: The outputs to fetch as arrays; None for all but those of `into`.
            into: Outputs that are written to tensors of `device` of exactly their shape.

        Raises:
            BundleError: The graph does not take these inputs, lacks these outputs, or fails on them.
            OutOfMemoryError: The device has too little memory for the batch, and for half of it.
            ProviderError: The device failed.
            InputError: The session is closed, or was opened before this process was forked.
        """
        ...

    def close(self) -> None:
        """Frees the memory; the session cannot run any more."""
        ...


def closed(graph: str) -> InputError:
    """The error of whoever runs or opens a graph after `close`."""
    return InputError(f"{graph}: its session is closed; open the bundle again")
