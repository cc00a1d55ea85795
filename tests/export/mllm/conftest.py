"""Each tiny model exported once at fp32, with the graphs in ONNX Runtime and the model in transformers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_mllm
import torch

from rar.export.mllm.compare import Graphs
from rar.export.mllm.model import Mllm
from rar.export.mllm.prompt import prompt_settings, read_prompt
from rar.runtime.rank.mllm.prompt import Prompt
from rar.runtime.rank.mllm.tree import PICTURE

ARCHITECTURES = list(tiny_mllm.WRITERS)


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
        # Qwen knows a picture by the token before it.
        shown = [*prompt.picture("choice"), *prompt.text(["\n"])[0], *head[-1:]] * pictures
        return np.array([*head, *shown, *prompt.tail("choice", names)])

    def reference(self, rows: np.ndarray[Any, Any], pixels: np.ndarray[Any, Any]) -> dict[str, Any]:
        """The inputs of transformers for rows of equal length."""
        ids = torch.from_numpy(np.where(rows == PICTURE, self.mllm.image_token, rows))
        return dict(self.mllm.reference_inputs(ids, torch.from_numpy(pixels)))


_opened: dict[str, Exported] = {}


def exported(name: str, export: Callable[[str], tiny_mllm.Exported]) -> Exported:
    """Exports a model and opens its graphs at its first use."""
    if name not in _opened:
        made = export(name)
        prompt = read_prompt(prompt_settings(made.mllm), made.mllm.tokenizer)
        graphs = Graphs.open(made.bundle / "mllm", made.mllm.form)
        _opened[name] = Exported(made.mllm, made.bundle, made.info, graphs, prompt)
    return _opened[name]


@pytest.fixture(params=ARCHITECTURES)
def model(request: pytest.FixtureRequest, exported_mllm: Callable[[str], tiny_mllm.Exported]) -> Exported:
    """Each architecture in turn. Shared: change nothing."""
    return exported(request.param, exported_mllm)


@pytest.fixture
def llava(exported_mllm: Callable[[str], tiny_mllm.Exported]) -> Exported:
    """LLaVA alone. Shared: change nothing."""
    return exported("llava", exported_mllm)
