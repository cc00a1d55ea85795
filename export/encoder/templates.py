"""Prompt templates for class names: texts with `{}`, or a set by name."""

from __future__ import annotations

from collections.abc import Sequence

from rar.runtime.errors import ExportError

IMAGENET = "imagenet"


def read_templates(given: Sequence[str]) -> tuple[str, ...]:
    """The templates that `--template` named; a class's vector is the mean over all of them.

    Args:
        given: Texts with one `{}` each, and `imagenet` for the 80 that CLIP's authors wrote for ImageNet.

    Raises:
        ExportError: A text does not hold `{}` once.
    """
    templates: list[str] = []
    for text in given:
        if text == IMAGENET:
            from open_clip.zero_shot_metadata import OPENAI_IMAGENET_TEMPLATES

            templates += [write("{}") for write in OPENAI_IMAGENET_TEMPLATES]
        elif text.count("{}") == 1:
            templates.append(text)
        else:
            raise ExportError(
                f"--template {text!r} must hold {{}} once, where the class's name goes, or be {IMAGENET} for CLIP's 80"
            )
    return tuple(dict.fromkeys(templates))
