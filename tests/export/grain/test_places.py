"""An untrained network's region queries read the tokens around places of their own."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny_grain import MICRO
from torch.nn import functional

from rar.export.grain.config import SIZES, GrainConfig
from rar.export.grain.model import Grain


@pytest.mark.parametrize("config", [SIZES["tiny"], MICRO, replace(MICRO, hidden=48), replace(SIZES["tiny"], hidden=64)])
def test_each_region_query_attends_to_a_place_of_its_own(config: GrainConfig) -> None:
    torch.manual_seed(0)
    network = Grain(config)
    decoder, side = network.decoder, config.image // config.patch
    tokens = network.backbone.visual.pos_embed[0, 1:]
    memory = decoder.transformer.pre_norm(decoder.proj(tokens))
    attention = decoder.transformer.decoder.layers[0].multihead_attn
    with torch.no_grad():
        _, weights = attention(decoder.query_embed.weight, memory, memory)
    grid = torch.arange(side) + 0.5
    axes = [grid.repeat(side), grid.repeat_interleave(side)]
    centres = torch.stack([weights[:-1] @ axis / side for axis in axes], 1)
    peaks = torch.stack([axis[weights[:-1].argmax(1)] / side for axis in axes], 1)
    # A random start reads the mean of all tokens: every query's centre is that of the picture.
    assert functional.pdist(centres).min() > 0.05
    assert functional.pdist(peaks).min() >= 1 / side
    # The strongest token and those around it have most of the attention.
    far = torch.cdist(peaks, torch.stack(axes, 1) / side)
    assert (weights[:-1].where(far < 1.5 / side, 0).sum(1) > 0.5).all()


def test_the_image_query_and_the_class_token_start_at_random() -> None:
    networks = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        networks.append(Grain(MICRO))
    first, second = networks
    assert not torch.allclose(first.decoder.query_embed.weight[-1], second.decoder.query_embed.weight[-1])
    assert not torch.allclose(first.backbone.visual.cls_token, second.backbone.visual.cls_token)
    torch.testing.assert_close(first.backbone.visual.pos_embed[0, 1:], second.backbone.visual.pos_embed[0, 1:])
