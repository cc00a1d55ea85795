"""The common form of dual encoders from every source, which the export takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from rar.runtime.encoder.tokenizer import Tokenizer
from rar.runtime.errors import ExportError
from rar.runtime.picture.preprocess import Preprocess

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
    """A picture tower and a text tower in one space, as PyTorch modules; or a picture tower alone.

    Attributes:
        source: Its origin, for the manifest.
        visual: float32 [N, 3, S, S] -> float32 [N, d], L2-normalised; and the other `visual_outputs`.
        text: int64 [N, L] -> float32 [N, d], L2-normalised. None if the model sees pictures only, as DINO does; then
            there is no tokenizer, and there are no templates.
        preprocess: The model's own picture preparation, in the runtime's form.
        tokenizer: The model's own tokenizer with its truncation and padding, in the runtime's form.
        clean: The text cleaning before it (`rar.runtime.encoder.tokenizer.CLEANERS`).
        reference_preprocess: The model's own preparation of one picture: float32 [3, S, S].
        reference_tokenize: The model's own tokenizer: int64 [N, L].
        templates: Prompt templates for class names.
        visual_outputs: The outputs of `visual`. `image_features`, float32 [N, t, C], is for an MLLM that sees by them;
            `region_embeds`, float32 [N, q, d], and `region_boxes`, float32 [N, q, 4], for the GRAIN ranker.
        rounded: By how many grey levels `preprocess` may differ from the model's own: 1 where that resizes in floating
            point, for the runtime rounds twice, after the rows and after the columns.
        tolerance: The largest difference of an element of an fp32 graph's outputs; None if only the cosine is limited.
    """

    source: str
    visual: torch.nn.Module
    text: torch.nn.Module | None
    preprocess: Preprocess
    tokenizer: tokenizers.Tokenizer | None
    clean: str
    reference_preprocess: Callable[[Image.Image], npt.NDArray[np.float32]]
    reference_tokenize: Callable[[Sequence[str]], npt.NDArray[np.int64]] | None
    templates: tuple[str, ...] = TEMPLATES
    visual_outputs: tuple[str, ...] = ("image_embeds",)
    rounded: float = 0
    tolerance: float | None = None

    @property
    def text_tower(self) -> torch.nn.Module:
        """The text tower.

        Raises:
            ExportError: The model has none.
        """
        if self.text is None:
            raise ExportError(f"{self.source}: has no text tower; choose a model with one, such as CLIP")
        return self.text

    def runtime_tokenizer(self) -> Tokenizer:
        """The tokenizer as the runtime will run it.

        Raises:
            ExportError: The model has none.
        """
        import tokenizers

        if self.tokenizer is None:
            raise ExportError(f"{self.source}: has no text tower; choose a model with one, such as CLIP")

        return Tokenizer(tokenizers.Tokenizer.from_str(self.tokenizer.to_str()), self.clean)
