"""Text to token ids, equal to the model's own tokenizer. Label text never acts as markup."""

from __future__ import annotations

import html
import string
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import ftfy
import numpy as np
import numpy.typing as npt
import tokenizers

from ..bundle.files import utf8_path
from ..errors import BundleError

_BRACKETS = frozenset("<>[]{}|")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def _whitespace(text: str) -> str:
    return " ".join(html.unescape(html.unescape(ftfy.fix_text(text))).split())


def _lower(text: str) -> str:
    return _whitespace(text).lower()


def _canonicalize(text: str) -> str:
    return " ".join(_whitespace(text).replace("_", " ").translate(_PUNCTUATION).lower().split())


def _siglip(text: str) -> str:
    # transformers' SiglipTokenizer; the leading space is the word boundary that it puts in front
    return " " + " ".join(text.replace("\u2581", " ").lower().translate(_PUNCTUATION).split())


# How models clean a text before tokenisation, where `tokenizers` itself cannot express it.
# `lower`, `whitespace` and `canonicalize` are open_clip's (open_clip/tokenizer.py); `lowercase` is SigLIP 2's.
CLEANERS: dict[str, Callable[[str], str]] = {
    "none": lambda text: text,
    "whitespace": _whitespace,
    "lower": _lower,
    "canonicalize": _canonicalize,
    "siglip": _siglip,
    "lowercase": str.lower,
}


# Rare characters of four scripts: what all of them become, if it is special, is the unknown token.
_RARE = ("\U0002a6d6", "\U00013080", "\ua66e", "\u1402")


class PlainText:
    """Wraps a `tokenizers` object so that no text acts as markup.

    Special tokens in a text are encoded as plain characters. So are added tokens that look like markup without being
    marked special, such as Qwen's `<tool_call>`, and all tokens that the tokenizer puts around a text. A text may spell
    such a token only after the tokenizer's normalisation, as `</s>` in full-width characters does under NFKC: so it is
    the ids that are checked.

    Args:
        tokenizer: The `tokenizers` object; its settings are changed.
        markup: Ids of further tokens that no text may yield.
    """

    def __init__(self, tokenizer: tokenizers.Tokenizer, markup: Iterable[int] = ()) -> None:
        for token in tokenizer.get_added_tokens_decoder().values():
            if not token.special and not _BRACKETS.isdisjoint(token.content):
                token.special = True
                tokenizer.add_special_tokens([token])
        self.tokenizer = tokenizer
        self.tokenizer.encode_special_tokens = True
        special = {token for token, known in tokenizer.get_added_tokens_decoder().items() if known.special}
        self._markup = (special | set(markup) | self._around()) - self._unknown()

    def __call__(self, texts: Sequence[str], *, add_special_tokens: bool = False) -> list[list[int]]:
        """Token ids of each text, with or without the tokens that the tokenizer adds around it.

        Raises:
            BundleError: The tokenizer makes markup of nothing.
        """
        encodings = self.tokenizer.encode_batch(list(texts), add_special_tokens=add_special_tokens)
        return [
            self._plain(text, encoding, add_special_tokens) for text, encoding in zip(texts, encodings, strict=True)
        ]

    def _plain(self, text: str, encoding: tokenizers.Encoding, add_special_tokens: bool) -> list[int]:
        """The ids of a text, which is changed until none is markup: first by spaces, then by leaving characters out."""
        apart = " "
        while spelled := self._spelled(encoding):
            changed = text
            for start, stop in reversed(spelled):
                changed = changed[:start] + apart.join(changed[start:stop]) * bool(apart) + changed[stop:]
            if not apart and changed == text:
                raise BundleError("the tokenizer makes markup of texts that hold none; export the model again")
            text, apart = changed, ""
            encoding = self.tokenizer.encode(text, add_special_tokens=add_special_tokens)
        return list(encoding.ids)

    def _spelled(self, encoding: tokenizers.Encoding) -> list[tuple[int, int]]:
        """Where in the text markup is spelled, in order."""
        # Unigram vocabularies hold `</s>` as an ordinary piece, which encode_special_tokens does not affect.
        if self._markup.isdisjoint(encoding.ids):
            return []
        tokens = zip(encoding.ids, encoding.special_tokens_mask, encoding.offsets, strict=True)
        spans = sorted(span for token, added, span in tokens if token in self._markup and not added)
        # Several tokens may come from one character.
        return [span for i, span in enumerate(spans) if not i or span[0] >= spans[i - 1][1]]

    def _around(self) -> set[int]:
        """The tokens that the tokenizer puts around a text; padding may be an ordinary token."""
        encoding = self.tokenizer.encode("", add_special_tokens=True)
        tokens = zip(encoding.ids, encoding.special_tokens_mask, encoding.attention_mask, strict=True)
        return {token for token, added, counts in tokens if added and counts}

    def _unknown(self) -> set[int]:
        """The unknown token: any unknown character becomes it, so it is not markup."""
        named = self.tokenizer.token_to_id(getattr(self.tokenizer.model, "unk_token", None) or "")
        # Unigram does not say which it is. Its model alone is asked, without the normalisation.
        rare = [{token.id for token in self.tokenizer.model.tokenize(char)} for char in _RARE]
        return set.intersection(*rare) | ({named} if named is not None else set())


class Tokenizer:
    """A cleaning step, then a `tokenizer.json` with its truncation and padding; texts never act as markup.

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
            with utf8_path(path) as name:
                tokenizer = tokenizers.Tokenizer.from_file(name)
        except Exception as error:  # `tokenizers` raises the bare Exception
            raise BundleError(f"{path}: not a tokenizer ({error}); export the model again") from error
        if tokenizer.padding is None or tokenizer.truncation is None:
            raise BundleError(f"{path}: sets no padding or no truncation; export the model again")
        return cls(tokenizer, clean)

    def __call__(self, texts: Sequence[str]) -> npt.NDArray[np.int64]:
        """Token ids of several texts, truncated and padded as the model expects: int64 [N, L]."""
        return np.array(self._plain([self._clean(text) for text in texts], add_special_tokens=True), np.int64)
