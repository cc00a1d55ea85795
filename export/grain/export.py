"""A trained GRAIN as a dual encoder that sees regions, for `rar.export.encoder.export.export_clip`."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from ..encoder.model import DualEncoder
from .boxes import to_corners
from .checkpoint import load
from .config import MEAN, STD
from .data import preprocess
from .model import Grain, unit
from .tokens import CLEAN, backend

# The largest difference of an element of an fp32 graph's output from PyTorch's.
_TOLERANCE = 1e-5


def load_encoder(path: Path, size: str | None = None) -> DualEncoder:
    """Loads a checkpoint; see `checkpoint.load`.

    The picture tower outputs the embedding of the image query, and the embeddings and boxes of the region queries: x0,
    y0, x1, y1 as shares of the picture. The released backbone's own image embedding is left out: GRAIN does not train
    it.
    """
    return dual_encoder(load(path, size).model, f"GRAIN {path.name}")


def dual_encoder(model: Grain, source: str) -> DualEncoder:
    """A network in eval mode, in the form that the export takes."""
    import open_clip

    config = model.config
    simple = open_clip.SimpleTokenizer(context_length=config.context)

    def reference_preprocess(image: Image.Image) -> npt.NDArray[np.float32]:
        """The released code's preparation: Resize((S, S), bicubic), ToTensor, Normalize."""
        squashed = image.resize((config.image, config.image), Image.Resampling.BICUBIC)
        scaled = np.asarray(squashed, np.float32) / 255
        normal = (scaled - np.array(MEAN, np.float32)) / np.array(STD, np.float32)
        return np.asarray(normal.transpose(2, 0, 1), np.float32)

    def reference_tokenize(texts: Sequence[str]) -> npt.NDArray[np.int64]:
        return np.asarray(simple(list(texts)).numpy())

    return DualEncoder(
        source=source,
        visual=_Visual(model).eval(),
        text=_Text(model).eval(),
        preprocess=preprocess(config),
        tokenizer=backend(config),
        clean=CLEAN,
        reference_preprocess=reference_preprocess,
        reference_tokenize=reference_tokenize,
        visual_outputs=("image_embeds", "region_embeds", "region_boxes"),
        tolerance=_TOLERANCE,
    )


class _Visual(torch.nn.Module):
    """float32 [N, 3, S, S] -> float32 [N, d], [N, q, d] and [N, q, 4]."""

    def __init__(self, model: Grain) -> None:
        super().__init__()
        self.tower, self.decoder = model.backbone.visual, deepcopy(model.decoder)
        for layer in self.decoder.transformer.decoder.layers:
            for name, part in list(layer.named_children()):
                if isinstance(part, torch.nn.MultiheadAttention):
                    setattr(layer, name, _Attention(part))

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        images, regions, boxes = self.decoder(self.tower.forward_features(pixels))
        return unit(images), unit(regions), to_corners(boxes[-1]).clamp(0, 1)


class _Attention(torch.nn.Module):
    """`MultiheadAttention` with three weights instead of one: slices made at run time could not be quantised."""

    def __init__(self, packed: torch.nn.MultiheadAttention) -> None:
        super().__init__()
        self.heads = packed.num_heads
        parts = zip(packed.in_proj_weight.detach().chunk(3), packed.in_proj_bias.detach().chunk(3), strict=True)
        self.query, self.key, self.value = (_linear(weight, bias) for weight, bias in parts)
        self.out = packed.out_proj

    def forward(self, query: Tensor, key: Tensor, value: Tensor, need_weights: bool) -> tuple[Tensor, None]:
        projected = (self.query(query), self.key(key), self.value(value))
        heads = [state.unflatten(-1, (self.heads, -1)).transpose(1, 2) for state in projected]
        mixed = functional.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)
        return self.out(mixed), None


def _linear(weight: Tensor, bias: Tensor) -> torch.nn.Linear:
    linear = torch.nn.Linear(weight.shape[1], weight.shape[0])
    linear.load_state_dict({"weight": weight, "bias": bias})
    return linear


class _Text(torch.nn.Module):
    """int64 [N, L] -> float32 [N, d]."""

    def __init__(self, model: Grain) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor) -> Tensor:
        return self.model.read(ids)
