"""InternVL in its transformers form: InternViT, pixel shuffle and a projector, Qwen2 or LLaMA."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from rar.runtime.errors import ExportError
from rar.runtime.picture.preprocess import Preprocess

from ...encoder.huggingface import read_preprocess
from ..decoder import Decoder
from ..model import Mllm
from ..source import Loaded
from .tiles import Tiled, check_tiles
from .vision import Vision


def adapt(loaded: Loaded, tiles: int | None) -> Mllm:
    """The adapter of `source.load`.

    Raises:
        ExportError: Pictures are prepared in a way the runtime has no form for.
    """
    config, tokenizer, model, images = loaded.config, loaded.tokenizer, loaded.model.model, loaded.images
    rows, one = check_tiles(loaded.folder, tiles), read_preprocess(loaded.folder, images)
    if [one.size, one.size] != list(config.vision_config.image_size):
        raise ExportError(
            f"{loaded.folder}: pictures of {one.size} pixels for a tower that takes others have no form"
            "; choose another model"
        )
    vision: torch.nn.Module = Vision(model).eval()
    tiled = Tiled(vision, one.size, rows, images.resample) if rows > 1 else None
    image = tokenizer.convert_ids_to_tokens(config.image_token_id)
    template = loaded.resolve(image, [tokenizer.start_image_token, image, tokenizer.end_image_token])
    side = one.size // config.vision_config.patch_size[0]
    one_tile = int(side * side * config.downsample_ratio**2)

    def reference_preprocess(picture: Image.Image) -> npt.NDArray[np.float32]:
        edge = {"height": one.size * rows, "width": one.size * rows}
        return np.asarray(images(picture, size=edge, crop_to_patches=False, return_tensors="np")["pixel_values"][0])

    def reference_inputs(ids: torch.Tensor, pixels: torch.Tensor) -> Mapping[str, Any]:
        parts = tiled.split(pixels).flatten(0, 1) if tiled else pixels
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": parts}

    return Mllm(
        **loaded.common(template),
        architecture="internvl",
        vision=tiled or vision,
        vision_shape=(3, one.size * rows, one.size * rows),
        decoder=Decoder(model.language_model, loaded.model.lm_head),
        image_token=config.image_token_id,
        image_tokens=one_tile * (rows * rows + 1 if rows > 1 else 1),
        preprocess=Preprocess.from_dict({**one.to_dict(), "size": one.size * rows, "shortest_edge": one.size * rows}),
        reference_preprocess=reference_preprocess,
        reference_inputs=reference_inputs,
    )
