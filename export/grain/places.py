"""Initialises the queries so that each looks at its own place.

With random initialisation all region queries collapse onto one mean box for the first tens of thousands of pictures.
They read the mean of all tokens, which does not distinguish places: DETR's plateau. Here tokens start with a sinusoidal
position, as in MoCo v3 (arXiv 2104.02057, §4.3). Queries start with the places that they shall look at, like the
anchors of DAB-DETR (arXiv 2201.12329). Only the initial values differ: the weights are those of the released code.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

_GOLDEN_ANGLE = math.pi * (3 - math.sqrt(5))
_REACH = 0.4  # distance of the outermost query from the centre, in sides of the picture


@torch.no_grad()
def place(
    pos_embed: nn.Parameter, projection: nn.Linear, queries: nn.Embedding, attention: Sequence[nn.MultiheadAttention]
) -> None:
    """Initialises tokens, queries and their attention so that each region query reads the tokens around one place.

    Args:
        pos_embed: float32 [1, 1 + n², width], the vision transformer's, class token first.
        projection: Maps tokens to the decoder's width.
        queries: [q + 1, hidden]; the last is the image query, which keeps its random initialisation.
        attention: The decoder's cross-attentions.
    """
    _, tokens, width = pos_embed.shape
    side = math.isqrt(tokens - 1)
    steps = torch.arange(side, dtype=torch.float32)
    grid = _sinusoids(steps.repeat(side), steps.repeat_interleave(side), width, side)
    mean = grid.mean(0)
    pos_embed[0, 1:] = grid - mean
    nn.init.orthogonal_(projection.weight)
    number = torch.arange(queries.num_embeddings - 1, dtype=torch.float32)
    radius = _REACH * ((number + 0.5) / len(number)).sqrt()
    x, y = (0.5 + radius * turn(number * _GOLDEN_ANGLE) for turn in (torch.cos, torch.sin))
    places = projection(_sinusoids(x * side - 0.5, y * side - 0.5, width, side) - mean)
    queries.weight[:-1] = functional.layer_norm(places, places.shape[-1:])
    for layer in attention:
        hidden = layer.embed_dim
        layer.in_proj_weight[: 2 * hidden] = torch.eye(hidden).repeat(2, 1)


def _sinusoids(x: Tensor, y: Tensor, width: int, side: int) -> Tensor:
    """Embeds places [n], in patches: float32 [n, width]; the longest wave is 2 pi sides, the shortest 2 pi patches."""
    bands = width // 4
    waves = side ** (-torch.arange(bands) / bands)
    parts = [turn(axis[:, None] * waves) for axis in (x, y) for turn in (torch.sin, torch.cos)]
    return functional.pad(math.sqrt(2) * torch.cat(parts, 1), (0, width - 4 * bands))
