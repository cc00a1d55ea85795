"""LLaVA-1.5: CLIP's penultimate layer, a projector of two layers, LLaMA."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from rar.runtime.errors import ExportError

from ..huggingface import read_preprocess
from .decoder import Decoder
from .model import Mllm
from .source import Loaded


class _Vision(torch.nn.Module):
    """`LlavaModel.get_image_features` for a batch of any size, as one tensor."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.tower, self.projector, config = model.vision_tower, model.multi_modal_projector, model.config
        layers = config.vision_feature_layer
        self.layers = [layers] if isinstance(layers, int) else list(layers)
        self.skipped = 1 if config.vision_feature_select_strategy == "default" else 0

    def forward(self, pixels: torch.Tensor) -> Any:
        states = self.tower(pixels, output_hidden_states=True).hidden_states
        return self.projector(torch.cat([states[layer][:, self.skipped :] for layer in self.layers], -1))


def adapt(loaded: Loaded, tiles: int | None) -> Mllm:
    """The adapter of `source.load`.

    Raises:
        ExportError: Tiles were asked for, or the pictures are prepared in a way the runtime has no form for.
    """
    if tiles is not None:
        raise ExportError(f"{loaded.folder}: LLaVA-1.5 takes one tile a picture; leave --tiles out")
    config, tokenizer = loaded.config, loaded.tokenizer
    preprocess = read_preprocess(loaded.folder, loaded.images)
    vision = _Vision(loaded.model.model).eval()
    placeholder = tokenizer.convert_ids_to_tokens(config.image_token_index)
    template = loaded.resolve(placeholder, [placeholder])

    def reference_preprocess(image: Image.Image) -> npt.NDArray[np.float32]:
        return np.asarray(loaded.images(image, return_tensors="np")["pixel_values"][0])

    def reference_inputs(ids: torch.Tensor, pixels: torch.Tensor) -> Mapping[str, Any]:
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels}

    side = config.vision_config.image_size // config.vision_config.patch_size
    return Mllm(
        **loaded.common(),
        architecture="llava",
        vision=vision,
        vision_shape=(3, preprocess.size, preprocess.size),
        decoder=Decoder(loaded.model.model.language_model, loaded.model.lm_head),
        template=template.pieces,
        lead=template.lead,
        reference_tokens=template.tokens,
        image_token=config.image_token_index,
        image_tokens=side * side + 1 - vision.skipped,
        preprocess=preprocess,
        reference_preprocess=reference_preprocess,
        reference_inputs=reference_inputs,
    )
