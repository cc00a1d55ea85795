"""The decoder form of every architecture: packed sequences, a visibility mask, only new keys and values as outputs.

The runtime scores a tree of prompts in one sequence, so visibility is an input (a 4-D mask) and not a rule. A cache
that many calls share is read but never copied to an output.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from ..compat import takes
from ..graphs.past import Past

if TYPE_CHECKING:
    import transformers

# The largest distance of a score below its row's maximum.
_LEAST_SCORE = 80.0


def _attend(
    module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor, **settings: Any
) -> tuple[torch.Tensor, None]:
    """Attention of query heads [N, kv_heads * g, L, d] that share keys and values [N, kv_heads, K, d] in groups of g.

    The heads of a group become rows of one product; transformers writes keys and values out g times instead, and
    torch's own form guards against rows that see nothing, which there are none of here.
    """
    batch, heads, length, width = query.shape
    shared = key.shape[1]
    grouped = query.reshape(batch, shared, heads // shared * length, width)
    scores = (grouped * settings["scaling"]) @ key.transpose(2, 3)
    seen = scores.reshape(batch, heads, length, -1) + mask
    # A weight of exp(-80) is lost beside the largest, as is nothing at all; further down ONNX Runtime's softmax meets
    # denormal numbers and takes several times as long.
    seen = torch.maximum(seen, seen.amax(-1, keepdim=True) - _LEAST_SCORE)
    mixed = seen.softmax(-1).reshape(scores.shape) @ value
    return mixed.reshape(batch, heads, length, width).transpose(1, 2), None


def hidden_by(mask: torch.Tensor) -> torch.Tensor:
    """What a mask, True where a token may see, adds to scores; once for all layers, and small enough for fp16."""
    return torch.where(mask, 0.0, -30000.0)


@contextmanager
def attention(language: transformers.PreTrainedModel) -> Iterator[None]:
    """Makes a language model use `_attend` inside the block; the reference shares its modules and keeps its own."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register("rar_grouped", _attend)
    config = language.config
    before = config._attn_implementation
    config._attn_implementation = "rar_grouped"
    try:
        yield
    finally:
        config._attn_implementation = before


class Decoder(torch.nn.Module):
    """A language model of transformers and its head, with the graph's signature.

    Attributes:
        language: The model without its head (`LlamaModel`, `Qwen2Model`, ...); what LoRA attaches to.
        head: Hidden states to logits.
        layers: Pairs of keys and values in the cache: one a layer, or as many as a layer fills.
        kv_heads: Heads of the keys and values.
        head_dim: Width of a head.
        dim: Width of the embeddings.
        vocab: Number of logits.
        position_dims: 1, or 3 where a position is (time, row, column).
    """

    def __init__(self, language: transformers.PreTrainedModel, head: torch.nn.Linear, position_dims: int = 1) -> None:
        super().__init__()
        config = language.config
        self.language, self.head, self.position_dims = language, head, position_dims
        self.layers, self.kv_heads, self.dim = config.num_hidden_layers, config.num_key_value_heads, config.hidden_size
        self.head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self.vocab = head.out_features
        self._cache = "cache" if takes(language, "cache") else "past_key_values"

    def forward(
        self,
        inputs_embeds: torch.Tensor,
        attention_mask: torch.Tensor,
        position_ids: torch.Tensor,
        logit_positions: torch.Tensor,
        *past: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        """One pass over new tokens.

        Args:
            inputs_embeds: float32 [N, L, D].
            attention_mask: bool [N, 1, L, P + L], True where a token may see. Each must see itself.
            position_ids: int64 [N, L], or [3, N, L].
            logit_positions: int64 [N, M], the positions that get logits.
            past: Each pair of keys and values, float32 [N, kv_heads, P, head_dim]; P may be 0.

        Returns:
            float32 [N, M, V], then the new keys and values, float32 [N, kv_heads, L, head_dim].
        """
        cache = Past(past)
        with attention(self.language):
            hidden = self.language(
                inputs_embeds=inputs_embeds,
                attention_mask=hidden_by(attention_mask),
                position_ids=position_ids,
                use_cache=True,
                **{self._cache: cache},
            ).last_hidden_state
        return (self.logits(hidden, logit_positions), *cache.new)

    def logits(self, hidden: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Logits float32 [N, M, V] of the hidden states [N, L, D] at positions [N, M]."""
        chosen = torch.gather(hidden, 1, positions.unsqueeze(-1).expand(-1, -1, hidden.shape[-1]))
        return torch.as_tensor(self.head(chosen))

    def example(self) -> tuple[torch.Tensor, ...]:
        """Inputs for tracing; all dynamic dimensions are 2 or more and differ."""
        batch, length, before = 2, 5, 3
        positions = torch.arange(before, before + length).expand(batch, length)
        return (
            torch.zeros(batch, length, self.dim),
            torch.ones(batch, 1, length, before + length, dtype=torch.bool),
            positions.expand(self.position_dims, batch, length) if self.position_dims > 1 else positions,
            torch.zeros(batch, 4, dtype=torch.int64),
            *(torch.zeros(batch, self.kv_heads, before, self.head_dim) for _ in range(2 * self.layers)),
        )
