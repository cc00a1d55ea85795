"""A graph in ONNX Runtime."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...bundle.files import utf8_path
from ...errors import BundleError, InputError, OutOfMemoryError, ProviderError, RarError
from ...machine.cores import usable_cores
from ...machine.cpu import VNNI, instruction_sets
from ...machine.process import bind, check_process
from ..batches import Into, Values, batch_axis, run_or_halve
from ..cuda.device import cuda_or_host
from ..protocol import Array, closed
from ..tensors import Device, Host, Tensor
from .obstacles import PROVIDERS, check_provider, plugin_devices

_LOG = logging.getLogger("rar")

# Messages of ONNX Runtime, its arenas and CUDA when memory runs out, and when a build does not fit the GPU.
_NO_MEMORY = (
    "Failed to allocate memory",
    "Available memory of",
    "out of memory",
    "OUT_OF_MEMORY",
    "bad_alloc",
    "bad allocation",
)
_DEVICE_FAILED = ("CUDA failure", "CUDA error", "CUBLAS", "CUDNN", "no kernel image", "TensorRT EP")


class OnnxSession:
    """A graph in ONNX Runtime on the requested device, and on no other.

    Args:
        path: The `.onnx` file.
        provider: One of `PROVIDERS`.
        threads: Threads within an operator; None for one a core that this process may use.
        fp16: Whether the graph computes in fp16.
        options: The provider's own options; a name with a dot is an entry of the session's configuration. With
            `ep.context_enable` the compiled graph is kept at `ep.context_file_path`, which must be this graph's
            alone, and loaded from there next time.

    Attributes:
        provider: The provider that really runs the graph.
        outputs: Names of the graph's outputs.
        device: Makes the tensors that stay between runs.
        placement: The number of nodes that each provider of ONNX Runtime runs; empty on the CPU, and if ONNX Runtime
            does not report it.

    Raises:
        ProviderError: The device is missing; ONNX Runtime itself would fall back to the CPU silently.
        OutOfMemoryError: The device has too little memory for the graph.
        BundleError: The file is not a graph that ONNX Runtime can load.
        InputError: An unknown provider.
    """

    def __init__(
        self,
        path: Path,
        provider: str = "cpu",
        threads: int | None = None,
        *,
        fp16: bool = False,
        options: Mapping[str, str] | None = None,
    ) -> None:
        if provider not in PROVIDERS:
            raise InputError(f"provider {provider!r} is unknown; choose {', '.join(PROVIDERS)}")
        try:
            check_provider(provider)
        except ProviderError as error:
            raise ProviderError(
                f"provider {provider!r} cannot run {path.name}: {error}; choose another provider or auto"
            ) from error
        self.provider = provider
        self._path = path
        self._process = os.getpid()
        self._session = _load(path, provider, threads, fp16, dict(options or {}))
        bind(self._session)
        self.placement = _placement(self._session, provider)
        running = self._session.get_providers()[0]
        if running != PROVIDERS[provider] or (self.placement and PROVIDERS[provider] not in self.placement):
            raise ProviderError(
                f"provider {provider!r} does not run {path.name}: onnxruntime chose {running} ({self.placement})"
                "; choose another provider or auto"
            )
        if beside := self.placement.get(PROVIDERS["cpu"]):
            _LOG.info("%s: %d of its %d nodes run on the CPU", path, beside, sum(self.placement.values()))
        self.outputs: Sequence[str] = [output.name for output in self._session.get_outputs()]
        tensors = [*self._session.get_inputs(), *self._session.get_outputs()]
        self._axes = {tensor.name: batch_axis(tensor.shape) for tensor in tensors}
        self.device: Device = Host() if provider == "cpu" else cuda_or_host()

    def run(
        self,
        inputs: Mapping[str, Array | Tensor],
        outputs: Sequence[str] | None = None,
        into: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Array]:
        """See `Session`."""
        if self._session is None:
            raise closed(str(self._path))
        check_process(self._process, str(self._path))
        kept = into or {}
        names = [name for name in self.outputs if name not in kept] if outputs is None else list(outputs)
        bound = bool(kept) or any(isinstance(value, Tensor) for value in inputs.values())

        def once(inputs: Values, into: Into) -> dict[str, Array]:
            try:
                return self._bound(inputs, names, into) if bound else self._plain(inputs, names)
            except RarError:
                raise
            except Exception as error:  # ONNX Runtime raises a family of unrelated types
                raise _translated(error, self._path, self.provider, "run") from error

        return run_or_halve(once, inputs, kept, self._axes, self._path.name)

    def close(self) -> None:
        """See `Session`."""
        self._session = None

    def _plain(self, inputs: Values, names: Sequence[str]) -> dict[str, Array]:
        return dict(zip(names, self._session.run(names, dict(inputs)), strict=True))

    def _bound(self, inputs: Values, names: Sequence[str], into: Into) -> dict[str, Array]:
        binding = self._session.io_binding()
        for name, value in inputs.items():
            if isinstance(value, Tensor):
                binding.bind_input(name, self.device.kind, 0, value.dtype.type, value.shape, value.address)
            else:
                binding.bind_cpu_input(name, np.ascontiguousarray(value))
        for name in names:
            binding.bind_output(name)
        for name, value in into.items():
            binding.bind_output(name, self.device.kind, 0, value.dtype.type, value.shape, value.address)
        self._session.run_with_iobinding(binding)
        return {name: value.numpy() for name, value in zip(names, binding.get_outputs(), strict=False)}


def session_options(threads: int | None = None) -> Any:
    """The options that every session of this package starts from: an `onnxruntime.SessionOptions`.

    Args:
        threads: Threads within an operator; None for one a core that this process may use.
    """
    import onnxruntime as ort  # not at the top: the package must import without ONNX Runtime, for the tools alone

    settings = ort.SessionOptions()
    settings.log_severity_level = 3
    if threads is None and (usable := usable_cores()) < (os.cpu_count() or 1):
        threads = usable  # by default ONNX Runtime takes one thread per core of the machine and pins it there
    if threads is not None:
        settings.intra_op_num_threads = threads
    # x86 without VNNI adds two products of uint8 and int8 in 16 bits with saturation, so results differ from all other
    # processors. This option makes ONNX Runtime multiply by uint8, which accumulates in 32 bits. With VNNI nothing
    # saturates, and the option would only keep ONNX Runtime from using it: int8 took 2.4 times as long.
    if not any(name in VNNI for name in instruction_sets()):
        settings.add_session_config_entry("session.x64quantprecision", "1")
    return settings


def _load(path: Path, provider: str, threads: int | None, fp16: bool, options: dict[str, str]) -> Any:
    import onnxruntime as ort  # as above

    settings = session_options(threads)
    # Planning which buffer serves which values is quadratic in the nodes where shapes are symbols: four fifths of the
    # time that a language model of 30 layers took to load. Without it each buffer still goes back to the arena when its
    # value was last used; neither time nor memory of a run was any higher.
    settings.enable_mem_reuse = False
    entries = {name: options.pop(name) for name in list(options) if "." in name}
    source = path
    if entries.get("ep.context_enable") == "1" and "ep.context_file_path" in entries:
        compiled = Path(entries["ep.context_file_path"])
        if compiled.is_file():
            source = compiled
            del entries["ep.context_enable"], entries["ep.context_file_path"]
        else:
            compiled.parent.mkdir(parents=True, exist_ok=True)
    if provider != "cpu":
        entries.setdefault("session.record_ep_graph_assignment_info", "1")
    for name, value in entries.items():
        settings.add_session_config_entry(name, value)
    for folder in (value for name, value in options.items() if name.endswith("_cache_path")):
        Path(folder).mkdir(parents=True, exist_ok=True)
    chain = [(PROVIDERS[provider], options)]
    if provider == "tensorrt":  # the same GPU, for nodes that TensorRT does not support
        chain.append((PROVIDERS["cuda"], {}))
    arguments: dict[str, Any] = {"providers": chain}
    if provider == "tensorrt-rtx":
        settings.add_provider_for_devices(plugin_devices()[:1], options)
        arguments = {}
    try:
        # fp16: it crashes on the casts that such graphs need on a CPU (microsoft/onnxruntime#28392).
        with utf8_path(source) as name:
            session = ort.InferenceSession(
                name,
                settings,
                disabled_optimizers=["NchwcTransformer"] if fp16 else None,
                enable_fallback=0,
                **arguments,
            )
    except Exception as error:  # a family of unrelated types
        raise _translated(error, source, provider, "load") from error
    session.disable_fallback()
    return session


def _translated(error: Exception, path: Path, provider: str, doing: str) -> RarError:
    """Translates ONNX Runtime's exception: the device is out of memory, the device failed, or the graph is wrong."""
    text = str(error)
    if isinstance(error, MemoryError) or any(sign in text for sign in _NO_MEMORY):
        return OutOfMemoryError(f"{path}: {provider} has not the memory to {doing} it ({text}); give smaller batches")
    wrong = type(error).__name__ in ("InvalidProtobuf", "InvalidGraph", "NoSuchFile", "InvalidArgument")
    if provider != "cpu" and (not wrong or any(sign in text for sign in _DEVICE_FAILED)):
        hint = "; this build has no code for this GPU, install one that has" if "no kernel image" in text else ""
        return ProviderError(f"{path}: {provider} cannot {doing} it ({text}){hint}")
    return BundleError(f"{path}: ONNX Runtime cannot {doing} it ({text}); export it again")


def _placement(session: Any, provider: str) -> Mapping[str, int]:
    if provider == "cpu" or not hasattr(session, "get_provider_graph_assignment_info"):
        return {}
    return Counter(part.ep_name for part in session.get_provider_graph_assignment_info() for _ in part.get_nodes())
