"""Tiny random multimodal LLMs in the layout that people have on disk, each with a tokenizer trained on the spot.

A plugin of pytest (`conftest.py`): fixtures that several test folders use.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from .fastvlm import write_fastvlm
from .gemma import write_gemma3
from .internvl import write_internvl, write_internvl35
from .lfm2vl import write_lfm2vl
from .llava import write_llava, write_llava_onevision, write_llava_siglip
from .parts import LLAMA, byte_level, corpus, sentencepiece_like
from .qwen import write_qwen3vl, write_qwen25vl
from .smolvlm import write_smolvlm, write_smolvlm2

__all__ = ["LLAMA", "WRITERS", "Exported", "byte_level", "corpus", "sentencepiece_like", "write_llava"]

WRITERS: Mapping[str, Callable[[Path], Path]] = {
    "llava": write_llava,
    "llava_siglip": write_llava_siglip,
    "llava_onevision": write_llava_onevision,
    "fastvlm": write_fastvlm,
    "smolvlm": write_smolvlm,
    "smolvlm2": write_smolvlm2,
    "qwen25vl": write_qwen25vl,
    "qwen3vl": write_qwen3vl,
    "gemma3": write_gemma3,
    "internvl": write_internvl,
    "internvl35": write_internvl35,
    "lfm2vl": write_lfm2vl,
}


@pytest.fixture(scope="session")
def tiny_mllm_folder(pytorch: None, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Writes one of `WRITERS` at its first use. Shared: copy a folder before writing."""
    folder = tmp_path_factory.mktemp("mllms")
    made: dict[str, Path] = {}

    def write(name: str) -> Path:
        if name not in made:
            (folder / name).mkdir(exist_ok=True)  # it is there where a writer has skipped a test
            made[name] = WRITERS[name](folder / name)
        return made[name]

    return write


@pytest.fixture(scope="session")
def tiny_llava(tiny_mllm_folder: Callable[[str], Path]) -> Path:
    """A model folder. Shared: copy it before writing."""
    return tiny_mllm_folder("llava")


@pytest.fixture(scope="session")
def tiny_smolvlm(tiny_mllm_folder: Callable[[str], Path]) -> Path:
    """A model folder. Shared: copy it before writing."""
    return tiny_mllm_folder("smolvlm")


@pytest.fixture(scope="session")
def tiny_qwen25vl(tiny_mllm_folder: Callable[[str], Path]) -> Path:
    """A model folder. Shared: copy it before writing."""
    return tiny_mllm_folder("qwen25vl")


@pytest.fixture(scope="session")
def tiny_internvl(tiny_mllm_folder: Callable[[str], Path]) -> Path:
    """A model folder. Shared: copy it before writing."""
    return tiny_mllm_folder("internvl")


@dataclass(frozen=True)
class Exported:
    """A model (`rar.export.mllm.model.Mllm`), the fp32 bundle it was exported to, and what its manifest says."""

    mllm: Any
    bundle: Path
    info: dict[str, Any]


@pytest.fixture(scope="session")
def exported_mllm(
    tiny_mllm_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Exported]:
    """Exports an architecture at its first use. Shared: copy a bundle before writing."""
    folder = tmp_path_factory.mktemp("mllm-bundles")
    made: dict[str, Exported] = {}

    def export(name: str) -> Exported:
        from rar.export.mllm.export import export_mllm
        from rar.export.mllm.source import load

        if name not in made:
            mllm = load(str(tiny_mllm_folder(name)))
            made[name] = Exported(mllm, folder / name, export_mllm(mllm, folder / name))
        return made[name]

    return export
