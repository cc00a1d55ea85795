"""The starter's own tokenizer and picture preparation are held to what transformers and torchvision gave."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from rar.export.starter import encoder, packages, skeletons, towers
from rar.runtime.errors import ExportError


def test_tokens_and_pixels_are_those_that_are_stored() -> None:
    assert encoder.compare_tokens() == {"equal": 1000, "count": 1000}
    compared = encoder.compare_pixels(packages.photos(packages.COMPARING))
    # Three cuts of each of the six photos that are not JPEG.
    assert compared == {"max_difference": 0.0, "count": 18}


@pytest.mark.usefixtures("pytorch")
def test_the_tokenizer_is_that_of_transformers() -> None:
    texts = ["a photo of a Granny Smith apple.", "crème brûlée", "北京 " * 200, "", "[PAD] [SEP]"]
    own = towers.load().reference_tokenize(texts[:-1])
    ours = encoder.Tokenizer(encoder.text_tokenizer(), "none")(texts[:-1])
    assert ours.tolist() == own.tolist()


@pytest.mark.parametrize(
    ("part", "compare", "why"),
    [
        ("tokens", encoder.compare_tokens, "1 of 1000 strings are tokenized otherwise"),
        ("pixels", lambda: encoder.compare_pixels(packages.photos(["coffee.png"])), "otherwise than torchvision"),
    ],
)
def test_one_difference_is_an_error(
    part: str, compare: Callable[[], Any], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored: Mapping[str, Any] = skeletons.reference()
    sums = stored[part] if part == "tokens" else stored[part]["coffee.png"]
    changed = [*sums[:-1], sums[-1] ^ 1]
    other = {**stored, part: changed if part == "tokens" else {**stored[part], "coffee.png": changed}}
    monkeypatch.setattr(skeletons, "reference", lambda: other)
    with pytest.raises(ExportError, match=why):
        compare()
