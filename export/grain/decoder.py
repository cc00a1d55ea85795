"""The query decoder: region queries and one image query read the vision transformer's tokens.

A pre-norm DETR decoder (arXiv 2005.12872) without positional encodings on the tokens. Modules are named as in the
released code (shaunak27/grain-clip, model/tfm.py), so that its checkpoints load.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from .config import GrainConfig


class RegionDecoder(nn.Module):
    """Maps a picture's tokens to the states of its queries, and those to embeddings and boxes."""

    def __init__(self, config: GrainConfig) -> None:
        super().__init__()
        hidden = config.hidden
        self.proj = nn.Linear(config.width, hidden, bias=False)
        self.transformer = _Transformer(config)
        self.query_embed = nn.Embedding(config.queries + 1, hidden)
        self.bbox_embed = _BoxHead(hidden)
        self.obj_proj = nn.Parameter(torch.empty(hidden, config.embed))
        self.img_proj = nn.Parameter(torch.empty(hidden, config.embed))
        for weight in self.transformer.parameters():
            if weight.dim() > 1:
                nn.init.xavier_uniform_(weight)
        for projection in (self.obj_proj, self.img_proj):
            nn.init.normal_(projection, std=hidden**-0.5)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Reads pictures.

        Args:
            tokens: float [N, T, width], the vision transformer's last states, class token first.

        Returns:
            float [N, d], the image query's embeddings; float [N, q, d], the region queries'; float
            [layers, N, q, 4], the boxes after each layer in order: centre, width and height as shares of the picture.
        """
        states = self.transformer(self.proj(tokens), self.query_embed.weight[None].expand(tokens.shape[0], -1, -1))
        last = states[-1]
        boxes = self.bbox_embed(states[:, :, :-1]).sigmoid()
        return last[:, -1] @ self.img_proj, last[:, :-1] @ self.obj_proj, boxes

    def cross_attentions(self) -> list[nn.MultiheadAttention]:
        """The cross-attention of each layer."""
        return [cast("_Layer", layer).multihead_attn for layer in self.transformer.decoder.layers]


class _Transformer(nn.Module):
    """The layers, with a norm before them and one after each."""

    def __init__(self, config: GrainConfig) -> None:
        super().__init__()
        self.pre_norm = nn.LayerNorm(config.hidden)
        self.decoder = _Layers(config)

    def forward(self, memory: Tensor, places: Tensor) -> Tensor:
        """The queries' states after each layer: float [layers, N, q + 1, hidden]."""
        memory, state, states = self.pre_norm(memory), torch.zeros_like(places), []
        for layer in self.decoder.layers:
            state = layer(state, memory, places)
            states.append(self.decoder.norm(state))
        return torch.stack(states)


class _Layers(nn.Module):
    """Has the checkpoint's names: `decoder.layers`, `decoder.norm`."""

    def __init__(self, config: GrainConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_Layer(config) for _ in range(config.decoder_depth))
        self.norm = nn.LayerNorm(config.hidden)


class _Layer(nn.Module):
    """Self-attention among the queries, cross-attention to the picture, feed-forward."""

    def __init__(self, config: GrainConfig) -> None:
        super().__init__()
        hidden, heads = config.hidden, config.decoder_heads
        self.multihead_attn = nn.MultiheadAttention(hidden, heads, dropout=config.dropout, batch_first=True)
        self.self_attn = nn.MultiheadAttention(hidden, heads, dropout=config.dropout, batch_first=True)
        self.linear1, self.linear2 = nn.Linear(hidden, config.feedforward), nn.Linear(config.feedforward, hidden)
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(hidden), nn.LayerNorm(hidden), nn.LayerNorm(hidden)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, state: Tensor, memory: Tensor, places: Tensor) -> Tensor:
        normed = self.norm1(state)
        placed = normed + places
        state = state + self.dropout(self.self_attn(placed, placed, normed, need_weights=False)[0])
        query = self.norm2(state) + places
        state = state + self.dropout(self.multihead_attn(query, memory, memory, need_weights=False)[0])
        inner = self.dropout(functional.relu(self.linear1(self.norm3(state))))
        moved: Tensor = self.dropout(self.linear2(inner))
        return state + moved


class _BoxHead(nn.Module):
    """Three layers that give the logits of centre, width and height."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(hidden, hidden), nn.Linear(hidden, hidden), nn.Linear(hidden, 4)])

    def forward(self, state: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            state = functional.relu(layer(state))
        return self.layers[-1](state)  # type: ignore[no-any-return]
