"""What every source of a multimodal LLM is turned into before the one export path takes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from rar.runtime.preprocess import Preprocess

if TYPE_CHECKING:
    import tokenizers
    import torch

    from .decoder import Decoder

# Plain text, {"ids": [...]} or {"slot": "instruction" | "image" | "question"}.
Piece: TypeAlias = str | dict[str, Any]


@dataclass(frozen=True)
class Mllm:
    """A picture tower, a token table and a decoder as PyTorch modules, and how a prompt is put together.

    Attributes:
        architecture: Name of the adapter (`llava`, `smolvlm`, ...).
        source: Where it came from, for the record.
        vision: `vision_input` [N, *vision_shape] -> float32 [N, image_tokens, dim], as the decoder expects it.
        vision_input: `pixel_values`, or `image_features` where the retrieval encoder's pass is shared.
        vision_shape: Of one picture, such as (3, 336, 336).
        embed: int64 [N, L] -> float32 [N, L, dim].
        decoder: See `Decoder`. Its `language` is what LoRA attaches to.
        tokenizer: The model's own, without truncation and padding.
        template: The chat template resolved to pieces, in the model's own order.
        stop_ids: Tokens that end an answer.
        image_token: The id that stands for one picture token in the reference's `input_ids`.
        image_tokens: How many tokens a picture takes.
        context: The longest sequence, in tokens.
        reference: The transformers model, for `reference(**inputs).logits` and `reference.generate(**inputs)`.
        reference_inputs: int64 [N, L] ids (with `image_token` in the picture's places) and the pictures in order
            of the rows (float32 [n, *vision_shape]) -> the reference's keyword arguments.
        reference_tokens: The model's own tokenizer on the whole text, to compare the template with: instruction,
            question and what follows the prompt -> ids, with `image_token` once an image slot. None: no such thing.
        lead: What stands between the prompt and an answer in the model's own chat.
        preprocess: The model's own picture preparation in the runtime's form. None with `image_features`.
        reference_preprocess: The model's own preparation of one picture: float32 [3, H, W].
        image_positions: {"grid": [rows, columns]} of a picture's tokens where positions have three dimensions.
    """

    architecture: str
    source: str
    vision: torch.nn.Module
    vision_shape: tuple[int, ...]
    embed: torch.nn.Module
    decoder: Decoder
    tokenizer: tokenizers.Tokenizer
    template: Sequence[Piece]
    stop_ids: Sequence[int]
    image_token: int
    image_tokens: int
    context: int
    reference: torch.nn.Module
    reference_inputs: Callable[[torch.Tensor, torch.Tensor], Mapping[str, Any]]
    reference_tokens: Callable[[str, str, str], list[int]] | None = None
    lead: str = ""
    preprocess: Preprocess | None = None
    reference_preprocess: Callable[[Image.Image], npt.NDArray[np.float32]] | None = None
    image_positions: Mapping[str, Any] | None = None
    vision_input: Literal["pixel_values", "image_features"] = "pixel_values"

    @property
    def language(self) -> torch.nn.Module:
        """The language model without its head."""
        return self.decoder.language
