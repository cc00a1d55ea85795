"""GRAIN's network: a vision transformer with QK-norm, the region decoder, and CLIP's text tower.

Modules are named as in the released code (shaunak27/grain-clip, clip/custom_models.py), so that its checkpoints fit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from .config import GrainConfig
from .decoder import RegionDecoder
from .places import place

_GROUPS = 4


@dataclass(frozen=True)
class Seen:
    """The network's outputs for pictures.

    Attributes:
        images: float32 [N, d], L2-normalised.
        regions: float32 [N, q, d], L2-normalised.
        boxes: float32 [layers, N, q, 4], after each layer of the decoder: centre, width and height as shares of the
            picture. The last layer's belong to the regions.
    """

    images: Tensor
    regions: Tensor
    boxes: Tensor


class Grain(nn.Module):
    """The whole network. `backbone` and `decoder` are the two parts of a released checkpoint.

    Attributes:
        config: Its shape.
    """

    def __init__(self, config: GrainConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = Backbone(config)
        self.decoder = RegionDecoder(config)
        place(
            cast("nn.Parameter", self.backbone.visual.pos_embed),
            self.decoder.proj,
            self.decoder.query_embed,
            self.decoder.cross_attentions(),
        )

    def see(self, pixels: Tensor) -> Seen:
        """float32 [N, 3, S, S], normalised -> embeddings and boxes."""
        images, regions, boxes = self.decoder(self.backbone.visual.forward_features(pixels))
        return Seen(unit(images), unit(regions), boxes.float())

    def read(self, ids: Tensor) -> Tensor:
        """int64 [N, L], from the tokenizer or cut to the longest text -> float32 [N, d], L2-normalised."""
        return unit(self.backbone.encode_text(ids))

    def forward(self, pixels: Tensor, ids: Tensor) -> tuple[Seen, Tensor, Tensor]:
        """A training step in one call: pictures, texts, and the scale of their cosines."""
        return self.see(pixels), self._read_by_length(ids), self.backbone.logit_scale.exp()

    def _read_by_length(self, ids: Tensor) -> Tensor:
        """As `read`, in groups of similar length: padded to the longest, most of a batch would be padding."""
        lengths = ids.argmax(-1) + 1
        order = lengths.argsort()
        groups = [self.read(ids[part, : int(lengths[part[-1]])]) for part in order.tensor_split(_GROUPS) if len(part)]
        return torch.cat(groups)[order.argsort()]


class Backbone(nn.Module):
    """The two towers, without the released checkpoints' `image_projection`: nothing uses it."""

    mask: Tensor

    def __init__(self, config: GrainConfig) -> None:
        super().__init__()
        from open_clip.transformer import QuickGELU, Transformer
        from timm.models.vision_transformer import VisionTransformer

        self.visual = VisionTransformer(
            img_size=config.image,
            patch_size=config.patch,
            embed_dim=config.width,
            depth=config.depth,
            num_heads=config.heads,
            qk_norm=True,
            num_classes=0,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
        )
        width = config.text_width
        self.transformer = Transformer(width, config.text_depth, config.text_heads, act_layer=QuickGELU)
        self.token_embedding = nn.Embedding(config.vocabulary, width)
        self.positional_embedding = nn.Parameter(torch.empty(config.context, width))
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(torch.empty(width, config.embed))
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        causal = torch.full((config.context, config.context), -math.inf).triu(1)
        self.register_buffer("mask", causal, persistent=False)
        self._initialise(config)

    def encode_text(self, ids: Tensor) -> Tensor:
        """int64 [N, L] -> float [N, d]: the state at the end token, which has the highest id."""
        length = ids.shape[1]
        state = self.token_embedding(ids) + self.positional_embedding[:length]
        state = self.ln_final(self.transformer(state, attn_mask=self.mask[:length, :length]))
        ends: Tensor = state[torch.arange(ids.shape[0], device=ids.device), ids.argmax(-1)]
        return ends @ self.text_projection

    def _initialise(self, config: GrainConfig) -> None:
        """The text tower's block, as in CLIP."""
        width = config.text_width
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        nn.init.normal_(self.positional_embedding, std=0.01)
        nn.init.normal_(self.text_projection, std=width**-0.5)
        narrow = width**-0.5 * (2 * config.text_depth) ** -0.5
        for block in self.transformer.resblocks:
            nn.init.normal_(block.attn.in_proj_weight, std=width**-0.5)
            nn.init.normal_(block.attn.out_proj.weight, std=narrow)
            nn.init.normal_(block.mlp.c_fc.weight, std=(2 * width) ** -0.5)
            nn.init.normal_(block.mlp.c_proj.weight, std=narrow)


def unit(vectors: Tensor) -> Tensor:
    """Float32, each last axis scaled to length 1."""
    return functional.normalize(vectors.float(), dim=-1)
