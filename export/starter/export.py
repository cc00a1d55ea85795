"""The default bundle, from models that install as Python packages: no model hub, no account, offline, no PyTorch."""

from __future__ import annotations

import json
import os

from rar.runtime.bundle.change import annotate
from rar.runtime.bundle.manifest import Bundle
from rar.runtime.errors import ExportError

from ..memory.build import MemorySource, build_memory
from ..mllm.quantize import Precision
from . import packages
from .classes import imagenet_classes
from .encoder import export_encoder
from .ranker import export_ranker


def export_starter(out: str | os.PathLike[str], precision: Precision = "int8") -> None:
    """Builds the starter bundle: encoder, MLLM, and a memory of the 1,000 ImageNet names with their definitions.

    Args:
        out: The bundle's folder; must not hold an encoder yet.
        precision: Precision of encoder and MLLM; with `int4` the encoder is int8.

    Raises:
        ExportError: A package of the `starter` extra or of `packages.txt` is missing, or the export fails.
    """
    tensors = packages.Tensors()
    tensors.check()  # first: if a package is missing, nothing must be written
    try:
        export_encoder(out, "int8" if precision == "int4" else precision, tensors)
        export_ranker(out, precision, tensors)
    except OSError as error:
        raise ExportError(f"{out}: cannot be written ({error.strerror or error}); make room and try again") from error
    remember_names(out)
    # The fusion weight that was fitted for this memory with the shipped adapter.
    stored = json.loads((packages.ADAPTER / "tune.json").read_text(encoding="utf-8"))
    annotate(out, "memory", rank=stored.pop("default"), tune=stored)


def remember_names(out: str | os.PathLike[str]) -> None:
    """Writes the starter's memory into its bundle: the 1,000 ImageNet names with their definitions."""
    names, definitions = imagenet_classes()
    descriptions = {name: [f"{name}: {text}"] for name, text in zip(names, definitions, strict=True)}
    build_memory(Bundle.open(out), MemorySource(classes=names, descriptions=descriptions), provider="cpu")
