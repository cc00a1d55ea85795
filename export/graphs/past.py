"""The cache of a language model as its graph has it: what was before goes in, only what is new comes out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


class Past:
    """The cache interface of transformers' language models, with the new keys and values kept apart.

    The layers that fill it do so in their order.

    Args:
        past: Each pair of keys and values, float32 [N, kv_heads, P, head_dim].
    """

    is_compileable = False

    def __init__(self, past: Sequence[torch.Tensor]) -> None:
        self.past = past
        self.new: list[torch.Tensor] = []

    def update(self, key: torch.Tensor, value: torch.Tensor, *_: Any, **__: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Keeps the next pair, and gives all of its keys and values: float32 [N, kv_heads, P + L, head_dim] each."""
        import torch

        place = len(self.new)
        self.new += [key, value]
        return torch.cat([self.past[place], key], 2), torch.cat([self.past[place + 1], value], 2)

    def get_seq_length(self, _: int = 0) -> Any:
        """P."""
        return self.past[0].shape[2]
