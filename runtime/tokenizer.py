"""Text to token ids, equal to the model's own tokenizer, with label text never acting as markup."""

from __future__ import annotations

import html
import string
from collections.abc import Callable, Sequence
from pathlib import Path

import ftfy
import numpy as np
import numpy.typing as npt
import tokenizers

from .errors import BundleError

_BRACKETS = frozenset("<>[]{}|")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def _whitespace(text: str) -> str:
    return " ".join(html.unescape(html.unescape(ftfy.fix_text(text))).split())


def _lower(text: str) -> str:
    return _whitespace(text).lower()


def _canonicalize(text: str) -> str:
    return " ".join(_whitespace(text).replace("_", " ").translate(_PUNCTUATION).lower().split())


def _siglip(text: str) -> str:
    # transformers' SiglipTokenizer; the leading space stands for the word boundary that it puts in front
    return " " + " ".join(text.replace("\u2581", " ").lower().translate(_PUNCTUATION).split())


# What a model does to a text before its tokenizer proper, which `tokenizers` itself cannot express.
# `lower`, `whitespace` and `canonicalize` are open_clip's (open_clip/tokenizer.py).
CLEANERS: dict[str, Callable[[str], str]] = {
    "none": lambda text: text,
    "whitespace": _whitespace,
    "lower": _lower,
    "canonicalize": _canonicalize,
    "siglip": _siglip,
}


class PlainText:
    """A `tokenizers` object behind which no text acts as markup.

    Special tokens that a text spells out are encoded as the plain characters they are. So are added tokens that
    look like markup though they are not marked special, such as Qwen's `<tool_call>`.

    Args:
        tokenizer: The `tokenizers` object; its settings are changed.
    """

    def __init__(self, tokenizer: tokenizers.Tokenizer) -> None:
        for token in tokenizer.get_added_tokens_decoder().values():
            if not token.special and not _BRACKETS.isdisjoint(token.content):
                token.special = True
                tokenizer.add_special_tokens([token])
        self.tokenizer = tokenizer
        self.tokenizer.encode_special_tokens = True
        added = tokenizer.get_added_tokens_decoder()
        # The unknown token is what any odd character becomes; it marks nothing.
        unknown = getattr(tokenizer.model, "unk_token", None)
        self._special = {i: t.content for i, t in added.items() if t.special and t.content != unknown}

    def __call__(self, texts: Sequence[str], *, add_special_tokens: bool = False) -> list[list[int]]:
        """Token ids of each text, with or without what the tokenizer puts around a text."""
        encodings = self.tokenizer.encode_batch(list(texts), add_special_tokens=add_special_tokens)
        for position, encoding in enumerate(encodings):
            if self._spells_special(encoding):
                broken = self._break_up(texts[position])
                encodings[position] = self.tokenizer.encode(broken, add_special_tokens=add_special_tokens)
        return [encoding.ids for encoding in encodings]

    def _spells_special(self, encoding: tokenizers.Encoding) -> bool:
        # Unigram vocabularies hold `</s>` as a piece like any other, which encode_special_tokens does not touch.
        own = zip(encoding.ids, encoding.special_tokens_mask, strict=True)
        return any(token in self._special and not added for token, added in own)

    def _break_up(self, text: str) -> str:
        for spelling in self._special.values():
            text = text.replace(spelling, " ".join(spelling))
        return text


class Tokenizer:
    """A `tokenizer.json` (which carries truncation and padding) behind a cleaning step; texts are never markup.

    Args:
        tokenizer: The `tokenizers` object.
        clean: Key of `CLEANERS`.

    Raises:
        BundleError: An unknown cleaning step.
    """

    def __init__(self, tokenizer: tokenizers.Tokenizer, clean: str = "none") -> None:
        if clean not in CLEANERS:
            raise BundleError(f"text cleaning {clean!r} is unknown to this release; upgrade rar-runtime")
        self._clean = CLEANERS[clean]
        self._plain = PlainText(tokenizer)

    @classmethod
    def open(cls, path: Path, clean: str = "none") -> Tokenizer:
        """Reads a `tokenizer.json`.

        Raises:
            BundleError: The file cannot be read as one.
        """
        try:
            tokenizer = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # `tokenizers` raises the bare Exception
            raise BundleError(f"{path}: not a tokenizer ({error}); export the model again") from error
        if tokenizer.padding is None or tokenizer.truncation is None:
            raise BundleError(f"{path}: sets no padding or no truncation; export the model again")
        return cls(tokenizer, clean)

    def __call__(self, texts: Sequence[str]) -> npt.NDArray[np.int64]:
        """Token ids of several texts, truncated and padded as the model wants: int64 [N, L]."""
        return np.array(self._plain([self._clean(text) for text in texts], add_special_tokens=True), np.int64)
