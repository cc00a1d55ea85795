"""Qwen2.5-VL: a tower with window attention, Qwen2 with positions of three dimensions (M-RoPE).

The model takes pictures of any shape; here they have one fixed size, in which whole windows fit. So every window has
the same number of patches, and a batch of pictures is a batch of windows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from rar.runtime.errors import ExportError
from rar.runtime.preprocess import Preprocess

from ..huggingface import FILTERS
from .decoder import Decoder
from .model import Mllm
from .source import Loaded

# 144 tokens with the published models' patches of 14, merged by 2, and windows of 112.
_SIZE = 336


class _Vision(torch.nn.Module):
    """`Qwen2_5_VisionTransformerPretrainedModel` for squares of one size, in a batch."""

    order: torch.Tensor
    back: torch.Tensor
    cos: torch.Tensor
    sin: torch.Tensor

    def __init__(self, tower: Any, size: int) -> None:
        super().__init__()
        self.tower, self.merge, self.patch = tower, tower.spatial_merge_size, tower.patch_size
        self.side = size // self.patch
        self.windows = (size // tower.window_size) ** 2
        weight = tower.patch_embed.proj.weight
        # A still picture is two equal frames: their weights add up.
        self.embed = torch.nn.Parameter(weight.detach().sum(2).flatten(1), requires_grad=False)
        grid = torch.tensor([[1, self.side, self.side]])
        with torch.no_grad():
            order, _ = tower.get_window_index(grid)
            angles = tower.rot_pos_emb(grid).reshape(len(order), self.merge**2, -1)[order].flatten(0, 1)
        angles = torch.cat([angles, angles], -1)[:, None]
        self.register_buffer("order", order)
        self.register_buffer("back", torch.argsort(order))
        self.register_buffer("cos", angles.cos())
        self.register_buffer("sin", angles.sin())

    def cut(self, pixels: torch.Tensor) -> torch.Tensor:
        """Patches in the order of the model's processor: float32 [N, patches, 3, patch, patch]."""
        blocks, merge, patch = self.side // self.merge, self.merge, self.patch
        parts = pixels.reshape(-1, 3, blocks, merge, patch, blocks, merge, patch)
        return parts.permute(0, 2, 5, 3, 6, 1, 4, 7).reshape(-1, self.side**2, 3, patch, patch)

    def forward(self, pixels: torch.Tensor) -> Any:
        hidden = torch.nn.functional.linear(self.cut(pixels).flatten(2), self.embed)
        count, width = self.side**2, hidden.shape[-1]
        units = hidden.reshape(-1, count // self.merge**2, self.merge**2 * width)
        hidden = units[:, self.order].reshape(-1, count, width)
        for number, block in enumerate(self.tower.blocks):
            windows = 1 if number in self.tower.fullatt_block_indexes else self.windows
            hidden = hidden + self._attend(block.attn, block.norm1(hidden), windows)
            hidden = hidden + block.mlp(block.norm2(hidden))
        merged = self.tower.merger(hidden)
        return merged.reshape(-1, count // self.merge**2, merged.shape[-1])[:, self.back]

    def _attend(self, attention: Any, hidden: torch.Tensor, windows: int) -> Any:
        count, width = hidden.shape[1:]
        parts = attention.qkv(hidden).reshape(-1, count, 3, attention.num_heads, width // attention.num_heads)
        query, key, value = parts.unbind(2)
        query, key = (self._rotate(part) for part in (query, key))
        query, key, value = (
            part.reshape(-1, count // windows, *part.shape[2:]).transpose(1, 2) for part in (query, key, value)
        )
        mixed = torch.nn.functional.scaled_dot_product_attention(query, key, value, scale=attention.scaling)
        return attention.proj(mixed.transpose(1, 2).reshape(-1, count, width))

    def _rotate(self, part: torch.Tensor) -> torch.Tensor:
        first, second = part.chunk(2, -1)
        return part * self.cos + torch.cat([-second, first], -1) * self.sin


def adapt(loaded: Loaded, tiles: int | None) -> Mllm:
    """The adapter of `source.load`.

    Raises:
        ExportError: Tiles were asked for, or pictures are prepared in a way the runtime has no form for.
    """
    if tiles is not None:
        raise ExportError(f"{loaded.folder}: Qwen2.5-VL takes one tile a picture; leave --tiles out")
    config, tokenizer, model, images = loaded.config, loaded.tokenizer, loaded.model.model, loaded.images
    tower, factor = config.vision_config, images.patch_size * images.merge_size
    size = max(1, round(_SIZE / tower.window_size)) * tower.window_size
    if tower.window_size % factor or images.resample not in FILTERS or images.temporal_patch_size != 2:
        raise ExportError(f"{loaded.folder}: windows of {tower.window_size} pixels do not hold patches of {factor}")
    vision = _Vision(model.visual, size).eval()
    image = tokenizer.convert_ids_to_tokens(config.image_token_id)
    template = loaded.resolve(image, [image])
    grid = size // factor

    def reference_preprocess(picture: Image.Image) -> npt.NDArray[np.float32]:
        edge = {"shortest_edge": size * size, "longest_edge": size * size}
        patches = images(picture, size=edge, return_tensors="np")["pixel_values"]
        # Back from the processor's patches of two equal frames to a picture.
        parts = patches.reshape(grid, grid, images.merge_size, images.merge_size, 3, 2, *[images.patch_size] * 2)
        return np.asarray(parts[:, :, :, :, :, 0].transpose(4, 0, 2, 5, 1, 3, 6).reshape(3, size, size))

    def reference_inputs(ids: torch.Tensor, pixels: torch.Tensor) -> Mapping[str, Any]:
        patches = vision.cut(pixels)[:, :, :, None].expand(-1, -1, -1, 2, -1, -1)
        return {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "pixel_values": patches.flatten(2).flatten(0, 1),
            "image_grid_thw": torch.tensor([[1, vision.side, vision.side]] * len(pixels)),
        }

    return Mllm(
        **loaded.common(),
        architecture="qwen25vl",
        vision=vision,
        vision_shape=(3, size, size),
        decoder=Decoder(model.language_model, loaded.model.lm_head, position_dims=3),
        template=template.pieces,
        lead=template.lead,
        reference_tokens=template.tokens,
        image_token=config.image_token_id,
        image_tokens=grid * grid,
        image_positions={"grid": [grid, grid]},
        preprocess=Preprocess(
            size=size, mean=images.image_mean, std=images.image_std, filter=FILTERS[images.resample], fit="squash"
        ),
        reference_preprocess=reference_preprocess,
        reference_inputs=reference_inputs,
    )
