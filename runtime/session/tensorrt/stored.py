"""TensorRT engines in a bundle: what one was built from and for, where it lies, and whether it may be loaded here.

Engines of one library, version and architecture are one component, `engines/<library>-<arch>-<version>`, with an
engine for each graph; an engine is checked by the runs that lie beside the graph (`checks`). Nothing in here needs
TensorRT: export writes this form and the runtime reads it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...bundle.manifest import Bundle, Component
from ...errors import BundleError, ProviderError

Shape = tuple[int, ...]

LIBRARIES = ("tensorrt", "tensorrt_rtx")
PRECISIONS = ("fp32", "fp16", "int8", "fp8")

_FOLDER = "engines"
# Files are named after it.
_GRAPH = re.compile(r"[a-z]+/[a-z]+\.onnx")


@dataclass(frozen=True)
class Target:
    """What engines are built for: a library of a version on GPUs of an architecture.

    Attributes:
        library: One of `LIBRARIES`, as the module is called.
        version: The module's `__version__`; an engine is loaded by the version that built it.
        arch: Compute capability, such as `sm89`.
    """

    library: str
    version: str
    arch: str

    @property
    def component(self) -> str:
        """Name of the bundle's component with these engines."""
        return f"{_FOLDER}/{self.library}-{self.arch}-{self.version}"

    def __str__(self) -> str:
        return f"{self.arch}, {self.library} {self.version}"


@dataclass(frozen=True)
class Profile:
    """Shapes that an engine takes. Profiles are numbered in an engine as they are in its key.

    Attributes:
        name: `batch`; or `prefill` and `decode` of a language model.
        shapes: Input -> smallest shape, shape to be fastest at, largest shape.
    """

    name: str
    shapes: Mapping[str, tuple[Shape, Shape, Shape]]

    def holds(self, shapes: Mapping[str, Sequence[int]]) -> bool:
        """Whether inputs of these shapes fit."""
        return shapes.keys() == self.shapes.keys() and all(
            len(shape) == len(low) and all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True))
            for name, shape in shapes.items()
            for low, _, high in [self.shapes[name]]
        )


@dataclass(frozen=True)
class EngineKey:
    """All that an engine's content depends on.

    Attributes:
        graph: See `graph_sha256`.
        target: What it was built for.
        precision: One of `PRECISIONS`.
        profiles: In the order of the engine.
        flags: Other choices, sorted, such as `weights-only`.
    """

    graph: str
    target: Target
    precision: str
    profiles: tuple[Profile, ...]
    flags: tuple[str, ...] = ()

    @property
    def sha256(self) -> str:
        """Equal for builds that give the same engine."""
        return hashlib.sha256(json.dumps(_key_to_json(self), sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class EngineRecord:
    """One engine of a bundle.

    Attributes:
        graph: The graph it replaces, as `component/name`: `clip/visual.onnx`.
        key: What it was built from and for.
        conversion: Where the graph was converted first, the worst cosine that this cost in ONNX Runtime.
    """

    graph: str
    key: EngineKey
    conversion: float | None = None

    @property
    def file(self) -> str:
        """Its name in the engines' component."""
        return f"{self.graph.replace('/', '-').removesuffix('.onnx')}.engine"


def graph_sha256(bundle: Bundle, component: str, name: str) -> str:
    """Hex SHA-256 over a graph's and its weights' hashes in the manifest; reads no file.

    Raises:
        BundleError: The bundle has no such graph.
    """
    files = bundle.component(component).files
    if name not in files:
        raise BundleError(f"{bundle.root}: {component} has no {name}; export the component again")
    parts = [files[file].sha256 for file in (name, f"{name}.data") if file in files]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def records(bundle: Bundle, target: Target) -> dict[str, EngineRecord]:
    """The engines a bundle holds for a target, by graph; empty where there are none.

    Raises:
        BundleError: The manifest's entry cannot be understood.
    """
    component = bundle.components.get(target.component)
    return {} if component is None else _read_records(bundle, target, component)


def find(bundle: Bundle, graph: str, target: Target) -> EngineRecord:
    """The engine for a graph on this very device and library, built from the graph as it is now.

    Args:
        bundle: The bundle.
        graph: As in `EngineRecord.graph`.
        target: The device's architecture and the library that is installed.

    Raises:
        ProviderError: There is none; the message says why what is there cannot be taken, and how to build one.
        BundleError: The manifest's entry cannot be understood.
    """
    rebuild = f"run `rar-export engine {bundle.root} --target {target.arch}` with {target.library} {target.version}"
    engine = records(bundle, target).get(graph)
    if engine is None:
        raise ProviderError(f"{bundle.root}: no engine of {graph} for {target}{_others(bundle, target)}; {rebuild}")
    component, _, name = graph.partition("/")
    if engine.key.graph != graph_sha256(bundle, component, name):
        raise ProviderError(
            f"{bundle.root}: the engine of {graph} for {target} is stale: the graph was exported again after it was "
            f"built; {rebuild}"
        )
    if "weight-stripped" in engine.key.flags:  # an option of earlier releases
        raise ProviderError(
            f"{bundle.root}: the engine of {graph} for {target} was built without its weights, which this release "
            f"does not put back; {rebuild}"
        )
    return engine


def engine_file(bundle: Bundle, record: EngineRecord) -> Path:
    """Path of an engine, its hash checked.

    Raises:
        BundleError: It is missing, truncated or altered.
    """
    return bundle.file(record.key.target.component, record.file)


def info(target: Target, engines: Sequence[EngineRecord]) -> dict[str, Any]:
    """What the manifest says of a target's engines."""
    return {
        "library": target.library,
        "version": target.version,
        "arch": target.arch,
        "engines": {
            record.graph: {
                "file": record.file,
                "key": record.key.sha256,
                **_key_to_json(record.key),
                "conversion": record.conversion,
            }
            for record in engines
        },
    }


def _others(bundle: Bundle, target: Target) -> str:
    """What engines there are instead."""
    if target.component in bundle.components:
        return ", only of other graphs"
    facts = [part.info for name, part in bundle.components.items() if name.startswith(f"{_FOLDER}/")]
    there = [f"{info.get('arch')} by {info.get('library')} {info.get('version')}" for info in facts]
    return f" (those there are for {'; '.join(there)}, and run nowhere else)" if there else ""


def _read_records(bundle: Bundle, target: Target, component: Component) -> dict[str, EngineRecord]:
    try:
        by_graph = {}
        for graph, entry in component.info["engines"].items():
            profiles = tuple(
                Profile(
                    str(profile["name"]),
                    {str(name): _shapes(shapes) for name, shapes in profile["shapes"].items()},
                )
                for profile in entry["profiles"]
            )
            precision = str(entry["precision"])
            if precision not in PRECISIONS or not profiles:
                raise ValueError(f"precision {precision!r}, {len(profiles)} profiles")
            flags = tuple(map(str, entry["flags"]))
            if not _GRAPH.fullmatch(graph):
                raise ValueError(f"graph {graph!r}")
            key = EngineKey(str(entry["graph_sha256"]), target, precision, profiles, flags)
            conversion = entry["conversion"]
            by_graph[graph] = EngineRecord(graph, key, None if conversion is None else float(conversion))
        return by_graph
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise BundleError(
            f"{bundle.root}: the entry of {target.component} in bundle.json is malformed ({error!r}); "
            "build the engines again"
        ) from error


def _shapes(value: Any) -> tuple[Shape, Shape, Shape]:
    low, best, high = (tuple(map(int, shape)) for shape in value)
    if not len(low) == len(best) == len(high) or not all(
        0 <= a <= b <= c for a, b, c in zip(low, best, high, strict=True)
    ):
        raise ValueError(f"shapes {value}")
    return low, best, high


def _key_to_json(key: EngineKey) -> dict[str, Any]:
    return {
        "graph_sha256": key.graph,
        "target": [key.target.library, key.target.version, key.target.arch],
        "precision": key.precision,
        "profiles": [
            {"name": profile.name, "shapes": {name: list(map(list, s)) for name, s in profile.shapes.items()}}
            for profile in key.profiles
        ],
        "flags": list(key.flags),
    }
