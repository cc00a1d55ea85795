"""Finds TensorRT or TensorRT-RTX: one Python API, two modules."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

from ...errors import ProviderError

_INSTALL = {
    "tensorrt": "on a Jetson it comes with JetPack; elsewhere from NVIDIA's own package index",
    "tensorrt_rtx": "pip install 'rar-runtime[tensorrt]'",
}
# Major versions whose Python API this package was written for. 10 is JetPack 6's.
_MAJORS = {"tensorrt": (10, 11), "tensorrt_rtx": (1,)}


@dataclass(frozen=True)
class Library:
    """An imported TensorRT.

    Attributes:
        name: `tensorrt` or `tensorrt_rtx`.
        version: Its `__version__`.
        module: The module. `import tensorrt` under TYPE_CHECKING gives it types.
    """

    name: str
    version: str
    module: Any


def load_library(name: str) -> Library:
    """Imports a TensorRT.

    Args:
        name: One of `engines.LIBRARIES`.

    Raises:
        ProviderError: It is not installed, not whole, or of a major version that is not known here.
    """
    try:
        module = importlib.import_module(name)
        version = str(module.__version__)  # an empty folder, or one of type stubs alone, imports too
        major = int(version.split(".")[0])
    except (ImportError, OSError, AttributeError, ValueError) as error:
        raise ProviderError(f"{name} is not installed, or not whole ({error}); {_INSTALL[name]}") from error
    if major not in _MAJORS[name]:
        known = " or ".join(map(str, _MAJORS[name]))
        raise ProviderError(f"{name} {version} is installed, but this release works with {known}.x; install that")
    return Library(name, version, module)
