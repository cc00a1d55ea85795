"""CLIP's tokenizer, in GRAIN's settings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rar.runtime.encoder.tokenizer import Tokenizer

from ..encoder.openclip import byte_pair
from .config import GrainConfig

if TYPE_CHECKING:
    import tokenizers

# As SLIP and open_clip clean texts: ftfy, entities, spaces, lower case.
CLEAN = "lower"


def backend(config: GrainConfig) -> tokenizers.Tokenizer:
    """The `tokenizers` object, which cuts and pads to the model's context."""
    import open_clip

    return byte_pair(open_clip.SimpleTokenizer(context_length=config.context))


def tokenizer(config: GrainConfig) -> Tokenizer:
    """The tokenizer in the runtime's form."""
    return Tokenizer(backend(config), CLEAN)
