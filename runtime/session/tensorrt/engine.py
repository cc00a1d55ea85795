"""A compiled engine of TensorRT or TensorRT-RTX.

Concurrent callers each get a lane: an execution context with its stream and buffers. A lane that runs the same shapes
again and again replays them as a CUDA graph.
"""

from __future__ import annotations

import logging
import os
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Condition
from typing import TYPE_CHECKING, Any

import numpy as np

from ...bundle.files import atomic_file
from ...errors import BundleError, ProviderError, RarError
from ...machine.process import check_process
from ..batches import Into, Piece, Values, batch_axis, plan, run_or_halve, run_pieces
from ..cuda.device import Cuda, Driver
from ..protocol import Array, closed
from ..tensors import Device, Tensor
from .lane import Lane
from .library import Library
from .load import Log, deserialize, explained
from .stored import Profile

if TYPE_CHECKING:
    import tensorrt

_LOG = logging.getLogger("rar")

# Execution contexts: as many callers run at once. Each takes scratch memory of its own.
LANES = 2


@dataclass(frozen=True)
class EngineMemory:
    """Device memory of an engine, in bytes.

    Attributes:
        weights: The engine's file, about what TensorRT takes for it.
        scratch: What the contexts that were opened compute in.
    """

    weights: int
    scratch: int


class EngineSession:
    """An engine as a `Session`.

    Args:
        path: The engine.
        library: What built it, in the same version.
        profiles: Its profiles, in order.
        device: The GPU.
        cache: File for the kernels that TensorRT-RTX compiles at first use; None keeps none.

    Raises:
        ProviderError: TensorRT cannot load it here; the message is TensorRT's.
        OutOfMemoryError: The GPU has not the memory for it.
        BundleError: It is not the engine that its entry describes.
    """

    provider = "engine"

    def __init__(
        self,
        path: Path,
        library: Library,
        profiles: Sequence[Profile],
        device: Cuda,
        *,
        cache: Path | None = None,
    ) -> None:
        self._path, self._cuda, self._profiles = path, device, profiles
        self._process = os.getpid()
        self.device: Device = device
        self._captures = library.name == "tensorrt"
        self._log = Log(library)
        with device.driver.current():
            engine = deserialize(path, library, self._log)
            self._settings = _settings(engine, library, device, cache, self)
        _check_profiles(path, engine, profiles)
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        types = {name: _dtype(library, engine.get_tensor_dtype(name)) for name in names}
        self._inputs = {name: types[name] for name in names if name in profiles[0].shapes}
        self._outputs = {name: types[name] for name in names if name not in profiles[0].shapes}
        self.outputs: Sequence[str] = list(self._outputs)
        self._axes = {name: batch_axis(_shape(engine.get_tensor_shape(name))) for name in names}
        self._scratch = max(engine.get_device_memory_size_for_profile_v2(index) for index in range(len(profiles)))
        self._engine: tensorrt.ICudaEngine | None = engine
        self._opened, self._free = 0, list[Lane]()
        self._changed = Condition()

    @property
    def memory(self) -> EngineMemory:
        """Device memory it takes; `device.usage` has that of the tensors."""
        return EngineMemory(self._path.stat().st_size, self._opened * self._scratch)

    def run(
        self,
        inputs: Mapping[str, Array | Tensor],
        outputs: Sequence[str] | None = None,
        into: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Array]:
        """See `Session`."""
        if self._engine is None:
            raise closed(str(self._path))
        check_process(self._process, str(self._path))
        kept = into or {}
        names = [name for name in self.outputs if name not in kept] if outputs is None else list(outputs)
        if unknown := {*names, *kept} - {*self.outputs}:
            raise BundleError(f"{self._path}: the engine has no output {', '.join(sorted(unknown))}; build it again")
        values = {name: self._checked(name, inputs) for name in self._inputs}

        def once(values: Values, into: Into) -> dict[str, Array]:
            pieces = plan(self._profiles, {name: value.shape for name, value in values.items()}, self._axes)
            return run_pieces(one, pieces, values, into, self._axes)

        def one(piece: Piece, values: Values, into: Into) -> dict[str, Array]:
            with self._lane({name: value.shape for name, value in values.items()}) as lane:
                return lane.run(piece.profile, values, names, into)

        return run_or_halve(once, values, kept, self._axes, self._path.name)

    def close(self) -> None:
        """See `Session`. Waits for the callers that are running; a forked child leaves all to its parent."""
        if self._process != os.getpid():
            return
        with self._changed:
            self._changed.wait_for(lambda: len(self._free) == self._opened)
            for lane in self._free:
                lane.close()
            self._free.clear()
            self._opened = 0
            self._settings = self._engine = None
        self._cuda.trim()

    def _checked(self, name: str, inputs: Values) -> Array | Tensor:
        value = inputs.get(name)
        if value is None or value.dtype != self._inputs[name]:
            given = "nothing" if value is None else value.dtype
            raise BundleError(
                f"{self._path}: the engine takes {self._inputs[name]} as {name}, not {given}"
                "; build the engines again with `rar-export engine`"
            )
        return value

    @contextmanager
    def _lane(self, shapes: Mapping[str, Sequence[int]]) -> Iterator[Lane]:
        """A free lane, one that ran these shapes before if there is one; waits where all are taken."""
        with self._changed:
            self._changed.wait_for(lambda: self._free or self._opened < LANES)
            ready = [lane for lane in self._free if lane.shapes == shapes]
            if ready or self._opened == LANES:
                lane = (ready or self._free)[-1]
                self._free.remove(lane)
            else:
                lane = self._open_lane()
                self._opened += 1
        try:
            yield lane
        except RarError as error:
            lane.forget()
            raise self._explained(error) from error
        finally:
            with self._changed:
                self._free.append(lane)
                self._changed.notify_all()

    def _open_lane(self) -> Lane:
        if self._engine is None:
            raise ProviderError(f"{self._path}: the session is closed")
        with self._cuda.driver.current():
            context: tensorrt.IExecutionContext | None = self._engine.create_execution_context(self._settings)
            if context is None:
                raise explained(f"{self._path}: no execution context", self._log.take())
            return Lane(self._engine, context, self._cuda, self._outputs, capture=self._captures)

    def _explained(self, error: RarError) -> RarError:
        """An error of a run with what TensorRT logged about it."""
        lines = self._log.take()
        return explained(str(error), lines) if lines else error


def _settings(
    engine: tensorrt.ICudaEngine, library: Library, cuda: Cuda, cache: Path | None, session: EngineSession
) -> Any:
    """How contexts are made: scratch memory is ours; TensorRT-RTX keeps what it compiles and captures graphs itself."""
    trt: Any = library.module
    ours = trt.ExecutionContextAllocationStrategy.USER_MANAGED
    if library.name != "tensorrt_rtx":
        return ours
    settings: Any = engine.create_runtime_config()  # the stubs are TensorRT's, which has less here
    settings.set_execution_context_allocation_strategy(ours)
    settings.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
    if cache is not None:
        compiled = settings.create_runtime_cache()
        if cache.is_file() and not compiled.deserialize(cache.read_bytes()):
            _LOG.info("%s: of another driver or version; its kernels are compiled again", cache)
        settings.set_runtime_cache(compiled)
        weakref.finalize(session, _save_cache, compiled, cache, cuda.driver)
    return settings


def _save_cache(compiled: Any, path: Path, driver: Driver) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with driver.current(), atomic_file(path) as file:
            file.write(memoryview(compiled.serialize()))
    except OSError as error:
        _LOG.info("%s: cannot be written (%s); kernels are compiled again next time", path, error.strerror)


def _check_profiles(path: Path, engine: tensorrt.ICudaEngine, profiles: Sequence[Profile]) -> None:
    """Whether the engine's own profiles are those of its entry: buffers and parts are planned by them."""
    shapes = [
        {name: tuple(map(_shape, engine.get_tensor_profile_shape(name, index))) for name in profiles[0].shapes}
        for index in range(engine.num_optimization_profiles)
    ]
    if shapes != [dict(profile.shapes) for profile in profiles]:
        raise BundleError(f"{path}: its profiles are not those of its entry in bundle.json; build the engine again")


def _dtype(library: Library, dtype: tensorrt.DataType) -> np.dtype[Any]:
    converted: np.dtype[Any] = np.dtype(library.module.nptype(dtype))
    return converted


def _shape(dimensions: tensorrt.Dims) -> tuple[int, ...]:
    return tuple(dimensions[axis] for axis in range(len(dimensions)))
