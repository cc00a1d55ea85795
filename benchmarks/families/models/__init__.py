"""Random multimodal LLMs in the layout that people have on disk, tiny or of any size; one file a family."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TypeAlias

from .fastvlm import write_fastvlm
from .gemma import write_gemma3
from .internvl import write_internvl, write_internvl35
from .lfm2vl import write_lfm2vl
from .llava import write_llava, write_llava_onevision, write_llava_siglip
from .parts import LLAMA, Shape, byte_level, corpus, sentencepiece_like
from .qwen import write_qwen3vl, write_qwen25vl
from .smolvlm import write_smolvlm, write_smolvlm2

__all__ = ["LLAMA", "WRITERS", "Shape", "byte_level", "corpus", "sentencepiece_like", "write_llava"]

# Writes a model's folder, with a tokenizer trained on the spot; tiny unless a `Shape` is given.
Writer: TypeAlias = Callable[..., Path]

WRITERS: Mapping[str, Writer] = MappingProxyType(
    {
        "llava": write_llava,
        "llava_siglip": write_llava_siglip,
        "llava_onevision": write_llava_onevision,
        "fastvlm": write_fastvlm,
        "smolvlm": write_smolvlm,
        "smolvlm2": write_smolvlm2,
        "qwen25vl": write_qwen25vl,
        "qwen3vl": write_qwen3vl,
        "gemma3": write_gemma3,
        "internvl": write_internvl,
        "internvl35": write_internvl35,
        "lfm2vl": write_lfm2vl,
    }
)
