"""One ONNX graph to one engine, through the Python API that TensorRT 10, 11 and TensorRT-RTX share."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from rar.runtime.errors import ExportError
from rar.runtime.session.tensorrt.library import Library
from rar.runtime.session.tensorrt.stored import Profile

from .callbacks import Logger, make_logger, make_monitor

if TYPE_CHECKING:
    import tensorrt as trt

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Built:
    """An engine, and TensorRT's timing cache as it is after the build; empty with TensorRT-RTX, which has none."""

    engine: memoryview
    timing: bytes


def build(
    library: Library,
    arch: str,
    path: Path,
    profiles: Sequence[Profile],
    memory: int | None = None,
    timing: bytes = b"",
) -> Built:
    """Builds a strongly typed engine: the types are those of the graph.

    Args:
        library: TensorRT builds for the GPU at hand, TensorRT-RTX for any it knows and without one.
        arch: Such as `sm89`; `target.choose` has checked it.
        path: The graph, its weights beside it.
        profiles: The shapes to build for.
        memory: Bytes of scratch memory on the device that the engine may take; None for the library's own limit.
        timing: An earlier build's `Built.timing`.

    Raises:
        ExportError: The parser or the builder refuses the graph; with the library's own words and the node's name.
        KeyboardInterrupt: The build was stopped.
    """
    if TYPE_CHECKING:
        api = trt
    else:
        api = library.module
    logger = make_logger(library)
    try:
        builder = api.Builder(cast("trt.ILogger", logger))
    except (TypeError, RuntimeError) as error:  # what pybind11 makes of a null pointer
        raise ExportError(f"{library.name} cannot start: {_said(logger, error)}; look at nvidia-smi") from error
    # TensorRT 11 has no other networks and may drop the flag.
    typed = getattr(api.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if typed is None else 1 << int(typed))
    parser = api.OnnxParser(network, cast("trt.ILogger", logger))  # owns the weights until the engine is built
    if not parser.parse_from_file(str(path)):
        raise ExportError(
            f"{path.name}: TensorRT's parser refuses it: {_parser_errors(parser) or _said(logger)}"
            "; export the graph again, or use a newer TensorRT"
        )
    config = builder.create_builder_config()
    for profile in profiles:
        config.add_optimization_profile(_optimize(api, builder, network, profile, path))
    rtx = library.name == "tensorrt_rtx"
    if memory is not None:
        config.set_memory_pool_limit(api.MemoryPoolType.WORKSPACE, memory)
    if rtx:
        _aim(library, config, arch)
    cache = None if rtx else _attach_timing(config, timing)
    with make_monitor(library, path.name) as monitor:
        config.progress_monitor = cast("trt.IProgressMonitor", monitor)
        # None where it fails; the stubs do not say so.
        engine = cast("trt.IHostMemory | None", builder.build_serialized_network(network, config))
    if monitor.stopped:
        raise KeyboardInterrupt
    if engine is None:
        raise ExportError(
            f"{path.name}: {library.name} cannot build it for {arch}: {_said(logger)}"
            "; try another --library or --precision, see `rar-export engine --help`"
        )
    return Built(memoryview(cast(Any, engine)), bytes(cache.serialize()) if cache is not None else b"")


def _parser_errors(parser: trt.OnnxParser) -> str:
    errors = [parser.get_error(number) for number in range(parser.num_errors)]
    return "; ".join(
        f"{error.node_operator() or 'the graph'} {error.node_name()!r}: {error.desc()}" for error in errors[:3]
    )


def _said(logger: Logger, error: Exception | None = None) -> str:
    """Why a build failed: the first error names the cause, the others follow from it."""
    return logger.errors[0] if logger.errors else str(error or "the library does not say why")


def _optimize(
    api: Any, builder: trt.Builder, network: trt.INetworkDefinition, profile: Profile, path: Path
) -> trt.IOptimizationProfile:
    names = {network.get_input(number).name for number in range(network.num_inputs)}
    if names != profile.shapes.keys():
        raise ExportError(
            f"{path.name}: takes {', '.join(sorted(names))}, which is not what this package exports"
            "; export it again with this version"
        )
    made = builder.create_optimization_profile()
    for name, (low, best, high) in profile.shapes.items():
        made.set_shape(name, api.Dims(low), api.Dims(best), api.Dims(high))
    return made


def _aim(library: Library, config: Any, arch: str) -> None:
    """TensorRT-RTX alone builds for GPUs that are not there; the stubs do not know these two."""
    config.num_compute_capabilities = 1
    config.set_compute_capability(getattr(library.module.ComputeCapability, arch.upper()), 0)


def _attach_timing(config: Any, timing: bytes) -> Any:
    """The stubs know neither that bytes do nor that `set_timing_cache` answers."""
    cache = config.create_timing_cache(timing)
    if not config.set_timing_cache(cache, ignore_mismatch=False):
        _log.warning("the timing cache does not fit this TensorRT and GPU; starting a new one")
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, ignore_mismatch=False)
    return cache
