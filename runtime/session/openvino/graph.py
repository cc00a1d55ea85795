"""A graph in OpenVINO, on the CPU."""

from __future__ import annotations

import importlib
import os
import platform
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from ...bundle.files import utf8_path
from ...errors import BundleError, OutOfMemoryError, ProviderError, RarError
from ...machine.cores import usable_cores
from ...machine.cpu import VNNI, instruction_sets
from ...machine.process import bind, check_process
from ..batches import Into, Values, batch_axis, run_or_halve
from ..protocol import Array, closed
from ..tensors import Device, Host, Tensor, to_array

OPENVINO = "openvino"
PRECISION = "INFERENCE_PRECISION_HINT"
# By itself OpenVINO takes what is fastest: bf16 where the processor has it, activations of compressed products and the
# keys and values of attention at 8 bits. Here a graph is computed as it was exported.
_DEFAULTS: Mapping[str, str] = {
    PRECISION: "f32",
    "EXECUTION_MODE_HINT": "ACCURACY",
    "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0",
    "KV_CACHE_PRECISION": "f32",
    # One run at a time takes all threads, as in ONNX Runtime.
    "NUM_STREAMS": "1",
    "ENABLE_HYPER_THREADING": "YES",
    # Each process would pin its threads to the first cores, whatever runs there already.
    "ENABLE_CPU_PINNING": "NO",
}
_NO_MEMORY = ("bad_alloc", "std::bad_array_new_length", "Failed to allocate", "could not allocate", "out of memory")


class OpenVinoSession:
    """A graph in OpenVINO on the CPU.

    Args:
        path: The `.onnx` file.
        threads: Threads within an operator; None for one a core that this process may use.
        options: OpenVINO's properties for its CPU device, over this package's own.

    Attributes:
        provider: `openvino`.
        outputs: Names of the graph's outputs.
        device: Makes the tensors that stay between runs.

    Raises:
        ProviderError: OpenVINO is not installed, cannot run an operator of the graph, or does not take the options.
        OutOfMemoryError: There is too little memory for the graph.
        BundleError: The file is no ONNX graph.
    """

    provider = OPENVINO

    def __init__(self, path: Path, threads: int | None = None, *, options: Mapping[str, str] | None = None) -> None:
        self._path, self._process = path, os.getpid()
        threads = threads or usable_cores()
        self._compiled = _compile(path, {"INFERENCE_NUM_THREADS": str(threads), **properties(options or {})})
        bind(self._compiled)
        ports = {port.node.friendly_name: port for port in self._compiled.inputs}
        self._inputs = {name: (_dtype(port), _shape(port)) for name, port in ports.items()}
        # The nodes of outputs are called after them, with the number of a port behind.
        ports |= {port.node.friendly_name.rpartition("/sink_port_")[0]: port for port in self._compiled.outputs}
        self._made = {n: (port.element_type, _shape(port)) for n, port in ports.items() if n not in self._inputs}
        self.outputs: Sequence[str] = list(self._made)
        self._axes = {name: batch_axis(_shape(port)) for name, port in ports.items()}
        self.device: Device = Host()
        self._lock, self._free = Lock(), list[Any]()

    def run(
        self,
        inputs: Mapping[str, Array | Tensor],
        outputs: Sequence[str] | None = None,
        into: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Array]:
        """See `Session`."""
        check_process(self._process, str(self._path))
        kept = into or {}
        names = [name for name in self.outputs if name not in kept] if outputs is None else list(outputs)
        if unknown := {*names, *kept} - {*self.outputs}:
            raise BundleError(f"{self._path}: the graph has no output {', '.join(sorted(unknown))}; export it again")
        self._check(inputs)

        def once(inputs: Values, into: Into) -> dict[str, Array]:
            try:
                return self._run(inputs, names, into)
            except RarError:
                raise
            except Exception as error:  # RuntimeError, for all of C++'s
                raise _translated(error, self._path, "run") from error

        return run_or_halve(once, inputs, kept, self._axes, self._path.name)

    def close(self) -> None:
        """See `Session`."""
        with self._lock:
            self._compiled = None
            self._free.clear()

    def _check(self, inputs: Values) -> None:
        """Whether these are the graph's inputs: OpenVINO itself would convert other types, and keep old values."""
        if unlike := inputs.keys() ^ self._inputs.keys():
            raise BundleError(
                f"{self._path}: the graph takes {', '.join(self._inputs)}, and {', '.join(sorted(unlike))} is "
                f"{'missing' if unlike <= self._inputs.keys() else 'given'}; export it again"
            )
        for name, (dtype, shape) in self._inputs.items():
            value = inputs[name]
            fits = len(value.shape) == len(shape) and all(
                size in (-1, given) for size, given in zip(shape, value.shape, strict=True)
            )
            if value.dtype != dtype or not fits:
                raise BundleError(
                    f"{self._path}: the graph takes {dtype} {list(shape)} as {name}, not {value.dtype} "
                    f"{list(value.shape)}; export it again"
                )

    def _run(self, inputs: Values, names: Sequence[str], into: Into) -> dict[str, Array]:
        from openvino import Tensor as Shared

        # New ones: the next run writes elsewhere.
        tensors = {name: Shared(kind, [max(size, 0) for size in shape]) for name, (kind, shape) in self._made.items()}
        given = [inputs[name] for name in self._inputs]
        # Held until the run is over: a request keeps the address of an array, and not the array.
        arrays = [
            to_array(one) if isinstance(one, Tensor) else np.require(one, requirements=("C", "W")) for one in given
        ]
        with self._request() as request:
            for index, array in enumerate(arrays):
                request.set_input_tensor(index, Shared(array, shared_memory=True))
            for index, tensor in enumerate(tensors.values()):
                request.set_output_tensor(index, tensor)
            # `infer` of 2026.4 raises nothing where a run fails, and copies the outputs.
            request.start_async()
            try:
                request.wait()
            except BaseException:  # Ctrl-C too: nothing may read the arrays when they are gone
                request.cancel()
                with suppress(RuntimeError):  # which says that it was cancelled
                    request.wait()
                raise
        found: dict[str, Array] = {name: tensor.data for name, tensor in tensors.items()}
        for name, target in into.items():
            if (found[name].shape, found[name].dtype) != (target.shape, target.dtype):
                raise BundleError(
                    f"{self._path}: {name} is {found[name].dtype} {list(found[name].shape)}, not {target.dtype} "
                    f"{list(target.shape)}; export it again"
                )
            to_array(target)[...] = found[name]
        return {name: found[name] for name in names}

    @contextmanager
    def _request(self) -> Iterator[Any]:
        """A request that nobody else uses: it holds the inputs and outputs of one run."""
        with self._lock:
            if self._compiled is None:
                raise closed(str(self._path))
            request = self._free.pop() if self._free else self._compiled.create_infer_request()
        yield request
        # One that failed is dropped.
        with self._lock:
            if self._compiled is not None:
                self._free.append(request)


def library() -> Any:
    """The module `openvino`.

    By itself its import starts a process that reports to Google Analytics; without `openvino_telemetry` it does not.

    Raises:
        ProviderError: It is not installed, or does not load.
    """
    counter = "openvino_telemetry"
    if OPENVINO not in sys.modules:
        sys.modules.setdefault(counter, None)  # type: ignore[arg-type]  # that is how an import is refused
    try:
        return importlib.import_module(OPENVINO)  # not at the top: the package must import without it
    except ImportError as error:
        raise ProviderError(f"OpenVINO is not installed ({error}); pip install 'rar-runtime[openvino]'") from error
    finally:
        if sys.modules.get(counter, counter) is None:
            sys.modules.pop(counter, None)  # another thread may have done it


def properties(options: Mapping[str, str]) -> dict[str, str]:
    """OpenVINO's properties with these options over this package's own; a precision in lower case, as it tells it."""
    found = {**_DEFAULTS, **_exact(), **options}
    return {**found, PRECISION: found[PRECISION].lower()}


def _exact() -> dict[str, str]:
    """Keeps 8-bit products right: without VNNI a quantised graph is computed from floats, at their speed."""
    saturates = platform.machine() == "x86_64" and not any(name in VNNI for name in instruction_sets())
    return {"LP_TRANSFORMS_MODE": "NO"} if saturates else {}


@cache
def _core() -> Any:
    core = library().Core()
    bind(core)
    return core


def _compile(path: Path, settings: Mapping[str, str]) -> Any:
    """An `openvino.CompiledModel` of a graph."""
    library()
    from openvino.frontend import FrontEndManager

    # No other: `read_model` takes a file for whatever it looks like.
    reader = FrontEndManager().load_by_framework("onnx")
    with utf8_path(path) as name:
        try:
            read = reader.load(name)
        except Exception as error:  # RuntimeError, for all of C++'s
            raise BundleError(f"{path}: OpenVINO cannot read it ({_line(error)}); export it again") from error
        try:
            model = reader.convert(read)
            if not model.outputs:
                raise BundleError(f"{path}: OpenVINO finds no graph in it; export it again")
            _reduce_exactly(model)
            compiled = _core().compile_model(model, "CPU", dict(settings))
        except RarError:
            raise
        except Exception as error:
            raise _translated(error, path, "load") from error
    asked, used = settings[PRECISION], compiled.get_property(PRECISION).to_string()
    if asked != used:
        raise ProviderError(
            f"{path}: OpenVINO computes in {used} on this processor, not in {asked}; leave out the option {PRECISION}"
        )
    return compiled


def _reduce_exactly(model: Any) -> None:
    """Has means and sums of a quantised graph computed from floats.

    OpenVINO 2026.4 computes them from uint8 where the axis is neither the first nor the last, and all rows of a batch
    but the first are wrong then. It does not carry uint8 through a minimum.
    """
    from openvino import opset8 as ops

    nodes = model.get_ops()
    if not any(node.get_type_name() == "FakeQuantize" for node in nodes):
        return
    for node in nodes:
        if node.get_type_name().startswith("Reduce") and node.get_input_element_type(0).is_real():
            source = node.input_value(0)
            most = ops.constant(np.inf, source.get_element_type())
            node.input(0).replace_source_output(ops.minimum(source, most).output(0))


def _translated(error: Exception, path: Path, doing: str) -> RarError:
    """Translates OpenVINO's exception: memory ran out, or this graph or these options are not for it."""
    text = _line(error)
    if isinstance(error, MemoryError) or any(sign in text for sign in _NO_MEMORY):
        return OutOfMemoryError(f"{path}: OpenVINO has not the memory to {doing} it ({text}); give smaller batches")
    if doing == "run":
        return BundleError(f"{path}: OpenVINO cannot run it ({text}); export it again")
    return ProviderError(f"{path}: OpenVINO cannot {doing} it ({text}); choose another provider")


def _line(error: Exception) -> str:
    """An exception's text without the places in OpenVINO's sources."""
    lines = (line.strip() for line in str(error).splitlines())
    places = ("Exception from ", "Check '", "FrontEnd API")
    return " ".join(line for line in lines if line and not line.startswith(places))


def _dtype(port: Any) -> np.dtype[Any]:
    found: np.dtype[Any] = np.dtype(port.element_type.to_dtype())
    return found


def _shape(port: Any) -> list[int]:
    """The dimensions; -1 where they may be any."""
    return [size.get_length() if size.is_static else -1 for size in port.partial_shape]
