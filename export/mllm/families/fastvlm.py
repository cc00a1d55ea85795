"""FastVLM: FastViTHD of timm, whose map of features becomes the tokens, a projector of two layers, Qwen2.

Pavan Kumar Anasosalu Vasu et al., FastVLM: Efficient Vision Encoding for Vision Language Models, 2024. The tower
halves a picture six times, so that 1,024 pixels give 256 tokens.
"""

from __future__ import annotations

from dataclasses import replace

from ..model import Mllm
from ..source import Loaded
from .llava import one_tile
from .vision import Vision


def adapt(loaded: Loaded, tiles: int | None) -> Mllm:
    """The adapter of `source.load`.

    Raises:
        ExportError: Tiles were asked for, or the pictures are prepared in a way the runtime has no form for.
    """
    loaded.refuse_tiles(tiles)
    made = one_tile(loaded, "fastvlm", Vision(loaded.model.model).eval())
    # Its chat template writes a line's end before every text, so that one follows the picture. The model's answers
    # follow the prompt at once, as Qwen2's do.
    return replace(made, lead="")
