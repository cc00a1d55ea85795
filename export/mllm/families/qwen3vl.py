"""Qwen3-VL: a tower whose intermediate features reach the decoder's first layers (DeepStack), Qwen3 with M-RoPE.

The features for each of those layers lie behind a picture's embeddings, and zeros behind those of words. So a row of
embeddings is wider than the language model, and nothing else of the runtime changes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ..decoder import Decoder
from ..model import Mllm
from ..source import Loaded
from .qwen import Tower, check_frames, reference_inputs, reference_preprocess

# 144 tokens with the published models' patches of 16, merged by 2.
_SIZE = 384


class _Vision(Tower):
    """`Qwen3VLVisionModel` for squares of one size: float32 [N, T, (1 + deep) * D]."""

    places: torch.Tensor

    def __init__(self, tower: Any, size: int) -> None:
        super().__init__(tower, size)
        learned = tower.pos_embed.weight.detach()
        grid = learned.T.reshape(1, -1, *[tower.num_grid_per_side] * 2)
        square = torch.nn.functional.interpolate(grid, [self.side] * 2, mode="bilinear", align_corners=True)
        self.register_buffer("places", self.blocked(square[0].flatten(1).T))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        bias = self.tower.patch_embed.proj.bias
        hidden = torch.nn.functional.linear(self.cut(pixels).flatten(2), self.embed, bias) + self.places
        deep: list[torch.Tensor] = []
        for number, block in enumerate(self.blocks):
            hidden = block(hidden, self.cos, self.sin)
            if number in self.tower.deepstack_visual_indexes:
                deep.append(self.tower.deepstack_merger_list[len(deep)](hidden))
        tokens = torch.cat([self.tower.merger(hidden), *deep], -1)
        return tokens.reshape(-1, self.side**2 // self.merge**2, tokens.shape[-1])


class _Embed(torch.nn.Module):
    """The token table, with zeros where a picture has features for the first layers."""

    def __init__(self, table: torch.nn.Module, zeros: int) -> None:
        super().__init__()
        self.table, self.zeros = table, zeros

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.pad(self.table(ids), (0, self.zeros))


class _Decoder(Decoder):
    """Adds the features behind the embeddings to what the first layers give."""

    def __init__(self, language: Any, head: torch.nn.Linear, deep: int) -> None:
        super().__init__(language, head, position_dims=3)
        self.deep, self.width = deep, self.dim
        self.dim = self.width * (1 + deep)

    def forward(
        self,
        inputs_embeds: torch.Tensor,
        attention_mask: torch.Tensor,
        position_ids: torch.Tensor,
        logit_positions: torch.Tensor,
        *past: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        first, *deep = torch.split(inputs_embeds, self.width, -1)
        with self._added(deep):
            return super().forward(first, attention_mask, position_ids, logit_positions, *past)

    @contextmanager
    def _added(self, deep: list[torch.Tensor]) -> Iterator[None]:
        layers: Any = self.language.layers
        hooks = [
            layer.register_forward_hook(lambda _, __, hidden, feature=feature: hidden + feature)
            for layer, feature in zip(layers, deep, strict=False)
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


def adapt(loaded: Loaded, tiles: int | None) -> Mllm:
    """The adapter of `source.load`.

    Raises:
        ExportError: Tiles were asked for, or pictures are prepared in a way the runtime has no form for.
    """
    loaded.refuse_tiles(tiles)
    config, tokenizer, model, images = loaded.config, loaded.tokenizer, loaded.model.model, loaded.images
    factor = images.patch_size * images.merge_size
    check_frames(loaded.folder, images)
    grid = max(1, round(_SIZE / factor))
    size = grid * factor
    preprocess = loaded.square(size)
    vision = _Vision(model.visual, size).eval()
    decoder = _Decoder(model.language_model, loaded.model.lm_head, len(model.visual.deepstack_visual_indexes))
    image = tokenizer.convert_ids_to_tokens(config.image_token_id)
    template = loaded.resolve(image, [image])
    common = loaded.common(template)
    return Mllm(
        **{**common, "embed": _Embed(common["embed"], decoder.dim - decoder.width).eval()},
        architecture="qwen3vl",
        vision=vision,
        vision_shape=(3, size, size),
        decoder=decoder,
        image_token=config.image_token_id,
        image_tokens=grid * grid,
        image_positions={"grid": [grid, grid]},
        preprocess=preprocess,
        reference_preprocess=reference_preprocess(images, size),
        reference_inputs=reference_inputs(loaded.model, vision, config.image_token_id),
    )
