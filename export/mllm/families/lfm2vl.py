"""LFM2-VL: SigLIP 2, pixel unshuffle and a projector, LFM2: short convolutions between layers that attend.

A convolution mixes a token with the few before it. In a packed tree these are not its neighbours in the row but the
nearest tokens before it that the mask lets it see, for a row holds every branch in order. So each token's input to a
convolution is kept in the cache as its keys and values are, in their form, and gathered from there.

Liquid AI, LFM2 Technical Report, 2025; transformers `Lfm2ShortConv`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from ...graphs.past import Past
from ..decoder import Decoder, attention, hidden_by
from ..model import Mllm
from ..source import Loaded


def before(mask: torch.Tensor, count: int) -> list[torch.Tensor]:
    """The tokens that precede each new token on its own branch.

    Args:
        mask: bool [N, 1, L, P + L], see `Decoder.forward`.
        count: How many of them.

    Returns:
        The nearest first, each int64 [N, L]: its place among past and new tokens, from 1; 0 if there is none.
    """
    seen, length = mask[:, 0], mask.shape[2]
    places = torch.arange(1, seen.shape[2] + 1, device=mask.device)
    found, limit = [], places[-length:].expand(seen.shape[0], length)
    for _ in range(count):
        limit = torch.where(seen & (places < limit.unsqueeze(-1)), places, 0).amax(-1)
        found.append(limit)
    return found


class _Step(torch.nn.Module):
    """A layer of LFM2 in a packed sequence.

    Args:
        layer: The layer.
        heads: How many heads the cache has.
        width: Of each.
        cache: The name of its attention's argument for the cache.
    """

    def __init__(self, layer: Any, heads: int, width: int, cache: str) -> None:
        super().__init__()
        self.layer, self.heads, self.width, self.cache = layer, heads, width, cache
        self.attends = bool(layer.is_attention_layer)

    @property
    def slots(self) -> int:
        """How many pairs of keys and values it fills: as many as its convolution's inputs are wide."""
        return 1 if self.attends else math.ceil(self.layer.conv.out_proj.out_features / (2 * self.heads * self.width))

    def forward(
        self,
        hidden: torch.Tensor,
        turns: tuple[torch.Tensor, torch.Tensor],
        hides: torch.Tensor,
        preceding: Sequence[torch.Tensor],
        cache: Past,
    ) -> torch.Tensor:
        """float32 [N, L, D] of the layer before -> its own."""
        layer = self.layer
        normed = layer.operator_norm(hidden)
        if self.attends:
            mixed, _ = layer.self_attn(
                hidden_states=normed, position_embeddings=turns, attention_mask=hides, **{self.cache: cache}
            )
        else:
            mixed = self._convolve(layer.conv, normed, preceding, cache)
        hidden = hidden + mixed
        return torch.as_tensor(hidden + layer.feed_forward(layer.ffn_norm(hidden)))

    def _convolve(
        self, conv: Any, hidden: torch.Tensor, preceding: Sequence[torch.Tensor], cache: Past
    ) -> torch.Tensor:
        """`Lfm2ShortConv` over each token's own branch: float32 [N, L, D]."""
        gate, after, inner = conv.in_proj(hidden).chunk(3, -1)
        new = gate * inner
        batch, length, width = new.shape
        padded = torch.nn.functional.pad(new, (0, self.slots * 2 * self.heads * self.width - width))
        parts = torch.split(padded, self.heads * self.width, -1)
        heads = [part.reshape(batch, length, self.heads, self.width).transpose(1, 2) for part in parts]
        held = [kept for number in range(0, len(heads), 2) for kept in cache.update(heads[number], heads[number + 1])]
        every = torch.cat([part.transpose(1, 2).flatten(2) for part in held], -1)[..., :width]
        # Before the first token there is nothing.
        every = torch.nn.functional.pad(every, (0, 0, 1, 0))
        kernel = conv.conv.weight[:, 0]
        mixed = new * kernel[:, -1]
        for back, places in enumerate(preceding, 2):
            mixed = mixed + torch.gather(every, 1, places.unsqueeze(-1).expand(-1, -1, width)) * kernel[:, -back]
        if conv.conv.bias is not None:
            mixed = mixed + conv.conv.bias
        return torch.as_tensor(conv.out_proj(after * mixed))


class HybridDecoder(Decoder):
    """LFM2, with a convolution's inputs in as many slots of keys and values as they fill."""

    def __init__(self, language: Any, head: torch.nn.Linear) -> None:
        super().__init__(language, head)
        steps = [_Step(layer, self.kv_heads, self.head_dim, self._cache) for layer in language.layers]
        self.steps, self.layers = torch.nn.ModuleList(steps), sum(step.slots for step in steps)

    def forward(
        self,
        inputs_embeds: torch.Tensor,
        attention_mask: torch.Tensor,
        position_ids: torch.Tensor,
        logit_positions: torch.Tensor,
        *past: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        """See `Decoder.forward`."""
        language: Any = self.language
        cache, hides = Past(past), hidden_by(attention_mask)
        turns = language.rotary_emb(inputs_embeds, position_ids)
        preceding = before(attention_mask, language.config.conv_L_cache - 1)
        hidden = inputs_embeds
        with attention(language):
            for step in self.steps:
                hidden = step(hidden, turns, hides, preceding, cache)
        return (self.logits(language.embedding_norm(hidden), logit_positions), *cache.new)


class _Vision(torch.nn.Module):
    """`get_image_features` for squares of one size, none of them padded, so that positions are resized once."""

    places: torch.Tensor

    def __init__(self, model: Any, side: int) -> None:
        super().__init__()
        tower = getattr(model.vision_tower, "vision_model", model.vision_tower)
        self.tower, self.projector, self.side = tower, model.multi_modal_projector, side
        self.patch = model.config.vision_config.patch_size
        blank = torch.zeros(1, side**2, 3 * self.patch**2)
        with torch.inference_mode():
            places = tower.embeddings(blank, torch.tensor([[side, side]])) - tower.embeddings.patch_embedding(blank)
        self.register_buffer("places", places.clone())

    def cut(self, pixels: torch.Tensor) -> torch.Tensor:
        """The patches of pictures, row by row, each by rows of points: float32 [N, side², patch² * 3]."""
        parts = pixels.reshape(-1, 3, self.side, self.patch, self.side, self.patch)
        return parts.permute(0, 2, 4, 3, 5, 1).reshape(-1, self.side**2, 3 * self.patch**2)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """float32 [N, 3, S, S] -> float32 [N, T, D]."""
        hidden = self.tower.embeddings.patch_embedding(self.cut(pixels)) + self.places
        hidden = self.tower.post_layernorm(self.tower.encoder(inputs_embeds=hidden).last_hidden_state)
        return torch.as_tensor(self.projector(hidden.reshape(-1, self.side, self.side, hidden.shape[-1]))).flatten(1, 2)


def adapt(loaded: Loaded, tiles: int | None) -> Mllm:
    """The adapter of `source.load`.

    Raises:
        ExportError: Tiles were asked for, or pictures are prepared in a way the runtime has no form for.
    """
    loaded.refuse_tiles(tiles)
    config, tokenizer, model, images = loaded.config, loaded.tokenizer, loaded.model.model, loaded.images
    factor, patch = config.downsample_factor, config.vision_config.patch_size
    grid = math.isqrt(images.max_image_tokens)
    size = grid * factor * patch
    preprocess = loaded.square(size)
    vision = _Vision(model, grid * factor).eval()
    image = tokenizer.convert_ids_to_tokens(config.image_token_id)
    template = loaded.resolve(image, ["<|image_start|>", image, "<|image_end|>"])

    def reference_preprocess(picture: Image.Image) -> npt.NDArray[np.float32]:
        # One token less and one more than the square has: the processor divides by a root and rounds down or up.
        around = {"min_image_tokens": grid**2 - 1, "max_image_tokens": grid**2 + 1}
        prepared = images(picture, do_image_splitting=False, do_pad=False, return_tensors="pt", **around)
        parts = np.asarray(prepared["pixel_values"][0]).reshape(grid * factor, grid * factor, patch, patch, 3)
        return parts.transpose(4, 0, 2, 1, 3).reshape(3, size, size)

    def reference_inputs(ids: torch.Tensor, pixels: torch.Tensor) -> Mapping[str, Any]:
        patches = vision.cut(pixels)
        return {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "pixel_values": patches,
            "pixel_attention_mask": torch.ones(patches.shape[:2], dtype=torch.int64),
            "spatial_shapes": torch.tensor([[vision.side, vision.side]] * len(pixels)),
        }

    return Mllm(
        **loaded.common(template),
        architecture="lfm2vl",
        vision=vision,
        vision_shape=(3, size, size),
        decoder=HybridDecoder(model.language_model, loaded.model.lm_head),
        image_token=config.image_token_id,
        image_tokens=grid**2,
        preprocess=preprocess,
        reference_preprocess=reference_preprocess,
        # Its processor has torchvision's form alone.
        rounded=1,
        reference_inputs=reference_inputs,
    )
