"""The changes of a memory, and the bytes they are logged as: a line of JSON, then float16 vectors."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from .part import MODALITIES, Modality

MAX_NAME = 4096


@dataclass(frozen=True)
class Entries:
    """New entries of one modality.

    Attributes:
        vectors: float16 [n, d], L2-normalised.
        labels: The class of each; one that the memory does not have is made.
        sources: Where each came from.
    """

    vectors: npt.NDArray[np.float16]
    labels: tuple[str, ...]
    sources: tuple[str, ...]


@dataclass(frozen=True)
class Add:
    """Entries come."""

    entries: Mapping[Modality, Entries]


@dataclass(frozen=True)
class Remove:
    """A class goes, with its entries."""

    label: str


@dataclass(frozen=True)
class Relabel:
    """A class gets another name, or goes up in the class of that name.

    Attributes:
        old: Its name.
        new: The other.
        entries: The new name as a text, where the old one is to be forgotten as such; empty otherwise.
        forget: Whether the text that is the old name goes.
    """

    old: str
    new: str
    entries: Mapping[Modality, Entries]
    forget: bool


Change: TypeAlias = Add | Remove | Relabel


def encode(change: Change) -> bytes:
    """The bytes that `decode` reads."""
    if isinstance(change, Remove):
        return json.dumps({"remove": change.label}).encode()
    parts = {name: {"labels": own.labels, "sources": own.sources} for name, own in change.entries.items()}
    head: dict[str, Any] = {"add": parts}
    if isinstance(change, Relabel):
        head |= {"relabel": change.old, "to": change.new, "forget": change.forget}
    vectors = (np.ascontiguousarray(own.vectors, np.dtype("<f2")).tobytes() for own in change.entries.values())
    return b"\n".join([json.dumps(head).encode(), b"".join(vectors)])


def decode(content: bytes, dim: int) -> Change:
    """Reads a change of a memory of dimension d.

    Raises:
        ValueError: The bytes are none.
    """
    line, _, vectors = content.partition(b"\n")
    try:
        head = json.loads(line)
        if "remove" in head:
            return Remove(check_name(head["remove"]))
        entries = dict(_entries(head["add"], vectors, dim))
        if "relabel" not in head:
            return Add(entries)
        return Relabel(check_name(head["relabel"]), check_name(head["to"]), entries, bool(head["forget"]))
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


def check_name(label: object) -> str:
    """Passes what can be the name of a class.

    Raises:
        ValueError: It is no text, blank, too long, or cannot be written as UTF-8.
    """
    if not isinstance(label, str):
        raise ValueError(f"the class name {label!r} is no text")
    if not label.strip():
        raise ValueError("a class name is blank")
    if len(label) > MAX_NAME:
        raise ValueError(f"the class name {label[:40]!r}… has {len(label)} characters; {MAX_NAME} are the most")
    try:
        label.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"the class name {label!r} is not Unicode text") from error
    return label
