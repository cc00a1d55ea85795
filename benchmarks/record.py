"""What every result file shares: the machine it ran on, spreads, and the file itself with its format and command."""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
from collections.abc import Sequence
from contextvars import ContextVar
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from rar.export.pictures.rows import read_text
from rar.runtime.bundle.files import write_json
from rar.runtime.bundle.manifest import Bundle
from rar.runtime.encoder.info import EncoderInfo
from rar.runtime.errors import InputError
from rar.runtime.machine.cores import usable_cores
from rar.runtime.machine.cpu import instruction_sets

_PACKAGES = (
    "rar-runtime", "numpy", "pillow", "onnxruntime", "onnxruntime-gpu", "usearch", "tokenizers", "torch", "torchvision",
    "open_clip_torch", "transformers", "faiss-cpu", "hnswlib", "openvino",
)  # fmt: skip

# Of result files; a change that older readers would misread raises it.
FORMAT = 1

# Load average above which others slow what is measured.
BUSY = 0.5

# The words after `rar-bench` of the command that runs; `cli` sets them.
command: ContextVar[Sequence[str]] = ContextVar("command", default=tuple(sys.argv[1:]))


def environment(threads: int | None = None) -> dict[str, Any]:
    """Processor, the instruction sets that the figures hold for, cores, threads and versions."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "cpu": _cpu(),
        "instruction_sets": list(instruction_sets()),
        "cores": os.cpu_count(),
        "threads": threads or usable_cores(),
        "python": platform.python_version(),
        "versions": versions,
    }


def encoder(bundle: Bundle, provider: str) -> dict[str, Any]:
    """Which encoder a figure was measured with, and on what."""
    component, info = bundle.component("clip"), EncoderInfo.of(bundle)
    return {
        "source": info.source,
        "precision": info.precision,
        "scheme": component.info["scheme"]["visual"],
        "provider": provider,
        "fingerprint": component.fingerprint,
    }


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, quartiles and count of repeated measurements."""
    low, median, high = np.percentile(values, [25, 50, 75])
    return {"median": float(median), "q25": float(low), "q75": float(high), "count": len(values)}


def share(hits: np.ndarray[Any, np.dtype[np.bool_]]) -> dict[str, float]:
    """A percentage with its standard error (binomial) and sample count."""
    mean = float(hits.mean())
    return {
        "percent": 100 * mean,
        "standard_error": 100 * float(np.sqrt(mean * (1 - mean) / len(hits))),
        "count": len(hits),
    }


def write(result: dict[str, Any], out: str | None) -> None:
    """Writes the result file, with its format, its benchmark and the command that made it, if one is asked for."""
    if out is None:
        return
    path = Path(out)
    path.parent.mkdir(parents=True, exist_ok=True)
    words = command.get()
    head = {"format": FORMAT, "benchmark": words[0] if words else None, "command": shlex.join(["rar-bench", *words])}
    write_json(path, {**head, **result})


def read(path: str | Path) -> dict[str, Any]:
    """A result file's content, `benchmark` always in it.

    Raises:
        InputError: It is missing, not one, or of another format version.
    """
    path = Path(path)
    text = read_text(path)
    try:
        result = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not a result file ({error}); measure again") from error
    if not isinstance(result, dict) or not isinstance(result.get("environment"), dict):
        raise InputError(f"{path}: not a result file of rar-bench; give what its --out wrote")
    form = result.get("format", FORMAT)  # files of 0.1.0's first days name none
    if form != FORMAT:
        raise InputError(f"{path}: is of format {form!r}, this release reads {FORMAT}; use the release that wrote it")
    words = str(result.get("command", "")).split()
    name = result.get("benchmark") or (words[1] if words[:1] == ["rar-bench"] and len(words) > 1 else None)
    if not isinstance(name, str):
        raise InputError(f"{path}: does not say what was measured; give what the --out of rar-bench wrote")
    return {**result, "benchmark": name}


def load() -> float:
    """The load average of the last minute; 0 if the system does not report it."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0


def cpuinfo(key: str) -> list[str] | None:
    """What the system tells of each core under a key; None where it tells nothing of any."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return [line.split(":", 1)[1].strip() for line in lines if line.startswith(key)]


def _cpu() -> str:
    names = cpuinfo("model name")
    return platform.processor() if names is None else next(iter(names), platform.machine())
