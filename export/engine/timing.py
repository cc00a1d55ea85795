"""TensorRT's timing cache as a file: what kernels took on this GPU, so that the next build need not try them again.

The file begins with a line that says whose it is; TensorRT would only say that it does not fit.
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict
from pathlib import Path

from rar.runtime.bundle.files import atomic_file
from rar.runtime.errors import InputError
from rar.runtime.session.onnxruntime.options import cache_folder
from rar.runtime.session.tensorrt.stored import Target

_log = logging.getLogger(__name__)


def timing_file(target: Target) -> Path:
    """Where the cache of a library on a GPU lies by default: it belongs to the machine, not to a bundle."""
    return cache_folder() / target.library / f"{target.arch}-{target.version}.timing"


def read_timing(path: Path, target: Target) -> bytes:
    """A cache's content; empty, with a warning, where there is none that fits.

    Raises:
        InputError: The file is there and cannot be read.
    """
    try:
        head, _, content = path.read_bytes().partition(b"\n")
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); set RAR_CACHE to another folder") from error
    try:
        owner = json.loads(head)
    except (ValueError, RecursionError):
        owner = None
    if owner != asdict(target):
        whose = f"of {Target(**owner)}" if isinstance(owner, dict) and owner.keys() == asdict(target).keys() else "none"
        _log.warning("%s: is a timing cache %s, not of %s; starting a new one", path, whose, target)
        return b""
    return content


def write_timing(path: Path, target: Target, content: bytes) -> None:
    """Replaces a cache.

    Raises:
        InputError: It cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as file:
            file.write(json.dumps(asdict(target)).encode() + b"\n" + content)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); set RAR_CACHE to another folder") from error
