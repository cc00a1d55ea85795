"""What every source of a dual encoder is turned into before the one export path takes it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from rar.runtime.preprocess import Preprocess
from rar.runtime.tokenizer import Tokenizer

if TYPE_CHECKING:
    import tokenizers
    import torch

# The template that CLIP's own zero-shot evaluation, RAR and WCA share.
TEMPLATES = ("a photo of a {}.",)


def fix_length(backend: tokenizers.Tokenizer, tokenizer: Any, length: int) -> None:
    """Makes a `tokenizers` object truncate and pad to a length as its transformers form would."""
    backend.enable_truncation(length)
    backend.enable_padding(
        length=length,
        pad_id=tokenizer.pad_token_id,
        pad_token=tokenizer.pad_token,
        direction=tokenizer.padding_side,
    )


@dataclass(frozen=True)
class DualEncoder:
    """A picture tower and a text tower in one space, as PyTorch modules.

    Attributes:
        source: Where it came from, for the record.
        visual: float32 [N, 3, S, S] -> float32 [N, d], L2-normalised; and the other `visual_outputs`.
        text: int64 [N, L] -> float32 [N, d], L2-normalised.
        preprocess: The model's own picture preparation, in the runtime's form.
        tokenizer: The model's own tokenizer with its truncation and padding, in the runtime's form.
        clean: The text cleaning before it (`rar.runtime.tokenizer.CLEANERS`).
        reference_preprocess: The model's own preparation of one picture: float32 [3, S, S].
        reference_tokenize: The model's own tokenizer: int64 [N, L].
        templates: Prompt templates for class names.
        visual_outputs: What `visual` returns; `image_features`, float32 [N, t, C], is for an MLLM that sees by them,
            `region_embeds`, float32 [N, q, d], and `region_boxes`, float32 [N, q, 4], for the GRAIN ranker.
        tolerance: By how much an element of an fp32 graph's outputs may differ; None for as much as their cosine may.
    """

    source: str
    visual: torch.nn.Module
    text: torch.nn.Module
    preprocess: Preprocess
    tokenizer: tokenizers.Tokenizer
    clean: str
    reference_preprocess: Callable[[Image.Image], npt.NDArray[np.float32]]
    reference_tokenize: Callable[[Sequence[str]], npt.NDArray[np.int64]]
    templates: tuple[str, ...] = TEMPLATES
    visual_outputs: tuple[str, ...] = ("image_embeds",)
    tolerance: float | None = None

    def runtime_tokenizer(self) -> Tokenizer:
        """The tokenizer as the runtime will run it."""
        import tokenizers

        return Tokenizer(tokenizers.Tokenizer.from_str(self.tokenizer.to_str()), self.clean)
