"""Loads an `Mllm` from a folder in the Hugging Face layout or a hub name: the code that all families share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rar.runtime.errors import ExportError
from rar.runtime.picture.preprocess import Preprocess

from ..compat import image_processor
from ..encoder.huggingface import FILTERS
from ..pictures.prepare import with_alpha
from .model import Mllm
from .template import Template, plain_tokenizer, resolve

# model_type of a config -> its adapter's module in `families`.
ARCHITECTURES = {
    "llava": "llava",
    "llava_onevision": "llava_onevision",
    "fast_vlm": "fastvlm",
    "idefics3": "smolvlm",
    "smolvlm": "smolvlm",
    "qwen2_5_vl": "qwen25vl",
    "qwen3_vl": "qwen3vl",
    "internvl": "internvl",
    "gemma3": "gemma3",
    "lfm2_vl": "lfm2vl",
    "lfm2-vl": "lfm2vl",  # what transformers 4 calls it once it is read
}


@dataclass(frozen=True)
class Loaded:
    """The parts of a model folder.

    Attributes:
        folder: The folder or hub name.
        config: Its configuration.
        model: The network at fp32, in eval mode.
        tokenizer: Its fast tokenizer, with the chat template.
        images: Its image processor: the Pillow form, or torchvision's where there is no other.
    """

    folder: str
    config: Any
    model: Any
    tokenizer: Any
    images: Any

    def resolve(
        self, placeholder: str, picture: Sequence[str], token: str | None = None, *, inline: bool = False
    ) -> Template:
        """The chat template, see `template.resolve`."""
        return resolve(self.tokenizer, placeholder, picture, token, inline=inline)

    def refuse_tiles(self, tiles: int | None) -> None:
        """For families that see a picture as one tile.

        Raises:
            ExportError: Tiles were asked for.
        """
        if tiles is not None:
            raise ExportError(f"{self.folder}: a {kind_of(self.config)} takes one tile a picture; leave --tiles out")

    def square(self, size: int) -> Preprocess:
        """The model's own filter and normalisation, where every picture becomes one square of `size` pixels.

        Raises:
            ExportError: The runtime has no form for the filter or the factor of the pixels.
        """
        images = self.images
        if images.resample not in FILTERS or not np.isclose(images.rescale_factor, 1 / 255):
            raise ExportError(
                f"{self.folder}: pictures resized by filter {images.resample} with factor {images.rescale_factor} have "
                "no form; choose another model"
            )
        return Preprocess(
            size=size, mean=images.image_mean, std=images.image_std, filter=FILTERS[images.resample], fit="squash"
        )

    def common(self, template: Template) -> dict[str, Any]:
        """The attributes of `Mllm` that are read in the same way from every architecture."""
        stops = self.model.generation_config.eos_token_id
        stops = self.tokenizer.eos_token_id if stops is None else stops
        return {
            "source": f"transformers {kind_of(self.config)} {self.folder}",
            "embed": self.model.get_input_embeddings(),
            "tokenizer": plain_tokenizer(self.tokenizer),
            "stop_ids": list(stops) if isinstance(stops, list) else [stops],
            "context": self.config.get_text_config().max_position_embeddings,
            "template": template.pieces,
            "lead": template.lead,
            "reference_tokens": template.tokens,
            "exemplars": template.exemplars,
            "reference": self.model,
        }


def kind_of(config: Any) -> str:
    """A configuration's model_type, as its class has it.

    Of a Qwen2.5-VL that transformers 4.57 has saved, it reads the language model's from the object itself.
    """
    return str(type(config).model_type)


def load(source: str, tiles: int | None = None) -> Mllm:
    """Loads a multimodal LLM through transformers.

    Args:
        source: A folder in the Hugging Face layout, a hub name, or `starter`.
        tiles: Rows and columns of tiles that a picture is cut into, if the model supports tiles; None for one tile.

    Raises:
        ExportError: The folder lacks a part, or the model is of another kind.
    """
    import importlib

    if source == "starter":
        from ..starter.mllm import load_mllm

        return load_mllm()

    import torch
    import transformers

    with loading(source, "configuration"):
        config = transformers.AutoConfig.from_pretrained(source)
    if (kind := kind_of(config)) not in ARCHITECTURES:
        raise ExportError(f"{source}: is a {kind} model; supported are {', '.join(ARCHITECTURES)}")
    with loading(source, "tokenizer"):
        tokenizer = transformers.AutoTokenizer.from_pretrained(source)
        tokenizer.chat_template = tokenizer.chat_template or _processor_template(source)
    with loading(source, "image processor"):
        images = image_processor(source)
    with loading(source, "weights"):
        loaded: Any = transformers.AutoModelForImageTextToText.from_pretrained(
            source, dtype=torch.float32, attn_implementation="sdpa", output_loading_info=True
        )
    model, report = loaded
    # transformers itself only warns, and fills missing weights with random numbers.
    if missing := [*report["missing_keys"], *report["mismatched_keys"]]:
        raise ExportError(
            f"{source}: {len(missing)} weights are missing or of other shapes, as {missing[0]}"
            "; download the model again"
        )
    adapter = importlib.import_module(f".families.{ARCHITECTURES[kind]}", __package__)
    mllm: Mllm = adapter.adapt(Loaded(source, config, model.eval(), tokenizer, images), tiles)
    if mllm.preprocess is None or mllm.reference_preprocess is None:
        return mllm
    return replace(mllm, preprocess=with_alpha(mllm.preprocess, mllm.reference_preprocess))


@contextmanager
def loading(source: str, part: str) -> Iterator[None]:
    """Turns errors of transformers into an `ExportError` that names the part of the folder."""
    import transformers

    try:
        yield
    except Exception as error:  # it and the libraries below it raise a family of unrelated types
        told = str(error).strip().split("\n", 1)[0]
        raise ExportError(
            f"{source}: transformers {transformers.__version__} cannot load the {part} ({told})"
            "; check the folder's files and that this version knows the model"
        ) from error


def _processor_template(source: str) -> str | None:
    """The chat template from older processors' own file, which tokenizers do not read."""
    import json

    from transformers.utils.hub import cached_file

    path = cached_file(source, "chat_template.json", _raise_exceptions_for_missing_entries=False)
    if path is None:
        return None
    with open(path, encoding="utf-8") as file:
        template: str = json.load(file)["chat_template"]
    return template
