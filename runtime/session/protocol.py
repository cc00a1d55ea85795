"""One protocol for whatever runs a graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from .tensors import Device, Tensor

Array: TypeAlias = npt.NDArray[np.generic]


class Session(Protocol):
    """A loaded graph: named NumPy arrays in, named NumPy arrays out. May be called from several threads.

    Attributes:
        provider: What runs it; see `PROVIDERS`.
        outputs: Names of what it can give.
        device: Where tensors that stay between runs are made.
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
            OutOfMemoryError: The device has not the memory for them, nor for half a batch of them.
            ProviderError: The device failed.
        """
        ...

    def close(self) -> None:
        """Gives the memory back; the session cannot run any more."""
        ...
