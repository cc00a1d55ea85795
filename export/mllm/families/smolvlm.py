"""SmolVLM, SmolVLM2 and Idefics3: SigLIP, pixel shuffle and one linear layer, a LLaMA-like language model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from ..decoder import Decoder
from ..model import Mllm
from ..source import Loaded
from .tiles import Tiled, check_tiles


class _Vision(torch.nn.Module):
    """`get_image_features` for whole tiles of the tower's own size.

    The model computes the patches' positions by loops over a padding mask. Here no tile is padded, so the positions are
    read once.
    """

    places: torch.Tensor

    def __init__(self, model: Any, size: int) -> None:
        super().__init__()
        tower, patch = model.vision_model, model.config.vision_config.patch_size
        self.patches, self.encoder, self.norm = tower.embeddings.patch_embedding, tower.encoder, tower.post_layernorm
        self.connector = model.connector
        blank, whole = torch.zeros(1, 3, size, size), torch.ones(1, size // patch, size // patch, dtype=torch.bool)
        with torch.inference_mode():
            places = tower.embeddings(blank, whole) - self._embed(blank)
        self.register_buffer("places", places.clone())

    def _embed(self, pixels: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(self.patches(pixels)).flatten(2).transpose(1, 2)

    def forward(self, pixels: torch.Tensor) -> Any:
        hidden = self.encoder(inputs_embeds=self._embed(pixels) + self.places, attention_mask=None)
        return self.connector(self.norm(hidden.last_hidden_state))


def adapt(loaded: Loaded, tiles: int | None) -> Mllm:
    """The adapter of `source.load`.

    Raises:
        ExportError: Pictures are prepared in a way the runtime has no form for.
    """
    config, tokenizer, model, images = loaded.config, loaded.tokenizer, loaded.model.model, loaded.images
    rows, size = check_tiles(loaded.folder, tiles), images.max_image_size["longest_edge"]
    preprocess = loaded.square(size * rows)
    vision: torch.nn.Module = _Vision(model, size).eval()
    tiled = Tiled(vision, size, rows, images.resample) if rows > 1 else None
    image = tokenizer.convert_ids_to_tokens(config.image_token_id)
    template = loaded.resolve(image, _picture(image, rows))
    one_tile = (size // config.vision_config.patch_size) ** 2 // config.scale_factor**2

    def reference_preprocess(picture: Image.Image) -> npt.NDArray[np.float32]:
        edge = {"longest_edge": size * rows}
        prepared = images(
            picture, do_image_splitting=False, size=edge, max_image_size=edge, do_pad=False, return_tensors="np"
        )
        return np.asarray(prepared["pixel_values"][0][0])

    def reference_inputs(ids: torch.Tensor, pixels: torch.Tensor) -> Mapping[str, Any]:
        parts = tiled.split(pixels) if tiled else pixels[:, None]
        parts = parts.reshape(len(ids), -1, 3, size, size)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": parts}

    return Mllm(
        **loaded.common(template),
        architecture="smolvlm",
        vision=tiled or vision,
        vision_shape=(3, size * rows, size * rows),
        decoder=Decoder(model.text_model, loaded.model.lm_head),
        image_token=config.image_token_id,
        image_tokens=one_tile * (rows * rows + 1 if rows > 1 else 1),
        preprocess=preprocess,
        reference_preprocess=reference_preprocess,
        reference_inputs=reference_inputs,
    )


def _picture(image: str, rows: int) -> list[str]:
    """The processors' text for a picture (`processing_idefics3.get_image_prompt_string`)."""
    around = "<fake_token_around_image>"
    whole = [around, "<global-img>", image, around]
    if rows == 1:
        return whole
    lines = [
        [part for column in range(rows) for part in (around, f"<row_{row + 1}_col_{column + 1}>", image)]
        for row in range(rows)
    ]
    return [part for line in lines for part in (*line, "\n")] + ["\n", *whole]
