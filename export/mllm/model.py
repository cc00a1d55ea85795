"""The common form of multimodal LLMs from every source, which the export takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from rar.runtime.picture.preprocess import Preprocess
from rar.runtime.rank.mllm.info import Attention

if TYPE_CHECKING:
    import tokenizers
    import torch

    from .decoder import Decoder

# The graphs of a bundle's MLLM.
GRAPHS = ("vision", "embed", "decoder")

# Plain text, {"ids": [...]} or {"slot": ...}, whose names are those of `rar.runtime.rank.mllm.prompt.Slot`.
Piece: TypeAlias = str | dict[str, Any]


class Tokens(Protocol):
    """The model's own tokenizer on a whole prompt."""

    def __call__(self, instruction: str, question: str, answer: str, names: Sequence[str] = ()) -> list[int]:
        """The ids, with one `image_token` per image slot.

        Args:
            instruction: The instruction.
            question: The question.
            answer: The text after the prompt.
            names: The names beside exemplars; none where the chat template has no form for them.
        """
        ...


@dataclass(frozen=True)
class Form:
    """What a caller of the three graphs must know.

    Attributes:
        vision_input: See `Mllm`.
        layers: Pairs of keys and values in the decoder's cache.
        kv_heads: Heads of the keys and values.
        head_dim: Width of a head.
        dim: Width of the embeddings.
        vocab: Number of logits.
        position_dims: 1, or 3 where a position is (time, row, column).
        attention: See `rar.runtime.rank.mllm.info.Attention`.
    """

    vision_input: str
    layers: int
    kv_heads: int
    head_dim: int
    dim: int
    vocab: int
    position_dims: int = 1
    attention: Attention = "tree"

    def names(self, prefix: str) -> list[str]:
        """Names of the keys and values in order: `<prefix>.0.key`, `<prefix>.0.value`, ..."""
        return [f"{prefix}.{layer}.{part}" for layer in range(self.layers) for part in ("key", "value")]


class Spoken(Protocol):
    """What the prompt of a model is made of; see `Mllm`, which has it."""

    @property
    def tokenizer(self) -> tokenizers.Tokenizer: ...  # noqa: D102
    @property
    def template(self) -> Sequence[Piece]: ...  # noqa: D102
    @property
    def lead(self) -> str: ...  # noqa: D102
    @property
    def stop_ids(self) -> Sequence[int]: ...  # noqa: D102
    @property
    def image_token(self) -> int: ...  # noqa: D102
    @property
    def image_tokens(self) -> int: ...  # noqa: D102
    @property
    def context(self) -> int: ...  # noqa: D102
    @property
    def reference_tokens(self) -> Tokens | None: ...  # noqa: D102
    @property
    def position_dims(self) -> int: ...  # noqa: D102
    @property
    def image_positions(self) -> Mapping[str, Any] | None: ...  # noqa: D102
    @property
    def whole_picture(self) -> bool: ...  # noqa: D102
    @property
    def exemplars(self) -> Mapping[str, Sequence[Piece]] | None: ...  # noqa: D102


@dataclass(frozen=True)
class Mllm:
    """A picture tower, a token table and a decoder as PyTorch modules, and the form of a prompt.

    Attributes:
        architecture: Name of the adapter (`llava`, `smolvlm`, ...).
        source: Its origin, for the manifest.
        vision: `vision_input` [N, *vision_shape] -> float32 [N, image_tokens, dim], as the decoder expects it.
        vision_input: `pixel_values`, or `image_features` if it shares the retrieval encoder's pass.
        vision_shape: The shape of one picture, such as (3, 336, 336).
        embed: int64 [N, L] -> float32 [N, L, dim].
        decoder: See `Decoder`. LoRA attaches to its `language`.
        tokenizer: The model's tokenizer, without truncation and padding.
        template: The chat template resolved to pieces, in the model's own order.
        stop_ids: Tokens that end an answer.
        image_token: The id that stands for one picture token in the reference's `input_ids`.
        image_tokens: How many tokens a picture takes.
        context: The longest sequence, in tokens.
        reference: The transformers model, for `reference(**inputs).logits` and `reference.generate(**inputs)`.
        reference_inputs: int64 [N, L] ids (with `image_token` in the picture's places) and the pictures in order
            of the rows (float32 [n, *vision_shape]) -> the reference's keyword arguments.
        reference_tokens: To compare the template with; None if it has none.
        lead: The text between the prompt and an answer in the model's own chat.
        preprocess: The model's own picture preparation in the runtime's form. None with `image_features`.
        reference_preprocess: The model's own preparation of one picture: float32 [3, H, W].
        rounded: By how many grey levels the two may differ: 1 where the model's own resizes by torchvision.
        image_positions: {"grid": [rows, columns]} of a picture's tokens if positions have three dimensions.
        whole_picture: Whether each token of a picture sees the whole picture.
        exemplars: The template with a slot for exemplars, and the pieces of one; None if it takes one picture. See
            `template.Template`.
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
    reference_tokens: Tokens | None = None
    lead: str = ""
    preprocess: Preprocess | None = None
    reference_preprocess: Callable[[Image.Image], npt.NDArray[np.float32]] | None = None
    rounded: float = 0
    image_positions: Mapping[str, Any] | None = None
    whole_picture: bool = False
    exemplars: Mapping[str, Sequence[Piece]] | None = None
    vision_input: Literal["pixel_values", "image_features"] = "pixel_values"

    @property
    def language(self) -> torch.nn.Module:
        """The language model without its head."""
        return self.decoder.language

    @property
    def position_dims(self) -> int:
        """1, or 3 where a position is (time, row, column)."""
        return self.decoder.position_dims

    @property
    def form(self) -> Form:
        """Its shapes."""
        made = self.decoder
        return Form(
            self.vision_input, made.layers, made.kv_heads, made.head_dim, made.dim, made.vocab, made.position_dims
        )
