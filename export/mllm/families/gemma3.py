"""Gemma 3: SigLIP, average pooling and one linear layer, a decoder with local and global layers.

Each token of a picture sees the whole picture. Local layers see only their window; prompts are kept within it, so that
one mask holds for all layers. Pan-and-scan, the cuts of long pictures, is off, as it is by default.
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
from .vision import Vision


def adapt(loaded: Loaded, tiles: int | None) -> Mllm:
    """The adapter of `source.load`.

    Raises:
        ExportError: Tiles were asked for, or the pictures are prepared in a way the runtime has no form for.
    """
    loaded.refuse_tiles(tiles)
    config, tokenizer, model, images = loaded.config, loaded.tokenizer, loaded.model.model, loaded.images
    preprocess = read_preprocess(loaded.folder, images)
    begin, image, end = map(
        tokenizer.convert_ids_to_tokens, (config.boi_token_index, config.image_token_index, config.eoi_token_index)
    )
    template = loaded.resolve(begin, ["\n\n", begin, image, end, "\n\n"], image)
    common = loaded.common(template)
    window = config.text_config.sliding_window or common["context"]

    def reference_preprocess(picture: Image.Image) -> npt.NDArray[np.float32]:
        return np.asarray(images(picture, do_pan_and_scan=False, return_tensors="np")["pixel_values"][0])

    def reference_inputs(ids: torch.Tensor, pixels: torch.Tensor) -> Mapping[str, Any]:
        return {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "token_type_ids": (ids == config.image_token_index).int(),
            "pixel_values": pixels,
        }

    return Mllm(
        **{**common, "context": min(common["context"], window)},
        architecture="gemma3",
        vision=Vision(model).eval(),
        vision_shape=(3, preprocess.size, preprocess.size),
        decoder=Decoder(model.language_model, loaded.model.lm_head),
        image_token=config.image_token_index,
        image_tokens=config.mm_tokens_per_image,
        whole_picture=True,
        preprocess=preprocess,
        reference_preprocess=reference_preprocess,
        reference_inputs=reference_inputs,
    )
