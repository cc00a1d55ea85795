"""One consistent reading of a memory: the manifest, the files it names, and the log of changes since."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..bundle import MANIFEST, Bundle
from ..errors import BundleError, InputError
from . import log
from .changes import decode
from .log import Position
from .part import MODALITIES, Part
from .state import State, misfit, weights_of

# <component>.log: `bundle.copy` takes it along.
LOG = "memory.log"
# A reading that others kept replacing under our hands, a generation each time.
_ATTEMPTS = 20

Signature = tuple[int, int, int]


@dataclass(frozen=True)
class Weighing:
    """How similarities are made.

    Attributes:
        text_weight: Share w of the texts in a class's similarity, (1 - w) * pictures + w * texts.
        pool: How many of a class's best entries count in each modality; their mean is taken.
        centred: Whether the means of the modalities are taken off first.
    """

    text_weight: float
    pool: int = 1
    centred: bool = False


@dataclass(frozen=True)
class View:
    """A memory as it was read at one time.

    Attributes:
        state: What it holds.
        weighing: How similarities are made; stays as it was when the memory was opened.
        info: What the manifest says of the memory.
        fingerprint: Of the files.
        manifest: Tells whether the manifest has changed since.
        log: Tells whether the log has; None if there was none.
        position: Where the log ended; None if there was none of this memory.
    """

    state: State
    weighing: Weighing
    info: Mapping[str, Any]
    fingerprint: str
    manifest: Signature | None
    log: Signature | None
    position: Position | None

    def is_current(self, manifest: str, log: str) -> bool:
        """Whether neither file has changed: two calls of the system."""
        return self.log == signature(log) and self.manifest == signature(manifest)


def signature(path: Path | str) -> Signature | None:
    """Changes when a file does; None if there is none."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


def read(
    root: Path, text_weight: float | None = None, centred: bool | None = None, weighing: Weighing | None = None
) -> View:
    """Reads a memory.

    Args:
        root: The bundle.
        text_weight: Replaces the stored weight of the texts.
        centred: Replaces the stored choice.
        weighing: Replaces all of it.

    Raises:
        BundleError: There is no memory, or it or its log is damaged.
        InputError: The weight is out of range, or needs a modality that is not there.
    """
    for _ in range(_ATTEMPTS):
        before = signature(root / MANIFEST)
        try:
            view = _read(root, before, text_weight, centred, weighing)
        except BundleError:
            # A writer may have replaced the memory and deleted these files meanwhile.
            if signature(root / MANIFEST) == before:
                raise
            continue
        # Only if the manifest is still the same, the log that was read is the one that belongs to it.
        if signature(root / MANIFEST) == before:
            return view
    raise BundleError(f"{root}: the memory was replaced {_ATTEMPTS} times while it was read; try again")


def follow(root: Path, view: View) -> View:
    """The view as it is now: what others appended to the log is taken in, or a memory that was replaced is read.

    Raises:
        BundleError: The memory is damaged, or another one was put in its place.
    """
    if signature(root / MANIFEST) == view.manifest and view.position is not None:
        seen = signature(root / LOG)
        tail = log.read_on(root / LOG, view.position)
        # The manifest is looked at again: a memory that replaces this one begins with another log.
        if tail is not None and signature(root / MANIFEST) == view.manifest:
            return replace(view, state=_apply(root, view.state, tail), log=seen, position=tail.position)
    now = read(root, weighing=view.weighing)
    if now.info.get("encoder") != view.info.get("encoder"):
        raise BundleError(f"{root}: the memory was replaced by one of another encoder; open the bundle again")
    return now


def _read(
    root: Path, manifest: Signature | None, text_weight: float | None, centred: bool | None, weighing: Weighing | None
) -> View:
    bundle = Bundle.open(root)
    component = bundle.component("memory")
    names = _names(bundle)
    parts = {
        name: Part.open(bundle, name, len(names)) for name in MODALITIES if f"{name}/vectors.npy" in component.files
    }
    if len({part.vectors.shape[1] for part in parts.values()}) != 1:
        raise BundleError(f"{root}: the memory has no parts, or parts of unlike dimension; build it again")
    state = State(tuple(names), _tags(bundle, names), parts, {})
    seen = signature(root / LOG)
    tail = log.read(root / LOG, component.fingerprint)
    if tail is not None:
        state = _apply(root, state, tail)
    weighing = weighing or _weighing(bundle, state, text_weight, centred)
    if reason := misfit(state.parts, weighing.text_weight):
        raise BundleError(f"{root}: {reason}; open the bundle again")
    state = replace(state, weights=weights_of(weighing.text_weight))
    position = None if tail is None else tail.position
    return View(state, weighing, component.info, component.fingerprint, manifest, seen, position)


def _apply(root: Path, state: State, tail: log.Tail) -> State:
    try:
        for content in tail.contents:
            state = state.apply(decode(content, state.dim))
    except ValueError as error:  # an InputError is one
        raise BundleError(f"{root / LOG}: does not belong to this memory ({error}); copy the bundle again") from error
    return state


def _names(bundle: Bundle) -> list[str]:
    names = bundle.read_json("memory", "labels.json")
    if not isinstance(names, list) or not _are_texts(names) or len(set(names)) < len(names):
        raise BundleError(f"{bundle.root}: memory/labels.json is no list of different names; build the memory again")
    return names


def _are_texts(values: Iterable[object]) -> bool:
    """Whether all are texts that can be written as UTF-8; of thousands in less than a millisecond."""
    try:
        return len("".join(values).encode()) >= 0  # type: ignore[arg-type]
    except (TypeError, UnicodeEncodeError):
        return False


def _tags(bundle: Bundle, names: list[str]) -> dict[str, frozenset[str]]:
    if "tags.json" not in bundle.component("memory").files:
        return {}
    stored = bundle.read_json("memory", "tags.json")
    try:
        tags = {str(tag): frozenset(classes) for tag, classes in stored.items()}
        strangers = frozenset().union(*tags.values()) - set(names)
        if not _are_texts(tags):
            raise TypeError("a tag is no text")
    except (AttributeError, TypeError) as error:
        raise BundleError(f"{bundle.root}: memory/tags.json is no {{tag: [class]}}; build the memory again") from error
    if strangers:
        raise BundleError(f"{bundle.root}: memory/tags.json names classes that are not there; build the memory again")
    return tags


def _weighing(bundle: Bundle, state: State, text_weight: float | None, centred: bool | None) -> Weighing:
    info = bundle.component("memory").info
    weight, pool = info.get("text_weight"), info.get("pool")
    stored = info.get("centred", False) if centred is None else centred
    if type(pool) is not int or pool < 1 or not isinstance(stored, bool):
        raise BundleError(f"{bundle.root}: the memory's pool is {pool!r}, centred {stored!r}; build it again")
    if text_weight is None:
        if not isinstance(weight, (int, float)) or misfit(state.parts, weight):
            reason = misfit(state.parts, weight) if isinstance(weight, (int, float)) else "no number"
            raise BundleError(f"{bundle.root}: the memory's text_weight is {weight!r}: {reason}; build it again")
        text_weight = weight
    elif reason := misfit(state.parts, text_weight):
        raise InputError(reason)
    if stored and not ("pictures" in state.parts and len(state.parts["pictures"].built)):
        reason = "only a memory that was built with pictures can be centred: their mean stands for the queries'"
        raise BundleError(f"{bundle.root}: {reason}; build it again") if centred is None else InputError(reason)
    return Weighing(float(text_weight), pool, stored)
