"""Writes a model of a Triton model repository; what the server runs of it is `rar.serving.triton`."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rar.runtime.bundle.files import fsync
from rar.runtime.bundle.manifest import Bundle
from rar.runtime.errors import InputError
from rar.runtime.machine.cores import usable_cores
from rar.runtime.memory import Memory
from rar.runtime.rank.rankers import RANKS
from rar.runtime.session import CHOICES

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_CODE = '''"""Made by `rar-export triton`."""

from rar.serving.triton import TritonPythonModel

__all__ = ["TritonPythonModel"]
'''
_CONFIG = """name: {name}
backend: "python"
max_batch_size: {batch}
input [
  {{ name: "IMAGE" data_type: TYPE_STRING dims: [ 1 ] }}
]
output [
  {{ name: "LABEL" data_type: TYPE_STRING dims: [ 1 ] }},
  {{ name: "SCORE" data_type: TYPE_FP32 dims: [ 1 ] }},
  {{ name: "PROBABILITY" data_type: TYPE_FP32 dims: [ 1 ] }},
  {{ name: "ERROR" data_type: TYPE_STRING dims: [ 1 ] }},
  {{ name: "RESULT" data_type: TYPE_STRING dims: [ 1 ] }}
]
dynamic_batching {{ max_queue_delay_microseconds: {delay_us} }}
instance_group [
  {{ count: {instances} kind: {kind} }}
]
parameters {{ key: "rar" value {{ string_value: {settings} }} }}
"""


@dataclass(frozen=True)
class Model:
    """What a model answers, and by how many processes.

    Attributes:
        bundle: The bundle's folder, where the server finds it too.
        k: Candidates a picture; None for 5, or all classes of fewer.
        rank: What orders them; None for the bundle's own choice.
        provider: See `Recognizer.open`.
        batch: Pictures at once, at most.
        delay_us: Microseconds that a batch waits for more pictures.
        instances: Processes; with `gpu` of each GPU.
        device: What an instance is for; `gpu` gives each one GPU.
        threads: Of each instance; None for its share of the cores of this machine.
    """

    bundle: str
    k: int | None = None
    rank: str | None = None
    provider: str = "auto"
    batch: int = 16
    delay_us: int = 0
    instances: int = 1
    device: Literal["cpu", "gpu"] = "cpu"
    threads: int | None = None


def write_model(repository: str | os.PathLike[str], name: str, model: Model) -> Path:
    """Writes a model, whole or not at all.

    Returns:
        The model's folder.

    Raises:
        BundleError: There is no bundle, or its memory is damaged.
        InputError: A setting is out of range, or the repository has a model of this name.
    """
    bundle = Bundle.open(model.bundle)
    Memory.open(bundle).check_k(model.k)
    if not _NAME.fullmatch(name):
        raise InputError(f"name {name!r}: give letters, digits, `_`, `-` and `.`")
    _check(model)
    folder = Path(repository).absolute() / name
    if folder.exists():
        raise InputError(f"{folder}: is there already; remove it, or give another --name")
    settings = {
        "bundle": str(bundle.root),
        "opened": {
            "provider": model.provider,
            "threads": model.threads or max(1, usable_cores() // model.instances),
        },
        "asked": {"k": model.k, "rank": model.rank},
    }
    config = _CONFIG.format(
        name=json.dumps(name),
        batch=model.batch,
        delay_us=model.delay_us,
        instances=model.instances,
        kind=f"KIND_{model.device.upper()}",
        settings=json.dumps(json.dumps(settings)),  # a text of protobuf is escaped as JSON's is
    )
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=folder.parent))
    try:
        (staging / "1").mkdir()
        (staging / "1" / "model.py").write_text(_CODE, encoding="utf-8")
        (staging / "config.pbtxt").write_text(config, encoding="utf-8")
        staging.chmod(0o755)  # mkdtemp makes it private; the server may be another user
        for path in (staging / "1" / "model.py", staging / "config.pbtxt", staging / "1", staging):
            fsync(path)
        staging.rename(folder)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    fsync(folder.parent)
    return folder


def _check(model: Model) -> None:
    if model.rank not in (None, *RANKS):
        raise InputError(f"rank {model.rank!r} is unknown; choose {', '.join(RANKS)}")
    if model.provider not in CHOICES:
        raise InputError(f"provider {model.provider!r} is unknown; choose {', '.join(CHOICES)}")
    for option, value, least in (
        ("batch", model.batch, 1),
        ("instances", model.instances, 1),
        ("threads", model.threads, 1),
        ("delay-us", model.delay_us, 0),
    ):
        if value is not None and value < least:
            raise InputError(f"--{option} {value}: give {least} or more")
