"""open_clip models, by name and pretrained tag or from files, as a `DualEncoder`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from rar.runtime.errors import ExportError
from rar.runtime.picture.preprocess import Preprocess

from ..pictures.prepare import with_alpha
from .model import DualEncoder, fix_length

if TYPE_CHECKING:
    import tokenizers
    import torch

_FIT = {"shortest": "crop", "squash": "squash", "longest": "pad"}
_CLEAN = {"_clean_lower": "lower", "_clean_whitespace": "whitespace", "_clean_canonicalize": "canonicalize"}


def load(model: str, pretrained: str | None) -> DualEncoder:
    """Loads a model through open_clip.

    Args:
        model: A name open_clip knows (`ViT-B-32`, `hf-hub:org/repo`), a folder with `open_clip_config.json`,
            or a model configuration file (`.json`).
        pretrained: A tag open_clip knows or a checkpoint file; None if the model includes its weights.

    Raises:
        ExportError: The model or its weights cannot be loaded, or the runtime does not support a part of it.
    """
    import open_clip
    import open_clip.transform
    import torch

    path = Path(model)
    if path.is_dir():
        model = f"local-dir:{path}"
    elif path.suffix == ".json":
        if not path.is_file():
            raise ExportError(f"{path}: no such model configuration; check the path")
        open_clip.add_model_config(path)
        model = path.stem
    if pretrained is None and ":" not in model:
        raise ExportError(f"{model}: has no weights of its own; name them with --pretrained (a tag or a file)")
    try:
        network = open_clip.create_model(model, pretrained=pretrained, device="cpu", require_pretrained=True)
        tokenizer = open_clip.get_tokenizer(model)
    except Exception as error:  # open_clip passes on errors of its many backends
        raise ExportError(
            f"open_clip cannot load {model} with pretrained {pretrained!r}: {error}; check the name and the tag or file"
        ) from error
    network.eval()
    config = open_clip.get_model_preprocess_cfg(network)
    transform = open_clip.transform.image_transform_v2(open_clip.transform.PreprocessCfg(**config), is_train=False)

    def reference_preprocess(image: Image.Image) -> npt.NDArray[np.float32]:
        return np.asarray(transform(image).numpy())

    def reference_tokenize(texts: Sequence[str]) -> npt.NDArray[np.int64]:
        return np.asarray(tokenizer(list(texts)).numpy())

    class Visual(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, pixels: torch.Tensor) -> Any:
            return self.network.encode_image(pixels, normalize=True)

    class Text(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, ids: torch.Tensor) -> Any:
            return self.network.encode_text(ids, normalize=True)

    backend, clean = _tokenizer(tokenizer)
    return DualEncoder(
        source=f"open_clip {model} {pretrained or ''}".strip(),
        visual=Visual().eval(),
        text=Text().eval(),
        preprocess=with_alpha(_preprocess(model, config), reference_preprocess),
        tokenizer=backend,
        clean=clean,
        reference_preprocess=reference_preprocess,
        reference_tokenize=reference_tokenize,
    )


def _preprocess(model: str, config: dict[str, Any]) -> Preprocess:
    size = config["size"]
    height, width = (size, size) if isinstance(size, int) else size
    if height != width:
        raise ExportError(f"{model}: takes pictures of {height}x{width}; the runtime prepares square ones only")
    fill = config.get("fill_color", 0)
    return Preprocess(
        size=height,
        mean=config["mean"],
        std=config["std"],
        filter=config["interpolation"],
        fit=_FIT[config["resize_mode"]],
        fill=(fill, fill, fill),
    )


def _tokenizer(tokenizer: Any) -> tuple[tokenizers.Tokenizer, str]:
    """The tokenizer in the form of `tokenizers`, with its cleaning step's name."""
    import open_clip
    import tokenizers

    clean = _CLEAN.get(getattr(tokenizer.clean_fn, "__name__", ""))
    if clean is None:
        raise ExportError(
            f"text cleaning {tokenizer.clean_fn!r} of this tokenizer is not supported; choose another model"
        )
    if isinstance(tokenizer, open_clip.SimpleTokenizer):
        if tokenizer.reduction_fn is not None:
            raise ExportError("tokenizers that drop words at random are not supported; choose another model")
        return byte_pair(tokenizer), clean
    if getattr(tokenizer, "strip_sep_token", False) or getattr(tokenizer, "tokenizer_mode", ""):
        raise ExportError("tokenizers that rewrite their separators are not supported; choose another model")
    inner = tokenizer.tokenizer
    if not getattr(inner, "is_fast", False):
        raise ExportError(f"{type(inner).__name__} has no tokenizer.json form; choose another model")
    backend = tokenizers.Tokenizer.from_str(inner.backend_tokenizer.to_str())
    fix_length(backend, inner, tokenizer.context_length)
    return backend, clean


def byte_pair(simple: Any) -> tokenizers.Tokenizer:
    """open_clip's SimpleTokenizer, rebuilt from its own tables."""
    import tokenizers
    from tokenizers import models, pre_tokenizers, processors

    start, end = simple.decoder[simple.sot_token_id], simple.decoder[simple.eot_token_id]
    merges = sorted(simple.bpe_ranks, key=simple.bpe_ranks.__getitem__)
    backend = tokenizers.Tokenizer(
        models.BPE(vocab=dict(simple.encoder), merges=merges, end_of_word_suffix="</w>", fuse_unk=False)
    )
    # SimpleTokenizer.pat, without the alternatives that match special tokens in a text.
    words = tokenizers.Regex(r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(words, behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.post_processor = processors.TemplateProcessing(
        single=f"{start} $A {end}",
        special_tokens=[(start, simple.sot_token_id), (end, simple.eot_token_id)],
    )
    backend.enable_truncation(simple.context_length)
    backend.enable_padding(length=simple.context_length, pad_id=0, pad_token=simple.decoder[0])
    return backend
