"""Tiny random multimodal LLMs (`rar.benchmarks.families.models`), and what they are exported to.

A plugin of pytest (`conftest.py`): fixtures that several test folders use.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from rar.benchmarks.families.models import LLAMA, WRITERS, byte_level, corpus, sentencepiece_like, write_llava
from rar.runtime.errors import InputError

__all__ = ["LLAMA", "WRITERS", "Exported", "byte_level", "corpus", "sentencepiece_like", "write_llava"]


@pytest.fixture(scope="session")
def tiny_mllm_folder(pytorch: None, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Writes one of `WRITERS` at its first use. Shared: copy a folder before writing."""
    folder = tmp_path_factory.mktemp("mllms")
    made: dict[str, Path] = {}

    def write(name: str) -> Path:
        if name not in made:
            (folder / name).mkdir(exist_ok=True)  # it is there where a test was skipped
            try:
                made[name] = WRITERS[name](folder / name)
            except InputError as error:
                pytest.skip(str(error))
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
