"""The encoder's entry in a manifest that may come from a stranger."""

import math
from pathlib import Path
from typing import Any

import pytest

from rar.runtime.bundle.manifest import Bundle, Component, FileRecord
from rar.runtime.encoder.info import EncoderInfo
from rar.runtime.errors import BundleError

GOOD = {"dim": 24, "templates": ["a {}", "{}"], "clean": "lower", "precision": "fp16"}


def read(**changes: Any) -> EncoderInfo:
    files = {"text.onnx": FileRecord("clip/text.onnx", 1, "0" * 64)}
    return EncoderInfo.of(Bundle(Path("b"), {"clip": Component(files, GOOD | changes)}))


def test_an_encoder_without_a_text_tower_has_no_templates() -> None:
    alone = Bundle(Path("b"), {"clip": Component({}, GOOD | {"templates": []})})
    assert EncoderInfo.of(alone).templates == ()


def test_all_is_read() -> None:
    assert read(source="x y") == EncoderInfo(24, ("a {}", "{}"), "lower", "fp16", "x y")
    assert read().source == ""


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("dim", [10**400, 10**30, 0, -1, 24.0, math.inf, math.nan, "24", None, True, []]),
        ("templates", [[], "a {}", None, 3, {}]),
    ],
)
def test_what_cannot_be_is_named(key: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(BundleError, match=key):
            read(**{key: value})
