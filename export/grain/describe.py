"""Captions and descriptions of pictures by a multimodal LLM, in plain PyTorch: any that `rar-export mllm` takes.

It asks two questions per picture, as GRAIN does: for its main subject, then for what is visible of that and around it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from rar.runtime.errors import ExportError
from rar.runtime.picture.load import Pixels
from rar.runtime.rank.mllm.tree import PICTURE

from ..mllm.model import Mllm
from ..mllm.prompt import prompt_settings, read_prompt

MAX_DESCRIPTIONS = 10

_INSTRUCTION = "Please describe what is in the image, and nothing that is not."
_SUBJECT = "What is the main subject of the image? Answer with one short sentence."
_DETAILS = (
    "The image shows this: {subject}\nList up to ten short phrases, one a line, each naming one thing that can be seen "
    "and its colour, shape or material: first the parts of the main subject, then what is around it."
)
_SUBJECT_TOKENS, _DETAILS_TOKENS = 48, 192
_LONGEST = 200
# Bullets, numbers and quotation marks around a line's phrase.
_FRAME = re.compile(r"""^(?:(?:[-*•]|\(?\d{1,2}[.):])\s+)?["'“]?|["'”]?[.;,]?$""")


@dataclass(frozen=True)
class Described:
    """An MLLM's description of a picture: one sentence, and up to ten phrases."""

    caption: str
    descriptions: Sequence[str]


class Describer:
    """An MLLM that describes pictures.

    Args:
        mllm: The loaded model.
        device: What it runs on.

    Raises:
        ExportError: The model takes another encoder's features and not pixels.
    """

    def __init__(self, mllm: Mllm, device: torch.device) -> None:
        if mllm.preprocess is None:
            raise ExportError(f"{mllm.source}: sees by an encoder's features; describe pictures with a whole MLLM")
        self._mllm, self._prepare, self._device = mllm, mllm.preprocess, device
        self._reference: Any = mllm.reference.to(device)

    def __call__(self, pixels: Pixels) -> Described:
        """Describes a picture, uint8 [H, W, 3]; unusable lines of the answer are dropped."""
        subject = " ".join(self._ask(pixels, _SUBJECT, _SUBJECT_TOKENS).split())[:_LONGEST]
        details = self._ask(pixels, _DETAILS.replace("{subject}", subject), _DETAILS_TOKENS)
        return Described(subject, phrases(details))

    def _ask(self, pixels: Pixels, question: str, tokens: int) -> str:
        modes: Mapping[str, Mapping[str, str]] = {"generate": {"instruction": _INSTRUCTION, "question": question}}
        prompt = read_prompt(prompt_settings(self._mllm, modes), self._mllm.tokenizer)
        ids = np.array([*prompt.head("generate"), *prompt.picture("generate"), *prompt.tail("generate", ())])
        prompt.check(len(ids) + tokens)
        row = torch.from_numpy(np.where(ids == PICTURE, self._mllm.image_token, ids))[None]
        inputs = self._mllm.reference_inputs(row, torch.from_numpy(np.asarray(self._prepare([pixels]), np.float32)))
        inputs = {name: value.to(self._device) for name, value in inputs.items()}
        with torch.inference_mode():
            written = self._reference.generate(
                **inputs, max_new_tokens=tokens, do_sample=False, num_beams=1, pad_token_id=self._mllm.stop_ids[0]
            )[0].tolist()
        answer = written[len(ids) if "input_ids" in inputs else 0 :]
        return prompt.decode([token for token in answer if token not in prompt.stop_ids])


def phrases(text: str) -> list[str]:
    """The lines of an answer as phrases: without bullets, numbers and duplicates, at most ten."""
    unique: dict[str, str] = {}
    for line in text.splitlines():
        phrase = _FRAME.sub("", " ".join(line.split()))
        if phrase and not phrase.endswith(":") and len(phrase) <= _LONGEST:
            unique.setdefault(phrase.lower(), phrase)
    return list(unique.values())[:MAX_DESCRIPTIONS]
