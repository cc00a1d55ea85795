"""Hugging Face folders (or hub names) of CLIP, SigLIP and DINO families as a `DualEncoder`.

The towers use the same export as every other source and not optimum: optimum-onnx 0.1 pins transformers below 4.58,
writes both towers into one graph and omits the normalisation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from rar.runtime.encoder.tokenizer import CLEANERS
from rar.runtime.errors import ExportError
from rar.runtime.picture.preprocess import Preprocess

from ..compat import features, image_processor
from ..pictures.prepare import with_alpha
from .model import DualEncoder, fix_length

if TYPE_CHECKING:
    import tokenizers
    import torch

FILTERS = {1: "lanczos", 2: "bilinear", 3: "bicubic"}
_MODELS = ("clip", "metaclip_2", "siglip")
# Picture towers without a text tower, and by how many grey levels the runtime prepares pictures otherwise.
_PICTURES = {"dinov2": 0, "dinov2_with_registers": 0, "dinov3_vit": 1}


def load(folder: str) -> DualEncoder:
    """Loads a model through transformers.

    Args:
        folder: A folder in the Hugging Face layout, or a hub name.

    Raises:
        ExportError: The folder lacks a part, or the model is of another kind.
    """
    import torch
    import transformers

    try:
        config = transformers.AutoConfig.from_pretrained(folder)
        if config.model_type not in (*_MODELS, *_PICTURES):
            known = ", ".join((*_MODELS, *_PICTURES))
            raise ExportError(f"{folder}: is a {config.model_type} model; supported are {known}")
        network = transformers.AutoModel.from_pretrained(folder).eval()
        processor = image_processor(folder)
        if config.model_type in _PICTURES:
            return _pictures_only(folder, config, network, processor)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError, KeyError, ImportError, TypeError) as error:
        raise ExportError(f"{folder}: transformers cannot load it ({error}); check the folder's files") from error
    length = config.text_config.max_position_embeddings

    def reference_preprocess(image: Image.Image) -> npt.NDArray[np.float32]:
        return np.asarray(processor(image, return_tensors="np")["pixel_values"][0])

    def reference_tokenize(texts: Sequence[str]) -> npt.NDArray[np.int64]:
        texts = [CLEANERS[clean](text) if clean == "lowercase" else text for text in texts]
        encoded = tokenizer(texts, padding="max_length", truncation=True, max_length=length, return_tensors="np")
        return np.asarray(encoded["input_ids"], np.int64)

    class Visual(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, pixels: torch.Tensor) -> Any:
            return torch.nn.functional.normalize(features(self.network.get_image_features(pixel_values=pixels)), dim=-1)

    class Text(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, ids: torch.Tensor) -> Any:
            return torch.nn.functional.normalize(features(self.network.get_text_features(input_ids=ids)), dim=-1)

    backend, clean = _tokenizer(config.model_type, folder, tokenizer, length)
    return DualEncoder(
        source=f"transformers {config.model_type} {folder}",
        visual=Visual().eval(),
        text=Text().eval(),
        preprocess=with_alpha(read_preprocess(folder, processor), reference_preprocess),
        tokenizer=backend,
        clean=clean,
        reference_preprocess=reference_preprocess,
        reference_tokenize=reference_tokenize,
    )


def _pictures_only(folder: str, config: Any, network: Any, processor: Any) -> DualEncoder:
    """A tower whose embedding is its class token, as DINO's authors retrieve with.

    DINOv3's processor makes a picture floating point before it resizes it; the runtime resizes whole grey levels.
    """
    import torch

    def reference_preprocess(image: Image.Image) -> npt.NDArray[np.float32]:
        return np.asarray(processor(image, return_tensors="pt")["pixel_values"][0])

    class Visual(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, pixels: torch.Tensor) -> Any:
            return torch.nn.functional.normalize(self.network(pixel_values=pixels).last_hidden_state[:, 0], dim=-1)

    return DualEncoder(
        source=f"transformers {config.model_type} {folder}",
        visual=Visual().eval(),
        text=None,
        preprocess=with_alpha(read_preprocess(folder, processor), reference_preprocess),
        tokenizer=None,
        clean="none",
        reference_preprocess=reference_preprocess,
        reference_tokenize=None,
        templates=(),
        rounded=_PICTURES[config.model_type],
    )


def read_preprocess(folder: str, processor: Any) -> Preprocess:
    """Converts an image processor of transformers to the runtime's form.

    Raises:
        ExportError: The runtime does not support its preparation.
    """
    return preprocess_of(folder, processor.to_dict())


def preprocess_of(folder: str, config: Mapping[str, Any]) -> Preprocess:
    """Converts an image processor's settings, as in `preprocessor_config.json`, to the runtime's form.

    Raises:
        ExportError: The runtime does not support this preparation.
    """
    size = config["size"]
    crop = config.get("crop_size") or {}
    if config.get("do_center_crop") and "shortest_edge" in size and crop.get("height") == crop.get("width"):
        side, fit, shortest_edge = crop["height"], "crop", size["shortest_edge"]
    elif not config.get("do_center_crop") and size.get("height") == size.get("width") is not None:
        side, fit, shortest_edge = size["height"], "squash", None
    else:
        raise ExportError(
            f"{folder}: prepares pictures with size {size} and crop {crop}, for which there is no form"
            "; choose a model that resizes and cuts squares"
        )
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


def _tokenizer(kind: str, folder: str, tokenizer: Any, length: int) -> tuple[tokenizers.Tokenizer, str]:
    """The tokenizer in the form of `tokenizers`, with its cleaning step's name."""
    import tokenizers
    from transformers import SiglipTokenizer

    if getattr(tokenizer, "is_fast", False):
        backend, clean = tokenizers.Tokenizer.from_str(tokenizer.backend_tokenizer.to_str()), "none"
        # SigLIP 2 learned lower-case texts, which transformers 4 and the stored tokenizers leave to the caller.
        if kind == "siglip" and tokenizer("AN")["input_ids"] != tokenizer("an")["input_ids"]:
            clean = "lowercase"
    elif isinstance(tokenizer, SiglipTokenizer):
        backend, clean = _sentencepiece(tokenizer), "siglip"
    else:
        raise ExportError(
            f"{folder}: {type(tokenizer).__name__} has no tokenizer.json form; choose a model with a fast tokenizer"
        )
    fix_length(backend, tokenizer, length)
    return backend, clean


def _sentencepiece(tokenizer: Any) -> tokenizers.Tokenizer:
    """SigLIP's sentencepiece model as a `tokenizers` object; transformers has no fast tokenizer for it."""
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
