"""Reads a model's list answer strictly against the candidates: nothing is invented, lost or counted twice.

The paper's code (Liuziyu77/RAR, Few_shot/retrieve_and_rerank.py) splits the first bracket at commas and quotes, and
looks names up among all classes of the data set. Here an item must be one of the candidates, whose names may contain
quotes, commas or brackets.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .prompt import clean

_CLOSING = {'"': '"', "'": "'", "`": "`", "\u201c": "\u201d", "\u2018": "\u2019", "«": "»"}
# What may follow an item: the next one, or the list's end.
_BOUNDARY = re.compile(r"\s*(?=[,\]])")
_END = re.compile(r"[,\]]")
_BETWEEN = re.compile(r"[\s,\[]+")
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|.)", re.DOTALL)
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}


@dataclass(frozen=True)
class ListAnswer:
    """A list answer, complete or still being written.

    Attributes:
        places: The candidates it names, in its order, each once.
        closed: Whether the list's closing bracket was read.
    """

    places: Sequence[int]
    closed: bool


def parse_list(text: str, candidates: Sequence[str]) -> list[int] | None:
    """The candidates that a list in a text names, best first.

    Args:
        text: The model's answer: a JSON or Python list, complete or cut off, with or without text around it.
        candidates: The names in the question.

    Returns:
        Positions in `candidates`, each at most once; None if no list names a candidate.
    """
    start = text.find("[")
    while start >= 0:
        answer, end = _read(text, start + 1, _Names.of(candidates))
        if answer.places:
            return list(answer.places)
        start = text.find("[", end)
    return None


def is_closed(text: str, candidates: Sequence[str]) -> bool:
    """Whether the first list in an unfinished text has ended."""
    start = text.find("[")
    return start >= 0 and _read(text, start + 1, _Names.of(candidates))[0].closed


@dataclass(frozen=True)
class _Names:
    """The accepted spellings of the candidates: exact, or in another case if that is unambiguous."""

    exact: Mapping[str, Sequence[int]]
    folded: Mapping[str, Sequence[int]]
    spellings: Sequence[tuple[str, str]]  # (as it may stand in a list, name), longest first

    @classmethod
    def of(cls, candidates: Sequence[str]) -> _Names:
        exact: dict[str, list[int]] = {}
        folded: dict[str, list[int]] = {}
        spellings: dict[str, str] = {}
        for position, candidate in enumerate(candidates):
            name = clean(candidate)
            exact.setdefault(name, []).append(position)
            folded.setdefault(name.strip().casefold(), []).append(position)
            quoted = (json.dumps(name)[1:-1], json.dumps(name, ensure_ascii=False)[1:-1], name.replace("'", "\\'"))
            for spelling in (name, name.strip(), *quoted):
                if spelling:
                    spellings.setdefault(spelling, name)
        return cls(exact, folded, sorted(spellings.items(), key=lambda item: -len(item[0])))

    def find(self, item: str, used: Sequence[int]) -> int | None:
        """The candidate that an item names; of two equal candidates, the one that was not named yet."""
        alike = self.exact.get(item) or self.exact.get(item.strip())
        if alike:
            return next((position for position in alike if position not in used), None)
        near = self.folded.get(item.strip().casefold(), ())
        return near[0] if len(near) == 1 and near[0] not in used else None

    def known(self, item: str) -> bool:
        return (
            item in self.exact or item.strip() in self.exact or len(self.folded.get(item.strip().casefold(), ())) == 1
        )


def _read(text: str, start: int, names: _Names) -> tuple[ListAnswer, int]:
    """Reads the items of a list that begins at `start`; also returns where it stopped."""
    places: list[int] = []
    at = start
    while at < len(text):
        if text[at] == "]":
            return ListAnswer(places, True), at + 1
        named = _candidate(text, at, names)
        if named is not None:
            item, at = named
            if (place := names.find(item, places)) is not None:
                places.append(place)
        elif between := _BETWEEN.match(text, at):
            at = between.end()
        else:
            at = _skip_item(text, at)
    return ListAnswer(places, False), len(text)


def _candidate(text: str, at: int, names: _Names) -> tuple[str, int] | None:
    """The candidate that the item at `at` names, and the position after it."""
    if text[at] in _CLOSING:
        return _strict_item(text, at, names) or _spelt_item(text, at, names)
    # Without quotes a comma may belong to the name.
    return _spelt_item(text, at, names) or _strict_item(text, at, names)


def _strict_item(text: str, at: int, names: _Names) -> tuple[str, int] | None:
    """An item that ends at its closing quote or the next comma, if it is a candidate."""
    span = _item_end(text, at)
    if span is None or span[1] == at:
        return None
    inner, after = span
    item = inner if inner in names.exact else _ESCAPE.sub(_unescape, inner)
    return (item, after) if names.known(item) else None


def _spelt_item(text: str, at: int, names: _Names) -> tuple[str, int] | None:
    """A literal candidate, which may contain quotes, commas or brackets; the longest that fits."""
    for quote in (_CLOSING.get(text[at], ""), ""):
        begin = at + len(quote)
        for spelling, name in names.spellings:
            if text.startswith(spelling + quote, begin):
                end = _BOUNDARY.match(text, begin + len(spelling) + len(quote))
                if end:
                    return name, end.end()
    return None


def _item_end(text: str, at: int) -> tuple[str, int] | None:
    """The text of the item at `at` and the position after it; None if it is cut off."""
    quote = _CLOSING.get(text[at])
    if quote is None:
        end = _END.search(text, at)
        return (text[at : end.start()], end.start()) if end else None
    close = text.find(quote, at + 1)
    while close >= 0:
        backslashes = close - len(text[:close].rstrip("\\"))
        boundary = _BOUNDARY.match(text, close + 1)
        if boundary and backslashes % 2 == 0:
            return text[at + 1 : close], boundary.end()
        close = text.find(quote, close + 1)
    return None


def _skip_item(text: str, at: int) -> int:
    """The position after an item that names no candidate."""
    span = _item_end(text, at)
    return span[1] if span else len(text)


def _unescape(match: re.Match[str]) -> str:
    code = match[1]
    if len(code) == 5:
        return chr(int(code[1:], 16))
    return _ESCAPED.get(code, code)
