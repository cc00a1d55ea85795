"""LLaVA-1.5: a layer of CLIP or SigLIP, a projector of two layers, LLaMA."""

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


class Tower(torch.nn.Module):
    """`LlavaModel.get_image_features` for a batch of any size, as one tensor."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.tower, self.projector, config = model.vision_tower, model.multi_modal_projector, model.config
        layers = config.vision_feature_layer
        self.layers = [layers] if isinstance(layers, int) else list(layers)
        self.skipped = 1 if config.vision_feature_select_strategy == "default" else 0

    def forward(self, pixels: torch.Tensor) -> Any:
        """float32 [N, 3, S, S] -> float32 [N, T, D]."""
        states = self.tower(pixels, output_hidden_states=True).hidden_states
        return self.projector(torch.cat([states[layer][:, self.skipped :] for layer in self.layers], -1))


def count_tokens(vision: torch.nn.Module, size: int) -> int:
    """Tokens of a picture: patches, and a class token where the tower has one that is not skipped."""
    with torch.inference_mode():
        return int(vision(torch.zeros(1, 3, size, size)).shape[1])


def adapt(loaded: Loaded, tiles: int | None) -> Mllm:
    """The adapter of `source.load`.

    Raises:
        ExportError: Tiles were asked for, or the pictures are prepared in a way the runtime has no form for.
    """
    loaded.refuse_tiles(tiles)
    return one_tile(loaded, "llava", Tower(loaded.model.model).eval())


def one_tile(loaded: Loaded, architecture: str, vision: torch.nn.Module, *, inline: bool = False) -> Mllm:
    """A model in LLaVA's form: pictures as `pixel_values`, a placeholder a token, a language model and a head.

    Args:
        loaded: Its parts.
        architecture: See `Mllm`.
        vision: float32 [N, 3, S, S] -> float32 [N, T, D].
        inline: See `template.resolve`.

    Raises:
        ExportError: The pictures are prepared in a way the runtime has no form for.
    """
    config, tokenizer = loaded.config, loaded.tokenizer
    preprocess = read_preprocess(loaded.folder, loaded.images)
    placeholder = tokenizer.convert_ids_to_tokens(config.image_token_index)
    template = loaded.resolve(placeholder, [placeholder], inline=inline)

    def reference_preprocess(image: Image.Image) -> npt.NDArray[np.float32]:
        return np.asarray(loaded.images(image, return_tensors="np")["pixel_values"][0])

    def reference_inputs(ids: torch.Tensor, pixels: torch.Tensor) -> Mapping[str, Any]:
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels}

    return Mllm(
        **loaded.common(template),
        architecture=architecture,
        vision=vision,
        vision_shape=(3, preprocess.size, preprocess.size),
        decoder=Decoder(loaded.model.model.language_model, loaded.model.lm_head),
        image_token=config.image_token_index,
        image_tokens=count_tokens(vision, preprocess.size),
        preprocess=preprocess,
        reference_preprocess=reference_preprocess,
        reference_inputs=reference_inputs,
    )
