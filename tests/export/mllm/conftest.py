"""Each tiny model exported once at fp32, with the graphs in ONNX Runtime and the model in transformers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rar.export.mllm.export import export_mllm
from rar.export.mllm.model import Mllm
from rar.export.mllm.parity import Graphs
from rar.export.mllm.prompt import prompt_settings, read_prompt
from rar.export.mllm.source import load
from rar.runtime.mllm.prompt import Prompt
from rar.runtime.mllm.tree import PICTURE

ARCHITECTURES = ["llava", "smolvlm", "qwen25vl", "internvl"]


@dataclass(frozen=True)
class Exported:
    """A model, its bundle and its graphs."""

    mllm: Mllm
    bundle: Path
    info: dict[str, Any]
    graphs: Graphs
    prompt: Prompt

    def pictures(self, count: int, seed: int = 0) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Seeded noise: float32 [count, *vision_shape]."""
        return np.random.default_rng(seed).standard_normal((count, *self.mllm.vision_shape), np.float32)

    def ids(self, pictures: int = 1, names: tuple[str, ...] = ("apple", "pear")) -> np.ndarray[Any, np.dtype[np.int64]]:
        """A prompt whose picture stands in it `pictures` times: int64 [L]."""
        prompt = self.prompt
        head = prompt.head("choice")
        # Qwen2.5-VL knows a picture by the token before it.
        shown = [*prompt.picture("choice"), *prompt.text(["\n"])[0], *head[-1:]] * pictures
        return np.array([*head, *shown, *prompt.tail("choice", names)])

    def reference(self, rows: np.ndarray[Any, Any], pixels: np.ndarray[Any, Any]) -> dict[str, Any]:
        """The inputs of transformers for rows of equal length."""
        ids = torch.from_numpy(np.where(rows == PICTURE, self.mllm.image_token, rows))
        return dict(self.mllm.reference_inputs(ids, torch.from_numpy(pixels)))


_made: dict[str, Exported] = {}


def exported(name: str, request: pytest.FixtureRequest, folder: Path) -> Exported:
    """Exports a model at its first use."""
    if name not in _made:
        mllm = load(str(request.getfixturevalue(f"tiny_{name}")))
        info = export_mllm(mllm, folder / name)
        prompt = read_prompt(prompt_settings(mllm), mllm.tokenizer)
        _made[name] = Exported(mllm, folder / name, info, Graphs(folder / name / "mllm", mllm), prompt)
    return _made[name]


@pytest.fixture(scope="session")
def mllm_bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the bundles lie."""
    return tmp_path_factory.mktemp("mllm-bundles")


@pytest.fixture(params=ARCHITECTURES)
def model(request: pytest.FixtureRequest, mllm_bundles: Path) -> Exported:
    """Each architecture in turn. Shared: change nothing."""
    return exported(request.param, request, mllm_bundles)


@pytest.fixture
def llava(request: pytest.FixtureRequest, mllm_bundles: Path) -> Exported:
    """LLaVA alone. Shared: change nothing."""
    return exported("llava", request, mllm_bundles)
