"""Which library builds for which GPU, and where."""

from __future__ import annotations

from rar.runtime.errors import ExportError, InputError, ProviderError
from rar.runtime.session.cuda.gpu import find_gpu
from rar.runtime.session.tensorrt.library import Library, load_library
from rar.runtime.session.tensorrt.stored import LIBRARIES, Target

# What TensorRT-RTX builds for ahead of time, on machines without a GPU too.
RTX_ARCHS = ("sm75", "sm80", "sm86", "sm89", "sm120", "sm121")
# Least compute capability for a precision (TensorRT-RTX's support matrix; its builder adds that Turing has no fp32
# products there).
_LEAST = {"fp32": 80, "fp16": 75, "int8": 80, "fp8": 89}


def choose(arch: str | None = None, library: str | None = None) -> tuple[Library, Target]:
    """Loads the library that builds for an architecture.

    Args:
        arch: Such as `sm89`; by default that of the GPU of this machine.
        library: One of `LIBRARIES`; by default TensorRT-RTX for the cards it knows, TensorRT for all others.

    Raises:
        InputError: No such library, or no compute capability.
        ExportError: The library does not build for the architecture, or not here; says what does.
        ProviderError: The library is not installed, or no architecture is given and there is no GPU.
    """
    if arch is None:
        arch = find_gpu().arch
    if not (arch.startswith("sm") and arch[2:].isdecimal()):
        raise InputError(f"target {arch!r} is no architecture; write the GPU's compute capability as sm89 for 8.9")
    name = library or ("tensorrt_rtx" if arch in RTX_ARCHS else "tensorrt")
    if name not in LIBRARIES:
        raise InputError(f"library {name!r} is unknown; choose {' or '.join(LIBRARIES)}")
    if name == "tensorrt_rtx" and arch not in RTX_ARCHS:
        raise ExportError(
            f"TensorRT-RTX is for RTX cards and builds for {', '.join(RTX_ARCHS)}, not for {arch}: data-centre GPUs "
            "(sm90, sm100) and Jetsons (sm87, sm110) take --library tensorrt, which builds on the device itself"
        )
    if name == "tensorrt":
        _check_here(arch)
    loaded = load_library(name)
    return loaded, Target(name, loaded.version, arch)


def _check_here(arch: str) -> None:
    """Whether this is the target: TensorRT tries its kernels on the GPU it builds for."""
    try:
        gpu = find_gpu()
    except ProviderError as error:
        here = str(error)
    else:
        if gpu.arch == arch:
            return
        here = f"a {gpu.name}, {gpu.arch}"
    raise ExportError(
        f"TensorRT builds for {arch} on a machine with such a GPU only, and here is {here} (TensorRT-RTX builds "
        f"anywhere, for {', '.join(RTX_ARCHS)})"
    )


def check_precision(target: Target, precision: str) -> None:
    """Refuses a precision that an architecture does not compute with.

    Raises:
        ExportError: So it is.
    """
    least = 75 if precision == "fp32" and target.library == "tensorrt" else _LEAST[precision]
    if int(target.arch[2:]) < least:
        raise ExportError(
            f"{target.library} computes with {precision} from sm{least} on, not on {target.arch}; use fp16"
        )
