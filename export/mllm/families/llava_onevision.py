"""LLaVA-OneVision: SigLIP, a projector of two layers, Qwen2.

A picture is one tile and the embedding of a line's end, the form in which the model takes each of several pictures. A
single one it also cuts into tiles; those are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from ...encoder.huggingface import read_preprocess
from ..decoder import Decoder
from ..model import Mllm
from ..source import Loaded
from .llava import Tower, count_tokens


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
    config, tokenizer, images = loaded.config, loaded.tokenizer, loaded.images
    preprocess = read_preprocess(loaded.folder, images)
    vision = _Vision(loaded.model.model).eval()
    image = tokenizer.convert_ids_to_tokens(config.image_token_index)
    template = loaded.resolve(image, [image])

    def reference_preprocess(picture: Image.Image) -> npt.NDArray[np.float32]:
        # The first is the whole picture, its tiles follow.
        return np.asarray(images(picture, return_tensors="np")["pixel_values"][0][0])

    def reference_inputs(ids: torch.Tensor, pixels: torch.Tensor) -> Mapping[str, Any]:
        return {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "pixel_values": pixels[:, None],
            "image_sizes": torch.tensor([pixels.shape[-2:]] * len(pixels)),
            # Any number above one says that pictures are not cut.
            "batch_num_images": torch.tensor([len(pixels) + 1]),
        }

    return Mllm(
        **loaded.common(),
        architecture="llava_onevision",
        vision=vision,
        vision_shape=(3, preprocess.size, preprocess.size),
        decoder=Decoder(loaded.model.model.language_model, loaded.model.lm_head),
        template=template.pieces,
        lead=template.lead,
        reference_tokens=template.tokens,
        image_token=config.image_token_index,
        image_tokens=count_tokens(vision, preprocess.size),
        preprocess=preprocess,
        reference_preprocess=reference_preprocess,
        reference_inputs=reference_inputs,
    )
