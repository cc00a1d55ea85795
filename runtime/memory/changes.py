"""The changes of a memory, and the bytes they are logged as: a line of JSON, then float16 vectors."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from .names import check_name
from .part import MODALITIES, Modality


@dataclass(frozen=True)
class Entries:
    """New entries of one modality.

    Attributes:
        vectors: float16 [n, d], L2-normalised.
        labels: The class of each; a new class is created.
        sources: The source of each.
    """

    vectors: npt.NDArray[np.float16]
    labels: tuple[str, ...]
    sources: tuple[str, ...]


@dataclass(frozen=True)
class Add:
    """Adds entries."""

    entries: Mapping[Modality, Entries]


@dataclass(frozen=True)
class Remove:
    """Removes a class and its entries."""

    label: str


@dataclass(frozen=True)
class Drop:
    """Removes the pictures of a class that have one of some sources; the class stays.

    Attributes:
        label: The class.
        sources: At least one picture of the class has each.
    """

    label: str
    sources: tuple[str, ...]


@dataclass(frozen=True)
class Relabel:
    """Renames a class, or merges it into the class of that name.

    Attributes:
        old: The present name.
        new: The new name.
        entries: The new name as a text entry if it replaces the old name's text; empty otherwise.
        forget: Whether to remove the text that is the old name.
    """

    old: str
    new: str
    entries: Mapping[Modality, Entries]
    forget: bool


Change: TypeAlias = Add | Remove | Drop | Relabel


def encode(change: Change) -> bytes:
    """The bytes that `decode` reads."""
    if isinstance(change, Remove):
        return json.dumps({"remove": change.label}).encode()
    if isinstance(change, Drop):
        return json.dumps({"drop": change.label, "sources": change.sources}).encode()
    parts = {name: {"labels": added.labels, "sources": added.sources} for name, added in change.entries.items()}
    head: dict[str, Any] = {"add": parts}
    if isinstance(change, Relabel):
        head |= {"relabel": change.old, "to": change.new, "forget": change.forget}
    vectors = (np.ascontiguousarray(added.vectors, np.dtype("<f2")).tobytes() for added in change.entries.values())
    return b"\n".join([json.dumps(head).encode(), b"".join(vectors)])


def decode(content: bytes, dim: int) -> Change:
    """Reads a change of a memory of dimension d.

    Raises:
        ValueError: The bytes are not a change.
    """
    line, _, vectors = content.partition(b"\n")
    try:
        head = json.loads(line)
        if "remove" in head:
            return Remove(_text(head["remove"]))
        if "drop" in head:
            return Drop(_text(head["drop"]), tuple(_text(source, "source") for source in head["sources"]))
        entries = dict(_entries(head["add"], vectors, dim))
        if "relabel" not in head:
            return Add(entries)
        if head["relabel"] == head["to"]:
            raise ValueError("a class is renamed to the name that it has")
        return Relabel(_text(head["relabel"]), check_name(head["to"]), entries, bool(head["forget"]))
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"no change of a memory ({error!r})") from error


def _entries(parts: Mapping[str, Any], vectors: bytes, dim: int) -> Iterator[tuple[Modality, Entries]]:
    start = 0
    for name in MODALITIES:
        if name not in parts:
            continue
        labels = tuple(check_name(label) for label in parts[name]["labels"])
        sources = tuple(parts[name]["sources"])
        stop = start + 2 * dim * len(labels)
        if stop > len(vectors) or len(sources) != len(labels) or not all(isinstance(text, str) for text in sources):
            raise ValueError("vectors, labels and sources do not fit each other")
        rows = np.frombuffer(vectors[start:stop], "<f2").reshape(len(labels), dim).astype(np.float16, copy=False)
        if not np.isfinite(rows).all():
            raise ValueError("a vector is not finite")
        yield name, Entries(rows, labels, sources)
        start = stop
    if start != len(vectors):
        raise ValueError("there are more vectors than labels")


def _text(value: object, what: str = "class name") -> str:
    """The name of a class that is there, of any length: earlier releases built memories with longer ones."""
    if not isinstance(value, str):
        raise ValueError(f"the {what} {value!r} is no text")
    return value
