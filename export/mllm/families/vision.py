"""The picture side of families whose model has it as one method."""

from __future__ import annotations

from typing import Any

import torch

from ...compat import features


class Vision(torch.nn.Module):
    """`get_image_features` as a module: float32 [N, 3, height, width] → [N, tokens, width of the decoder]."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: torch.Tensor) -> Any:
        """Embeds pictures."""
        return features(self.model.get_image_features(pixels))
