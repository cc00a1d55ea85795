"""Hugging Face CLIP and SigLIP folders (or hub names) as a `DualEncoder`.

The towers go through the same export as every other source rather than through optimum: optimum-onnx 0.1
pins transformers below 4.58, writes both towers into one graph and leaves the normalisation outside.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from rar.runtime.errors import ExportError
from rar.runtime.preprocess import Preprocess

from .dual_encoder import DualEncoder, fix_length

if TYPE_CHECKING:
    import tokenizers
    import torch

FILTERS = {1: "lanczos", 2: "bilinear", 3: "bicubic"}
_MODELS = ("clip", "siglip")


def load(folder: str) -> DualEncoder:
    """Loads a CLIP or SigLIP model through transformers.

    Args:
        folder: A folder in the Hugging Face layout, or a hub name.

    Raises:
        ExportError: The folder lacks a part, or the model is of another kind.
    """
    import torch
    import transformers

    try:
        config = transformers.AutoConfig.from_pretrained(folder)
        if config.model_type not in _MODELS:
            raise ExportError(f"{folder}: is a {config.model_type} model; supported are {', '.join(_MODELS)}")
        network = transformers.AutoModel.from_pretrained(folder).eval()
        processor = transformers.AutoImageProcessor.from_pretrained(folder, use_fast=False)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError, KeyError, ImportError, TypeError) as error:
        raise ExportError(f"{folder}: transformers cannot load it ({error}); check the folder's files") from error
    length = config.text_config.max_position_embeddings

    def reference_preprocess(image: Image.Image) -> npt.NDArray[np.float32]:
        return np.asarray(processor(image, return_tensors="np")["pixel_values"][0])

    def reference_tokenize(texts: Sequence[str]) -> npt.NDArray[np.int64]:
        encoded = tokenizer(list(texts), padding="max_length", truncation=True, max_length=length, return_tensors="np")
        return np.asarray(encoded["input_ids"], np.int64)

    class Visual(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, pixels: torch.Tensor) -> Any:
            return torch.nn.functional.normalize(self.network.get_image_features(pixel_values=pixels), dim=-1)

    class Text(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, ids: torch.Tensor) -> Any:
            return torch.nn.functional.normalize(self.network.get_text_features(input_ids=ids), dim=-1)

    backend, clean = _tokenizer(folder, tokenizer, length)
    return DualEncoder(
        source=f"transformers {config.model_type} {folder}",
        visual=Visual().eval(),
        text=Text().eval(),
        preprocess=read_preprocess(folder, processor),
        tokenizer=backend,
        clean=clean,
        reference_preprocess=reference_preprocess,
        reference_tokenize=reference_tokenize,
    )


def read_preprocess(folder: str, processor: Any) -> Preprocess:
    """An image processor of transformers in the runtime's form.

    Raises:
        ExportError: There is no form for what it does.
    """
    config = processor.to_dict()
    size = config["size"]
    crop = config.get("crop_size") or {}
    if config.get("do_center_crop") and "shortest_edge" in size and crop.get("height") == crop.get("width"):
        side, fit, shortest_edge = crop["height"], "crop", size["shortest_edge"]
    elif not config.get("do_center_crop") and size.get("height") == size.get("width") is not None:
        side, fit, shortest_edge = size["height"], "squash", None
    else:
        raise ExportError(f"{folder}: prepares pictures with size {size} and crop {crop}, for which there is no form")
    if config["resample"] not in FILTERS or not np.isclose(config["rescale_factor"], 1 / 255):
        raise ExportError(
            f"{folder}: resample {config['resample']} with factor {config['rescale_factor']} has no form; "
            f"known filters are {FILTERS}, factor 1/255"
        )
    return Preprocess(
        size=side,
        mean=config["image_mean"],
        std=config["image_std"],
        filter=FILTERS[config["resample"]],
        fit=fit,
        shortest_edge=shortest_edge,
    )


def _tokenizer(folder: str, tokenizer: Any, length: int) -> tuple[tokenizers.Tokenizer, str]:
    """The tokenizer in the form of `tokenizers`, with its cleaning step's name."""
    import tokenizers
    from transformers import SiglipTokenizer

    if getattr(tokenizer, "is_fast", False):
        backend, clean = tokenizers.Tokenizer.from_str(tokenizer.backend_tokenizer.to_str()), "none"
    elif isinstance(tokenizer, SiglipTokenizer):
        backend, clean = _sentencepiece(tokenizer), "siglip"
    else:
        raise ExportError(f"{folder}: {type(tokenizer).__name__} has no tokenizer.json form")
    fix_length(backend, tokenizer, length)
    return backend, clean


def _sentencepiece(tokenizer: Any) -> tokenizers.Tokenizer:
    """SigLIP's sentencepiece model as a `tokenizers` object; transformers itself has no fast form of it."""
    from transformers.convert_slow_tokenizer import T5Converter

    class Converter(T5Converter):
        def vocab(self, proto: Any) -> list[tuple[str, float]]:
            return [(piece.piece, piece.score) for piece in proto.pieces]

        def post_processor(self) -> Any:
            from tokenizers import processors

            end = self.original_tokenizer.eos_token
            return processors.TemplateProcessing(
                single=f"$A {end}", special_tokens=[(end, self.original_tokenizer.eos_token_id)]
            )

    converted: tokenizers.Tokenizer = Converter(tokenizer).converted()  # type: ignore[no-untyped-call]
    return converted
