"""The shape of a GRAIN model, and the named sizes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

# Normalisation of the pictures: ImageNet's and not CLIP's (shaunak27/grain-clip, dataloaders/cub_annotated.py).
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class GrainConfig:
    """The shape of a model; the three published sizes share the defaults.

    Attributes:
        image: Side of the picture, in pixels.
        patch: Side of a patch.
        width: Width of the vision transformer.
        depth: Its blocks.
        heads: Its attention heads.
        text_width: Width of the text tower.
        text_depth: Its blocks.
        text_heads: Its attention heads.
        context: Tokens per text, start and end included.
        vocabulary: Size of CLIP's vocabulary.
        embed: Dimension d of the joint space.
        hidden: Width of the decoder.
        decoder_depth: Its layers.
        decoder_heads: Its attention heads.
        feedforward: Width of its feed-forward layers.
        dropout: Dropout of the decoder in training.
        queries: Region queries, not counting the image query.
    """

    image: int = 224
    patch: int = 16
    width: int = 384
    depth: int = 12
    heads: int = 12
    text_width: int = 512
    text_depth: int = 12
    text_heads: int = 8
    context: int = 77
    vocabulary: int = 49408
    embed: int = 512
    hidden: int = 512
    decoder_depth: int = 6
    decoder_heads: int = 8
    feedforward: int = 2048
    dropout: float = 0.1
    queries: int = 5


SIZES: Mapping[str, GrainConfig] = {
    # Trains in an hour on two cores: `rar-bench grain`.
    "tiny": GrainConfig(
        image=96, patch=12, width=128, depth=6, heads=4, text_width=128, text_depth=2, text_heads=4, context=32,
        embed=128, hidden=128, decoder_heads=4, feedforward=512,
    ),
    "vit-s16": GrainConfig(),
    "vit-b16": GrainConfig(width=768),
    "vit-l14": GrainConfig(patch=14, width=1024, depth=24, heads=16),
}  # fmt: skip
