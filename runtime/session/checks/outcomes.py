"""Stores the comparisons that graphs passed, so that each is made once.

An outcome is one small file, named by a hash of all that it is valid for. So processes that check at the same time
write the same content under the same name and need no lock; each write is atomic. Outcomes lie in the bundle's folder
`checks`, which the manifest does not list (a device image that was checked once stays checked). If the bundle cannot be
written, or lies in a hub's cache, which stays as published, they lie in the user's cache folder.

A bundle may come from a stranger, and so may its outcomes. They are trusted for one thing: that the comparison need not
be made again. That is no security hole: whoever can forge an outcome can also forge the graph or its stored outputs.
The comparison detects wrong kernels and compilers, not attackers. Outcomes are never executed, name no file, and are
read as data of a known form.

Only passes are stored. A graph that failed answers nothing and is compared again at the next opening: the fault may
have been the driver's, and a stranger's file must not be able to disable a device.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...bundle.files import write_json
from ...bundle.hub import is_cached
from ...bundle.manifest import Bundle
from ...bundle.regular import read_regular
from .measure import Limit, Measured

_LOG = logging.getLogger("rar")

FOLDER = "checks"
# Increased when this package runs graphs in another way, such as with other session settings.
_FORM = 1
_LARGEST = 1 << 14


@dataclass(frozen=True)
class Place:
    """Everything except the graph that its results depend on.

    Attributes:
        provider: What runs it; see `session.CHOICES`.
        library: Name and version, such as `onnxruntime 1.32.0`.
        processor: The GPU's architecture or the CPU's instruction sets, not the model name.
        settings: The provider's settings, or those that an engine was built with.
    """

    provider: str
    library: str
    processor: str
    settings: str = ""

    def __str__(self) -> str:
        return f"{self.provider} ({self.library}; {self.processor})"


@dataclass(frozen=True)
class Outcome:
    """One comparison that a graph passed.

    Attributes:
        graph: Such as `clip/visual.onnx`.
        place: What ran it.
        measured: The measured cosines.
    """

    graph: str
    place: Place
    measured: Measured


@dataclass(frozen=True)
class Key:
    """What an outcome is valid for.

    Attributes:
        graph: Such as `clip/visual.onnx`.
        sha256: Over the graph, its weights and its stored runs.
        place: What runs it.
        limit: The limit that was applied.
    """

    graph: str
    sha256: str
    place: Place
    limit: Limit

    @property
    def file(self) -> str:
        """The outcome's file name."""
        text = json.dumps([_FORM, asdict(self)], sort_keys=True)
        return f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"


def recall(bundle: Bundle, cache: Path, key: Key) -> Outcome | None:
    """The outcome for exactly this key, or None."""
    for folder in _folders(bundle, cache):
        outcome = _read(folder / key.file)
        if outcome and (outcome.graph, outcome.place) == (key.graph, key.place) and outcome.measured.within(key.limit):
            return outcome
    return None


def remember(bundle: Bundle, cache: Path, key: Key, measured: Measured) -> None:
    """Stores a pass in the bundle, or in the cache folder if the bundle cannot be written or is in a hub's cache."""
    value = {"form": _FORM, "graph": key.graph, "place": asdict(key.place), "measured": asdict(measured)}
    reasons = []
    for folder in _folders(bundle, cache):
        try:
            folder.mkdir(parents=folder.parent == cache, exist_ok=True)
            if folder.parent != cache and folder.is_symlink():
                raise OSError(f"{folder} leads elsewhere")
            write_json(folder / key.file, value)
            return
        except OSError as error:
            reasons.append(str(error))
    _LOG.info("%s: that it passed cannot be stored (%s); it is checked again next time", key.graph, "; ".join(reasons))


def _folders(bundle: Bundle, cache: Path) -> list[Path]:
    """Where outcomes lie, the best first."""
    return [cache / FOLDER] if is_cached(bundle.root) else [bundle.root / FOLDER, cache / FOLDER]


def outcomes(bundle: Bundle) -> Iterator[Outcome]:
    """All outcomes in the bundle's folder, of this and of other devices, by graph and provider."""
    folder = bundle.root / FOLDER
    paths = sorted(folder.glob("*.json")) if folder.is_dir() and not folder.is_symlink() else []
    readable = [outcome for path in paths if (outcome := _read(path)) is not None]
    yield from sorted(readable, key=lambda outcome: (outcome.graph, outcome.place.provider, outcome.place.processor))


def _read(path: Path) -> Outcome | None:
    """The content of an outcome's file; None if it is absent or not a valid outcome."""
    try:
        value: Any = json.loads(read_regular(path, _LARGEST))
        place, measured = value["place"], value["measured"]
        if value["form"] != _FORM or not all(isinstance(text, str) for text in (value["graph"], *place.values())):
            return None
        worst, mean, count = float(measured["worst"]), float(measured["mean"]), int(measured["count"])
        return Outcome(value["graph"], Place(**place), Measured(worst, mean, count, str(measured["output"])))
    except (OSError, ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        return None
