"""What transformers 4.57 and 5 do differently, in one place."""

from __future__ import annotations

import inspect
from typing import Any


def image_processor(source: str) -> Any:
    """The image processor of a folder or hub name in the form that works with Pillow: its pixels are the runtime's.

    If it has no such form, torchvision's.
    """
    import transformers

    read: Any = transformers.AutoImageProcessor.from_pretrained
    if not transformers.__version__.startswith("4."):
        return read(source, backend="pil")
    try:
        return read(source, use_fast=False)
    except ValueError:  # as DINOv3's, which has torchvision's form alone; 5 takes that by itself
        return read(source, use_fast=True)


def features(output: Any) -> Any:
    """The tensor that `get_image_features` or `get_text_features` gave; since 5 it lies in an object."""
    return getattr(output, "pooler_output", output)


def takes(module: Any, name: str) -> bool:
    """Whether a module's `forward` has a parameter of this name."""
    return name in inspect.signature(module.forward).parameters
