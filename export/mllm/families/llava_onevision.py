"""LLaVA-OneVision: SigLIP, a projector of two layers, Qwen2.

A picture is one tile and the embedding of a line's end, the form in which the model takes each of several pictures. A
single one it also cuts into tiles; those are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from ..model import Mllm
from ..source import Loaded
from .llava import Tower, one_tile


class _Vision(torch.nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.tower, self.newline = Tower(model), model.image_newline

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        tokens = self.tower(pixels)
        return torch.cat([tokens, self.newline.expand(tokens.shape[0], 1, -1)], 1)


def adapt(loaded: Loaded, tiles: int | None) -> Mllm:
    """The adapter of `source.load`.

    Raises:
        ExportError: Tiles were asked for, or the pictures are prepared in a way the runtime has no form for.
    """
    loaded.refuse_tiles(tiles)
    made = one_tile(loaded, "llava_onevision", _Vision(loaded.model.model).eval(), inline=True)

    def reference_preprocess(picture: Image.Image) -> npt.NDArray[np.float32]:
        # The first is the whole picture, its tiles follow.
        return np.asarray(loaded.images(picture, return_tensors="np")["pixel_values"][0][0])

    def reference_inputs(ids: torch.Tensor, pixels: torch.Tensor) -> Mapping[str, Any]:
        return {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "pixel_values": pixels[:, None],
            "image_sizes": torch.tensor([pixels.shape[-2:]] * len(pixels)),
            # Any number above one says that pictures are not cut.
            "batch_num_images": torch.tensor([len(pixels) + 1]),
        }

    return replace(made, reference_preprocess=reference_preprocess, reference_inputs=reference_inputs)
