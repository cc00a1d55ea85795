"""The 1,000 ImageNet classes, in the order of the starter's classifier."""

from __future__ import annotations

from pathlib import Path

CLASSES = Path(__file__).parent / "classes.tsv"


def imagenet_classes() -> tuple[list[str], list[str]]:
    """Distinct names of the 1,000 classes, and WordNet's definitions."""
    rows = [line.split("\t") for line in CLASSES.read_text(encoding="utf-8").splitlines()]
    return [name for name, _ in rows], [definition for _, definition in rows]
