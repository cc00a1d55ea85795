"""Qwen2.5-VL: a tower with window attention, Qwen2 with positions of three dimensions (M-RoPE).

The model takes pictures of any shape; here they have one fixed size, in which whole windows fit. So every window has
the same number of patches, and a batch of pictures is a batch of windows.
"""

from __future__ import annotations

from typing import Any

import torch

from rar.runtime.errors import ExportError

from ..decoder import Decoder
from ..model import Mllm
from ..source import Loaded
from .qwen import Tower, check_frames, reference_inputs, reference_preprocess

# 144 tokens with the published models' patches of 14, merged by 2, and windows of 112.
_SIZE = 336


class _Vision(Tower):
    """`Qwen2_5_VisionTransformerPretrainedModel` for squares of one size, in a batch."""

    units: torch.Tensor
    back: torch.Tensor

    def __init__(self, tower: Any, size: int) -> None:
        merge = tower.spatial_merge_size
        grid, window = size // (tower.patch_size * merge), tower.window_size // (tower.patch_size * merge)
        parts = torch.arange(grid * grid).reshape(grid // window, window, grid // window, window)
        units = parts.transpose(1, 2).flatten()
        cut = (grid // window) ** 2
        windows = [1 if number in tower.fullatt_block_indexes else cut for number in range(len(tower.blocks))]
        super().__init__(tower, size, (units[:, None] * merge**2 + torch.arange(merge**2)).flatten(), windows)
        self.register_buffer("units", units)
        self.register_buffer("back", torch.argsort(units))

    def forward(self, pixels: torch.Tensor) -> Any:
        hidden = torch.nn.functional.linear(self.cut(pixels).flatten(2), self.embed)
        count, width = self.side**2, hidden.shape[-1]
        units = hidden.reshape(-1, count // self.merge**2, self.merge**2 * width)
        hidden = units[:, self.units].reshape(-1, count, width)
        for block in self.blocks:
            hidden = block(hidden, self.cos, self.sin)
        merged = self.tower.merger(hidden)
        return merged.reshape(-1, count // self.merge**2, merged.shape[-1])[:, self.back]


def adapt(loaded: Loaded, tiles: int | None) -> Mllm:
    """The adapter of `source.load`.

    Raises:
        ExportError: Tiles were asked for, or pictures are prepared in a way the runtime has no form for.
    """
    loaded.refuse_tiles(tiles)
    config, tokenizer, model, images = loaded.config, loaded.tokenizer, loaded.model.model, loaded.images
    tower, factor = config.vision_config, images.patch_size * images.merge_size
    size = max(1, round(_SIZE / tower.window_size)) * tower.window_size
    check_frames(loaded.folder, images)
    if tower.window_size % factor:
        raise ExportError(
            f"{loaded.folder}: windows of {tower.window_size} pixels do not hold patches of {factor}"
            "; choose another model"
        )
    preprocess = loaded.square(size)
    vision = _Vision(model.visual, size).eval()
    image = tokenizer.convert_ids_to_tokens(config.image_token_id)
    template = loaded.resolve(image, [image])
    grid = size // factor
    return Mllm(
        **loaded.common(template),
        architecture="qwen25vl",
        vision=vision,
        vision_shape=(3, size, size),
        decoder=Decoder(model.language_model, loaded.model.lm_head, position_dims=3),
        image_token=config.image_token_id,
        image_tokens=grid * grid,
        image_positions={"grid": [grid, grid]},
        preprocess=preprocess,
        reference_preprocess=reference_preprocess(images, size),
        reference_inputs=reference_inputs(loaded.model, vision, config.image_token_id),
    )
