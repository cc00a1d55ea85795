"""Pictures cut into a fixed grid of tiles and a thumbnail, inside the vision graph.

The runtime prepares one large square and does not know about tiles. The thumbnail is Pillow's resize as two
matrix products: the same weights, without the rounding to whole grey levels in between.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image

from rar.runtime.errors import ExportError

MAX_TILES = 8


class Tiled(torch.nn.Module):
    """A vision module over tiles: float32 [N, 3, n * S, n * S] -> float32 [N, (n * n + 1) * T, D].

    Args:
        vision: float32 [N, 3, S, S] -> float32 [N, T, D].
        size: S.
        tiles: n, rows and columns.
        resample: Pillow's filter of the thumbnail.
    """

    weights: torch.Tensor

    def __init__(self, vision: torch.nn.Module, size: int, tiles: int, resample: int) -> None:
        super().__init__()
        self.vision, self.size, self.tiles = vision, size, tiles
        large = size * tiles
        identity = Image.fromarray(np.eye(large, dtype=np.float32))
        weights = np.array(identity.resize((large, size), Image.Resampling(resample)))
        self.register_buffer("weights", torch.from_numpy(weights))

    def split(self, pixels: torch.Tensor) -> torch.Tensor:
        """Tiles row by row, then the thumbnail: float32 [N, n * n + 1, 3, S, S]."""
        n, size = self.tiles, self.size
        grid = pixels.reshape(-1, 3, n, size, n, size).permute(0, 2, 4, 1, 3, 5).reshape(-1, n * n, 3, size, size)
        thumbnail = self.weights @ pixels @ self.weights.T
        return torch.cat([grid, thumbnail[:, None]], 1)

    def forward(self, pixels: torch.Tensor) -> Any:
        """See the class."""
        embeds = self.vision(self.split(pixels).flatten(0, 1))
        return embeds.reshape(-1, (self.tiles**2 + 1) * embeds.shape[1], embeds.shape[2])


def check_tiles(folder: str, tiles: int | None) -> int:
    """The number of rows and columns, 1 for a single tile.

    Raises:
        ExportError: Out of range.
    """
    if tiles is not None and not 2 <= tiles <= MAX_TILES:
        raise ExportError(
            f"{folder}: --tiles {tiles} is out of range; 2 to {MAX_TILES} rows and columns, or leave it out"
        )
    return tiles or 1
