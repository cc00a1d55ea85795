"""CLIP's tokenizer, as the text tower of GRAIN has it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rar.runtime.tokenizer import Tokenizer

from ..openclip import byte_pair
from .config import GrainConfig

if TYPE_CHECKING:
    import tokenizers

# SLIP's and open_clip's: ftfy, entities, spaces, lower case.
CLEAN = "lower"


def backend(config: GrainConfig) -> tokenizers.Tokenizer:
    """In the form of `tokenizers`, cut and padded to the model's context."""
    import open_clip

    return byte_pair(open_clip.SimpleTokenizer(context_length=config.context))


def tokenizer(config: GrainConfig) -> Tokenizer:
    """As the runtime runs it."""
    return Tokenizer(backend(config), CLEAN)
