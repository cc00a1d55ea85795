"""What the towers of Qwen's models share: patches in blocks, rotary attention, squares of one size in a batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from rar.runtime.errors import ExportError

from ...compat import takes

_THETA = 10000.0


class _Block(torch.nn.Module):
    """A layer of a tower.

    Args:
        block: The layer of transformers.
        windows: Equal parts of a picture's patches that do not see each other.
    """

    def __init__(self, block: Any, windows: int) -> None:
        super().__init__()
        self.block, self.windows = block, windows

    def forward(self, hidden: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        """float32 [N, patches, D] of the layer before -> its own; `cos` and `sin` turn a head by its patch's place."""
        block = self.block
        hidden = hidden + self._attend(block.attn, block.norm1(hidden), cos, sin)
        return hidden + torch.as_tensor(block.mlp(block.norm2(hidden)))

    def _attend(self, attention: Any, hidden: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> Any:
        count, width = hidden.shape[1:]
        parts = attention.qkv(hidden).reshape(-1, count, 3, attention.num_heads, width // attention.num_heads)
        query, key, value = parts.unbind(2)
        query, key = (_rotate(part, cos, sin) for part in (query, key))
        query, key, value = (
            part.reshape(-1, count // self.windows, *part.shape[2:]).transpose(1, 2) for part in (query, key, value)
        )
        mixed = torch.nn.functional.scaled_dot_product_attention(query, key, value, scale=attention.scaling)
        return attention.proj(mixed.transpose(1, 2).reshape(-1, count, width))


def _rotate(part: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    first, second = part.chunk(2, -1)
    return part * cos + torch.cat([-second, first], -1) * sin


class Tower(torch.nn.Module):
    """A tower for squares of one size: the patches of every picture lie in the same order.

    Args:
        tower: The tower of transformers.
        size: Side of a picture in pixels.
        order: int64 [patches], in which the tower sees the processor's patches.
        windows: How many windows each layer has; None for one.

    Attributes:
        side: Patches in a row.
        merge: Patches in a row of those that become one token.
    """

    order: torch.Tensor
    cos: torch.Tensor
    sin: torch.Tensor

    def __init__(
        self, tower: Any, size: int, order: torch.Tensor | None = None, windows: Sequence[int] | None = None
    ) -> None:
        super().__init__()
        self.tower, self.merge, self.patch = tower, tower.spatial_merge_size, tower.patch_size
        self.blocks = torch.nn.ModuleList(map(_Block, tower.blocks, windows or [1] * len(tower.blocks)))
        self.side = size // self.patch
        weight = tower.patch_embed.proj.weight
        # A still picture is two equal frames: their weights add up.
        self.embed = torch.nn.Parameter(weight.detach().sum(2).flatten(1), requires_grad=False)
        heads = tower.blocks[0].attn.num_heads
        quarter = torch.arange(0, len(weight) // heads // 2, 2) / (len(weight) // heads // 2)
        places = self.blocked(torch.cartesian_prod(torch.arange(self.side), torch.arange(self.side)))
        places = places if order is None else places[order]
        angles = (places[:, :, None] * (1.0 / _THETA**quarter)).flatten(1)
        angles = torch.cat([angles, angles], -1)[:, None]
        self.register_buffer("cos", angles.cos())
        self.register_buffer("sin", angles.sin())

    def blocked(self, rows: torch.Tensor) -> torch.Tensor:
        """[side * side, C] row by row -> the processor's order, in which the patches of a token are neighbours."""
        blocks, merge = self.side // self.merge, self.merge
        return rows.reshape(blocks, merge, blocks, merge, -1).transpose(1, 2).reshape(len(rows), -1)

    def cut(self, pixels: torch.Tensor) -> torch.Tensor:
        """Patches in the order of the model's processor: float32 [N, patches, 3, patch, patch]."""
        blocks, merge, patch = self.side // self.merge, self.merge, self.patch
        parts = pixels.reshape(-1, 3, blocks, merge, patch, blocks, merge, patch)
        return parts.permute(0, 2, 5, 3, 6, 1, 4, 7).reshape(-1, self.side**2, 3, patch, patch)


def check_frames(folder: str, images: Any) -> None:
    """A still picture is two frames; see `Tower`.

    Raises:
        ExportError: The processor makes it of another number.
    """
    if images.temporal_patch_size != 2:
        raise ExportError(f"{folder}: {images.temporal_patch_size} frames a patch have no form; choose another model")


def reference_preprocess(images: Any, size: int) -> Callable[[Image.Image], npt.NDArray[np.float32]]:
    """The processor's own preparation of a picture at one size, back from its patches to a picture."""
    edge = {"shortest_edge": size * size, "longest_edge": size * size}
    grid = size // (images.patch_size * images.merge_size)

    def prepare(picture: Image.Image) -> npt.NDArray[np.float32]:
        patches = images(picture, size=edge, return_tensors="np")["pixel_values"]
        # Each patch is two equal frames.
        parts = patches.reshape(grid, grid, images.merge_size, images.merge_size, 3, 2, *[images.patch_size] * 2)
        return np.asarray(parts[:, :, :, :, :, 0].transpose(4, 0, 2, 5, 1, 3, 6).reshape(3, size, size))

    return prepare


def reference_inputs(
    model: Any, vision: Tower, image_token: int
) -> Callable[[torch.Tensor, torch.Tensor], Mapping[str, Any]]:
    """The reference's arguments for ids and the pictures in them."""
    typed = takes(model, "mm_token_type_ids")

    def inputs(ids: torch.Tensor, pixels: torch.Tensor) -> Mapping[str, Any]:
        patches = vision.cut(pixels)[:, :, :, None].expand(-1, -1, -1, 2, -1, -1)
        return {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "pixel_values": patches.flatten(2).flatten(0, 1),
            "image_grid_thw": torch.tensor([[1, vision.side, vision.side]] * len(pixels)),
            **({"mm_token_type_ids": (ids == image_token).int()} if typed else {}),
        }

    return inputs
