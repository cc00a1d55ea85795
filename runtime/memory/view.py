"""One consistent reading of a memory: the manifest, the files it names, and the log of changes since."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from ..bundle.manifest import MANIFEST, Bundle, Signature, signature, unchanged
from ..errors import BundleError, InputError
from . import log
from .changes import decode
from .discriminant import Fit
from .info import MemoryInfo, Weighing
from .log import Position
from .part import MODALITIES, Part
from .replay import replayed
from .state import State, misfit, weights_of

# <component>.log: `copy` takes it along.
LOG = "memory.log"


@dataclass(frozen=True)
class View:
    """A memory as it was read at one time.

    Attributes:
        state: The memory's content.
        weighing: How similarities are computed; fixed when the memory was opened.
        info: The memory's entry in the manifest.
        fingerprint: The fingerprint of the files.
        manifest: The manifest's signature, to see whether it has changed since.
        log: The log's signature; None if there was no log.
        position: The end of the log; None if this memory had no log.
        bundle: The bundle with the manifest that was read.
    """

    state: State
    weighing: Weighing
    info: MemoryInfo
    fingerprint: str
    manifest: Signature | None
    log: Signature | None
    position: Position | None
    bundle: Bundle

    def is_current(self, manifest: str, log: str) -> bool:
        """Whether neither file has changed; costs two system calls."""
        return self.log == signature(log) and self.manifest == signature(manifest)


def read(
    root: Path, text_weight: float | None = None, centred: bool | None = None, weighing: Weighing | None = None
) -> View:
    """Reads a memory.

    Args:
        root: The bundle.
        text_weight: Replaces the stored weight of the texts.
        centred: Replaces the stored choice.
        weighing: Replaces all stored settings.

    Raises:
        BundleError: The bundle has no memory, or the memory or its log is damaged.
        InputError: The weight is out of range, or needs a modality that the memory lacks.
    """
    # The log belongs to the manifest only if the manifest is still the same.
    return unchanged(root, lambda: _read(root, signature(root / MANIFEST), text_weight, centred, weighing))


def follow(root: Path, view: View) -> View:
    """The current view: it reads what other processes appended to the log, or the memory that replaced this one.

    Raises:
        BundleError: The memory is damaged, or was replaced by one of another encoder.
    """
    if signature(root / MANIFEST) == view.manifest and view.position is not None:
        try:
            # A file that was shortened in place would end the process when it is searched.
            view.bundle.check("memory")
        except BundleError:
            if signature(root / MANIFEST) == view.manifest:  # else it was replaced just now
                raise
        seen = signature(root / LOG)
        tail = log.read_on(root / LOG, view.position)
        # The manifest is checked again: a memory that replaces this one starts a new log.
        if tail is not None and signature(root / MANIFEST) == view.manifest:
            return replace(view, state=_apply(root, view.state, tail), log=seen, position=tail.position)
    now = read(root, weighing=view.weighing)
    if now.info.encoder != view.info.encoder:
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
    fit = Fit.open(bundle, parts["pictures"]) if "pictures" in parts else None
    state = State(tuple(names), _tags(bundle, names), parts, {}, fit)
    seen = signature(root / LOG)
    tail = log.read(root / LOG, component.fingerprint)
    if tail is not None:
        state = _apply(root, state, tail)
    info = MemoryInfo.of(bundle)
    weighing = weighing or _weighing(root, state, info.weighing, text_weight, centred)
    if reason := misfit(state.parts, weighing.text_weight):
        raise BundleError(f"{root}: {reason}; open the bundle again")
    state = replace(state, weights=weights_of(weighing.text_weight))
    position = None if tail is None else tail.position
    return View(state, weighing, info, component.fingerprint, manifest, seen, position, bundle)


def _apply(root: Path, state: State, tail: log.Tail) -> State:
    try:
        state = replayed(state, (decode(content, state.dim) for content in tail.contents))
    except ValueError as error:  # an InputError is one
        raise BundleError(f"{root / LOG}: does not belong to this memory ({error}); copy the bundle again") from error
    return state


def _names(bundle: Bundle) -> list[str]:
    names = bundle.read_json("memory", "labels.json")
    if not isinstance(names, list) or not _are_texts(names) or len(set(names)) < len(names):
        raise BundleError(f"{bundle.root}: memory/labels.json is no list of different names; build the memory again")
    return names


def _are_texts(values: Iterable[object]) -> bool:
    """Whether all are texts that can be written as UTF-8; checks thousands in less than a millisecond."""
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


def _weighing(root: Path, state: State, stored: Weighing, text_weight: float | None, centred: bool | None) -> Weighing:
    weight = stored.text_weight if text_weight is None else text_weight
    if reason := misfit(state.parts, weight):
        raise BundleError(f"{root}: {reason}; build it again") if text_weight is None else InputError(reason)
    centring = stored.centred if centred is None else centred
    if centring and not ("pictures" in state.parts and len(state.parts["pictures"].built)):
        reason = "only a memory that was built with pictures can be centred: their mean stands for the queries'"
        raise BundleError(f"{root}: {reason}; build it again") if centred is None else InputError(reason)
    return Weighing(float(weight), stored.pool, centring)
