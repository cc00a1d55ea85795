"""Loads an engine from its file, with TensorRT's own words where it refuses."""

from __future__ import annotations

import logging
import mmap
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import OutOfMemoryError, ProviderError
from .library import Library

if TYPE_CHECKING:
    import tensorrt

_LOG = logging.getLogger("rar")


def deserialize(path: Path, library: Library, log: Log) -> tensorrt.ICudaEngine:
    """Loads an engine.

    Args:
        path: The engine.
        library: What built it.
        log: Its log.

    Raises:
        ProviderError: TensorRT refuses it; the message is TensorRT's.
        OutOfMemoryError: The GPU has not the memory for it.
    """
    runtime: tensorrt.Runtime = library.module.Runtime(log.logger)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        engine: tensorrt.ICudaEngine | None = runtime.deserialize_cuda_engine(content)
    if engine is None:
        raise explained(f"{path}: {library.name} {library.version} cannot load this engine", log.take())
    return engine


class Log:
    """Keeps what TensorRT logs as errors, since its calls only say that they failed.

    Args:
        library: Whose log.

    Attributes:
        logger: To be given to it.
    """

    def __init__(self, library: Library) -> None:
        base: Any = library.module.ILogger
        errors: deque[str] = deque(maxlen=8)

        class Logger(base):  # type: ignore[misc]
            def __init__(self) -> None:
                super().__init__()

            def log(self, severity: Any, message: str) -> None:
                _LOG.debug("%s: %s", library.name, message)
                if int(severity) <= int(base.Severity.ERROR):
                    errors.append(message)

        self._errors = errors
        self.logger: tensorrt.ILogger = Logger()

    def take(self) -> list[str]:
        """The last errors, which are forgotten then."""
        errors = list(self._errors)
        self._errors.clear()
        return errors


def explained(what: str, lines: Sequence[str]) -> ProviderError:
    """What failed and what TensorRT said about it, as the error that it is."""
    text = "; ".join(lines) or "TensorRT gave no reason"
    if "out of memory" in text.lower() or "OutOfMemory" in text or "cudaError 2:" in text:
        return OutOfMemoryError(
            f"{what}: the GPU has not the memory for it ({text})"
            "; close what else uses the GPU, or build engines of smaller batches"
        )
    if "cudaError 35" in text or "driver version is insufficient" in text:
        return ProviderError(
            f"{what}: there is no NVIDIA driver, or it is too old for this TensorRT ({text}); see `nvidia-smi`"
        )
    if "Serialization" in text or "magicTag" in text:
        return ProviderError(f"{what}: it was built by another version, or is damaged; build it again ({text})")
    return ProviderError(f"{what} ({text})")
