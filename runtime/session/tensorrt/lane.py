"""One execution context of an engine, with its stream, its buffers and the CUDA graph of its last run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ...errors import BundleError, ProviderError
from ..batches import Into, Values
from ..cuda.device import Cuda, as_bytes
from ..protocol import Array
from ..tensors import Tensor

if TYPE_CHECKING:
    import tensorrt

# The run of equal shapes after which they are replayed as a CUDA graph.
_CAPTURED_AT = 3


class Lane:
    """Runs an engine for one caller at a time; made and used where the device's context is current.

    Args:
        engine: The engine.
        context: Its execution context, without memory of its own.
        device: The GPU.
        outputs: The engine's outputs and their types.
        capture: Whether runs that are repeated are replayed as a graph.

    Attributes:
        shapes: The input shapes of the last run.
    """

    def __init__(
        self,
        engine: tensorrt.ICudaEngine,
        context: tensorrt.IExecutionContext,
        device: Cuda,
        outputs: Mapping[str, np.dtype[Any]],
        *,
        capture: bool,
    ) -> None:
        self._engine, self._context, self._cuda, self._outputs = engine, context, device, outputs
        self._capture = capture
        self._stream = device.driver.stream()
        self._profile = -1
        self._scratch: Tensor | None = None
        self._buffers: dict[str, Tensor] = {}
        self._pinned: dict[str, npt.NDArray[np.uint8]] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._bound: list[tuple[str, int]] = []
        self._repeats = 0
        self._graph: Callable[[], None] | None = None

    def run(self, profile: int, inputs: Values, names: Sequence[str], into: Into) -> dict[str, Array]:
        """One run; all inputs fit the profile.

        Args:
            profile: Number of the profile.
            inputs: All of the engine's, with its types.
            names: The outputs to fetch.
            into: The outputs to write to tensors.

        Raises:
            OutOfMemoryError: No memory for the buffers.
            ProviderError: The device failed.
            BundleError: A tensor of `into` has not the shape of the output.
        """
        driver = self._cuda.driver
        with driver.current():
            self._use(profile)
            shapes = {name: tuple(value.shape) for name, value in inputs.items()}
            bound = [(name, self._input(name, value)) for name, value in inputs.items()]
            if shapes != self.shapes:
                for name, shape in shapes.items():
                    _done(self._context.set_input_shape(name, shape), f"the shape {list(shape)} of {name}")
            tensors = {name: self._output(name, into.get(name)) for name in self._outputs}
            bound += [(name, tensor.address) for name, tensor in tensors.items()]
            self._run(shapes, bound)
            fetched = {name: self._fetch(name, tensors[name]) for name in names}
            driver.wait(self._stream)
        return {
            name: array.view(tensors[name].dtype).reshape(tensors[name].shape).copy() for name, array in fetched.items()
        }

    def forget(self) -> None:
        """Forgets the last run's shapes and graph after a run has failed."""
        self.shapes, self._bound, self._repeats, self._graph = {}, [], 0, None
        self._buffers.clear()

    def close(self) -> None:
        """Gives all memory back."""
        self.forget()
        with self._cuda.driver.current():
            self._cuda.driver.close_stream(self._stream)
        self._pinned.clear()
        self._scratch = None
        del self._context

    def _use(self, profile: int) -> None:
        if profile == self._profile:
            return
        self.forget()
        _done(self._context.set_optimization_profile_async(profile, self._stream), f"profile {profile}")
        size = int(self._engine.get_device_memory_size_for_profile_v2(profile))
        if self._scratch is None or self._scratch.nbytes < size:
            self._scratch = None  # first, so that it can be had again
            self._scratch = self._cuda.empty((size,), np.uint8)
        self._context.set_device_memory(self._scratch.address, self._scratch.nbytes)
        self._profile = profile

    def _run(self, shapes: dict[str, tuple[int, ...]], bound: list[tuple[str, int]]) -> None:
        driver, context, stream = self._cuda.driver, self._context, self._stream
        if bound != self._bound or shapes != self.shapes:
            for name, address in bound:
                _done(context.set_tensor_address(name, address), f"the address of {name}")
            self.shapes, self._bound, self._repeats, self._graph = shapes, bound, 0, None
        self._repeats += 1
        if self._graph is not None:
            self._graph()
            return
        _done(context.execute_async_v3(stream), "the run")
        if self._capture and self._repeats == _CAPTURED_AT:
            # A capture is complete only after a run of the same shapes has set everything up.
            driver.wait(stream)
            self._graph = driver.capture(stream, lambda: _done(context.execute_async_v3(stream), "the capture"))

    def _input(self, name: str, value: Array | Tensor) -> int:
        if isinstance(value, Tensor):
            return value.address
        source = as_bytes(np.ascontiguousarray(value))
        tensor = self._buffer(name, value.shape, value.dtype)
        if source.size:
            staged = self._staged(name, source.size)
            staged[:] = source
            self._cuda.driver.upload(tensor.address, staged, self._stream)
        return tensor.address

    def _output(self, name: str, target: Tensor | None) -> Tensor:
        shape_of = self._context.get_tensor_shape(name)
        shape = tuple(shape_of[axis] for axis in range(len(shape_of)))
        if any(size < 0 for size in shape):
            raise ProviderError(f"the shape of {name} is not known before the engine runs ({list(shape)})")
        if target is None:
            return self._buffer(name, shape, self._outputs[name])
        if target.shape != shape or target.dtype != self._outputs[name]:
            raise BundleError(
                f"the engine's {name} is {self._outputs[name]} {list(shape)}, not {target.dtype} {list(target.shape)}"
                "; build the engines again with `rar-export engine`"
            )
        return target

    def _fetch(self, name: str, tensor: Tensor) -> npt.NDArray[np.uint8]:
        staged = self._staged(name, tensor.nbytes)
        if tensor.nbytes:
            self._cuda.driver.download(staged, tensor.address, self._stream)
        return staged

    def _buffer(self, name: str, shape: Sequence[int], dtype: np.dtype[Any]) -> Tensor:
        """The lane's own device memory for a tensor; reused if it is large enough."""
        held = self._buffers.get(name)
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        if held is None or held.nbytes < size:
            self._buffers.pop(name, None)
            held = self._buffers[name] = self._cuda.empty((size,), np.uint8)
        return Tensor(held.address, tuple(shape), dtype, held)

    def _staged(self, name: str, size: int) -> npt.NDArray[np.uint8]:
        """The lane's own page-locked memory for a tensor."""
        held = self._pinned.get(name)
        if held is None or held.size < size:
            self._pinned.pop(name, None)
            held = self._pinned[name] = self._cuda.driver.pinned(max(size, 1))
        return held[:size]


def _done(success: bool, what: str) -> None:
    if not success:
        raise ProviderError(f"TensorRT refuses {what}; build the engines again with `rar-export engine`")
