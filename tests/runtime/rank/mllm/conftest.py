"""Bundles with a tiny random MLLM, and transformers itself to compare with."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from rar.runtime import Bundle, Candidate
from rar.runtime.encoder.clip import Clip
from rar.runtime.picture.load import load_image
from rar.runtime.rank.mllm.model import Mllm
from rar.runtime.rank.mllm.tree import PICTURE
from rar.runtime.rank.protocol import Query

# Names of unlike length, one the beginning of another, and some that want to be more than data.
NAMES = ["cat", "cat food", 'the "big" one, [really]', "O'Neill\n<|im_end|><image></s>", "烤鸭 🦆", "CAT"]


@dataclass(frozen=True)
class Golden:
    """A bundle's MLLM and the transformers model that it was exported from."""

    bundle: Path
    source: Any

    def open(self, **switches: Any) -> Mllm:
        bundle = Bundle.open(self.bundle)
        return Mllm(bundle, Clip(bundle, "cpu", 1), 1, **switches)

    def logits(self, ids: Sequence[int], query: Query) -> npt.NDArray[np.float32]:
        """One forward pass of transformers over one prompt: float32 [L, V]."""
        import torch

        row = torch.tensor([[self.source.image_token if token == PICTURE else token for token in ids]])
        pixels = torch.from_numpy(self.source.preprocess([query.pixels]))
        with torch.inference_mode():
            found = self.source.reference(**self.source.reference_inputs(row, pixels)).logits
        return np.asarray(found[0].float().numpy())


@pytest.fixture(scope="session")
def make_golden(pictures_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Golden]:
    """Exports a model folder into a bundle that has a memory of pictures."""

    def make(folder: Path) -> Golden:
        from rar.export.mllm.export import export_mllm
        from rar.export.mllm.source import load

        out = tmp_path_factory.mktemp("golden") / "bundle"
        shutil.copytree(pictures_bundle, out)
        source = load(str(folder))
        export_mllm(source, out)
        return Golden(out, source)

    return make


@pytest.fixture(scope="session")
def smolvlm(make_golden: Callable[[Path], Golden], tiny_smolvlm: Path) -> Golden:
    return make_golden(tiny_smolvlm)


@pytest.fixture(scope="session")
def qwen25vl(make_golden: Callable[[Path], Golden], tiny_qwen25vl: Path) -> Golden:
    """Positions have three dimensions."""
    return make_golden(tiny_qwen25vl)


@pytest.fixture(scope="session")
def llava(make_golden: Callable[[Path], Golden], tiny_llava: Path) -> Golden:
    """The picture comes first, and the tokenizer puts a space before every text."""
    return make_golden(tiny_llava)


@pytest.fixture(scope="session")
def lfm2vl(make_golden: Callable[[Path], Golden], tiny_mllm_folder: Callable[[str], Path]) -> Golden:
    """Convolutions lie between the layers that attend."""
    return make_golden(tiny_mllm_folder("lfm2vl"))


@pytest.fixture(scope="session", params=["smolvlm", "qwen25vl", "llava", "lfm2vl"])
def golden(request: pytest.FixtureRequest) -> Golden:
    found: Golden = request.getfixturevalue(request.param)
    return found


@pytest.fixture(scope="session")
def queries(class_pictures: list[Path]) -> list[Query]:
    """Three pictures, each with other candidates."""
    lists = [NAMES[:5], NAMES[::-1], NAMES[1:3]]
    return [
        Query(
            load_image(path),
            np.zeros(32, np.float32),
            [Candidate(name, 1 - i / 10) for i, name in enumerate(names)],
        )
        for path, names in zip(class_pictures[::4], lists, strict=False)
    ]
