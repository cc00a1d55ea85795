"""What one random MLLM costs: written, exported and asked, each in a process of its own."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any, Literal, TypeAlias

import numpy as np

from rar.export.mllm.model import GRAPHS
from rar.runtime.bundle.files import write_json
from rar.runtime.bundle.manifest import Bundle
from rar.runtime.errors import InputError
from rar.runtime.memory import Candidate
from rar.runtime.picture.load import load_image
from rar.runtime.rank.mllm.model import Mllm
from rar.runtime.rank.mllm.ranker import MllmOptions, MllmRanker
from rar.runtime.rank.protocol import Query
from rar.runtime.session import Sessions
from rar.runtime.stages import in_stage, recorded

from .. import record
from ..made import made, watched
from ..process import in_a_process
from ..usage import memory
from .models import WRITERS, Shape

Precision: TypeAlias = Literal["fp32", "int8", "int4"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "int8", "int4")
# Of one fine-grained question.
NAMES = ("Granny Smith", "Golden Delicious", "Pink Lady", "Royal Gala", "Red Delicious")
_WARM = 2  # rankings before those that count
_BUNDLE, _EXPORT = "bundle", "export.json"


@dataclass(frozen=True)
class Asked:
    """How a ranking is measured.

    Attributes:
        image: The photo.
        rounds: Rankings that count.
        threads: Of the sessions and the picture's preparation.
    """

    image: Path
    rounds: int
    threads: int


@dataclass(frozen=True)
class _Alone:
    """Stands where the encoder does: these models see pictures by themselves."""

    sessions: Sessions
    has_features: bool = False


def write(family: str, shape: Shape | None, folder: Path, spare: int) -> Path:
    """Writes a random model; `shape` is None for the tiny one.

    Raises:
        RarError: transformers has no such family, or its process ended.
    """
    made(folder, {}, partial(_write, family, shape), spare)
    return folder


def measure(model: Path, precision: Precision, folder: Path, asked: Asked, spare: int) -> dict[str, Any]:
    """Exports a model and ranks with it.

    Args:
        model: Its folder.
        precision: What it is exported to.
        folder: Where the bundle goes.
        asked: How the ranking is measured.
        spare: See `made`.

    Returns:
        `parameters`; `export` with `seconds` from the command's first import on, its `stages`, and `peak_bytes`;
        `graph_bytes`; `rank` with the `seconds` of one ranking.

    Raises:
        RarError: The export failed, or a process ended.
    """
    cost = made(folder, {}, partial(_export, model, precision), spare)
    told = json.loads((folder / _EXPORT).read_text(encoding="utf-8"))
    files = Bundle.open(folder / _BUNDLE).components["mllm"].files
    sizes = {
        name: sum(file.bytes for path, file in files.items() if path.startswith(f"{name}.onnx")) for name in GRAPHS
    }
    with ExitStack() as stack:
        ask = stack.enter_context(in_a_process(partial(_open, folder / _BUNDLE, asked)))
        stack.enter_context(watched(ask("process"), spare))
        for _ in range(_WARM):
            ask("rank")
        seconds = [ask("rank") for _ in range(asked.rounds)]
        about = ask("about")
    return {
        "parameters": told["parameters"],
        "export": {**cost, "stages": told["stages"]},
        "parity": told["parity"],
        "graph_bytes": {**sizes, "all": sum(sizes.values())},
        "rank": {"seconds": record.spread(seconds), "threads": asked.threads, **about},
    }


def _write(family: str, shape: Shape | None, folder: Path) -> None:
    WRITERS[family](folder, *([] if shape is None else [shape]))


def _export(model: Path, precision: Precision, folder: Path) -> None:
    """What `rar-export mllm` does, stage by stage."""
    with recorded() as seconds:
        with in_stage("import"):
            from rar.export.mllm import export, source
        with in_stage("load"):
            mllm = source.load(str(model))
        info = export.export_mllm(mllm, folder / _BUNDLE, precision)
    parameters = sum(weight.numel() for weight in mllm.reference.parameters())
    write_json(folder / _EXPORT, {"stages": seconds, "parameters": parameters, "parity": info["parity"]["logits"]})


def _open(bundle: Path, asked: Asked) -> Callable[[str], Any]:
    """Opens a bundle's MLLM in this process, without PyTorch."""
    opened = Bundle.open(bundle)
    mllm = Mllm(opened, _Alone(Sessions(opened, "cpu", asked.threads)), asked.threads)
    ranker = MllmRanker(mllm, MllmOptions("likelihood"))
    query = Query(load_image(asked.image), np.empty(0, np.float32), [Candidate(name, 0.5) for name in NAMES])
    prompt = mllm.prompt

    def rank() -> float:
        start = perf_counter()
        (ranking,) = ranker.rank([query])
        seconds = perf_counter() - start
        if ranking.fallback:
            raise InputError(f"{bundle}: the prompt does not fit the model's context")
        return seconds

    def about() -> dict[str, Any]:
        picture = prompt.picture("likelihood")
        asked = [*prompt.head("likelihood"), *picture, *prompt.tail("likelihood", NAMES)]
        return {
            "peak_bytes": memory().peak,
            "tokens": {
                "prompt": len(asked),
                "picture": len(picture),
                "names": sum(map(len, prompt.text([f" {name}" for name in NAMES]))),
            },
        }

    def serve(task: str) -> Any:
        return os.getpid() if task == "process" else rank() if task == "rank" else about()

    return serve
