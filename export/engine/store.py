"""Builds the engines that a bundle lacks for a target, and makes each live when it is finished.

A finished engine stays even if the next build fails. An unfinished one is never live.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path

from tqdm import tqdm

from rar.runtime.bundle.change import stage
from rar.runtime.bundle.files import link
from rar.runtime.bundle.hub import check_own
from rar.runtime.bundle.lock import Lock
from rar.runtime.bundle.manifest import Bundle
from rar.runtime.bundle.regular import open_regular
from rar.runtime.bundle.unfinished import sweep, unfinished
from rar.runtime.errors import BundleError, ExportError
from rar.runtime.session.checks import again, has_runs, load_runs
from rar.runtime.session.tensorrt.library import Library
from rar.runtime.session.tensorrt.stored import EngineKey, EngineRecord, Target, graph_sha256, info, records

from . import calibration
from .build import build
from .form import WEIGHTS_ONLY, Precision, check_conversion, graph_precision, plan_precision, prepare
from .profiles import Shapes, graph_profiles, load_graph
from .target import check_precision
from .timing import read_timing, timing_file, write_timing

_log = logging.getLogger(__name__)

_GRAPHS = ("clip/visual.onnx", "clip/text.onnx", "mllm/vision.onnx", "mllm/embed.onnx", "mllm/decoder.onnx")
_LOCK = "engines.lock"


@dataclass(frozen=True)
class Options:
    """What to build.

    Attributes:
        precision: The precision of all graphs that can have it; see `form.plan_precision`.
        shapes: The shapes that the profiles must hold.
        memory: See `build.build`.
        images: A folder of pictures to calibrate activations on; None for photos that packages ship.
    """

    precision: Precision = "fp16"
    shapes: Shapes = field(default_factory=Shapes)
    memory: int | None = None
    images: str | None = None


@dataclass(frozen=True)
class Outcome:
    """One graph's engine, and whether it had to be built."""

    record: EngineRecord
    built: bool


def build_engines(
    root: str | os.PathLike[str], library: Library, target: Target, options: Options
) -> Iterator[Outcome]:
    """Builds the engines that a bundle lacks for a target.

    If another process builds for the same bundle, this one waits, and then uses what the other has built.

    Args:
        root: The bundle's folder.
        library: See `target.choose`.
        target: See `target.choose`.
        options: What to build.

    Yields:
        Each graph's outcome; its engine is live by then.

    Raises:
        BundleError: There is no bundle, it holds no graphs, it cannot be written, or it lies in a hub's cache.
        ExportError: A graph cannot be built; the engines of those before it stay.
    """
    check_precision(target, options.precision)
    Bundle.open(root)  # a broken bundle is reported before the lock is taken
    check_own(Path(root))  # and minutes before an engine could not become live
    with _lock(Path(root)):
        bundle = Bundle.open(root)
        with tqdm(_plans(bundle, target, options), disable=None, unit="engine") as bar:
            for plan in bar:
                bar.set_description(plan.graph)
                present = _present(Bundle.open(root), target).get(plan.graph)
                if present is not None and present.key == plan.key:
                    yield Outcome(present, built=False)
                else:
                    yield Outcome(_build_one(bundle, library, plan, options), built=True)


@dataclass(frozen=True)
class _Plan:
    """The engine to build for a graph: the precision of the graph as exported, and that of the engine."""

    graph: str
    exported: Precision
    precision: Precision
    key: EngineKey


def _plans(bundle: Bundle, target: Target, options: Options) -> list[_Plan]:
    """One plan a graph. A graph that no engine can be built from is refused before the first build."""
    plans = []
    if "mllm" in bundle.components and (attention := bundle.component("mllm").info.get("attention", "tree")) != "tree":
        raise ExportError(
            f"{bundle.root}: its MLLM was taken as ready-made ONNX, whose decoder ({attention}) no engine is built of; "
            "export it with `rar-export mllm --model`, or build engines of a bundle without it"
        )
    for graph in _GRAPHS:
        component, _, name = graph.partition("/")
        if component not in bundle.components or name not in bundle.component(component).files:
            continue
        if not has_runs(bundle, component, name):
            raise BundleError(
                f"{bundle.root}: {component} was exported without inputs to check an engine with; export it again: "
                f"{again(component)}"
            )
        model = load_graph(bundle, graph)
        exported = graph_precision(model, graph)
        precision, how = plan_precision(model, graph, target.library, options.precision)
        check_conversion(graph, exported, precision)
        if precision in ("int8", "fp8") and WEIGHTS_ONLY not in how:
            how = (*how, calibration.calibration_flag(options.images))
        profiles = graph_profiles(bundle, model, graph, options.shapes)
        memory = () if options.memory is None else (f"memory-{options.memory}",)
        flags = tuple(sorted((*how, *memory)))
        key = EngineKey(graph_sha256(bundle, component, name), target, precision, profiles, flags)
        plans.append(_Plan(graph, exported, precision, key))
    if not plans:
        raise BundleError(
            f"{bundle.root}: holds neither an encoder nor an MLLM to build engines of"
            "; export one with `rar-export clip` or `mllm`"
        )
    return plans


def _build_one(bundle: Bundle, library: Library, plan: _Plan, options: Options) -> EngineRecord:
    target = plan.key.target
    checks = load_runs(bundle, *plan.graph.split("/"))
    samples = partial(calibration.calibration, bundle, plan.graph, options.images)
    timing = timing_file(target)
    try:
        # Inside the bundle: a model's weights may not fit into /tmp.
        with unfinished(bundle.root, "engines") as scratch:
            source, weights_only = bundle.graph(*plan.graph.split("/")), WEIGHTS_ONLY in plan.key.flags
            form = prepare(source, scratch, plan.exported, plan.precision, weights_only, checks, samples)
            before = read_timing(timing, target) if library.name == "tensorrt" else b""
            built = build(library, target.arch, form.path, plan.key.profiles, options.memory, before)
            if built.timing != before:
                write_timing(timing, target, built.timing)
            record = EngineRecord(plan.graph, plan.key, conversion=form.cosine)
            _commit(bundle.root, record, built.engine)
    except OSError as error:
        raise ExportError(
            f"{bundle.root}: cannot be written ({error.strerror or error}); free space or change who may write there"
        ) from error
    return record


def _commit(root: Path, record: EngineRecord, engine: memoryview) -> None:
    """Makes an engine live beside the existing ones."""
    bundle, target = Bundle.open(root), record.key.target
    kept = [other for other in _present(bundle, target).values() if other.graph != record.graph]
    with stage(root, target.component) as staging:
        for other in kept:
            link(bundle.file(target.component, other.file, check=False), staging.folder / other.file)
        (staging.folder / record.file).write_bytes(engine)
        staging.info.update(
            info(target, [*kept, record]), made_with={name: version(name) for name in ("onnx", "rar-runtime")}
        )


def _present(bundle: Bundle, target: Target) -> dict[str, EngineRecord]:
    try:
        return records(bundle, target)
    except BundleError as error:
        _log.warning("%s", error)
        return {}


@contextmanager
def _lock(root: Path) -> Iterator[None]:
    """Makes other builds for the bundle wait; the kernel releases the lock however the process ends."""
    try:
        lock = Lock(lambda: open_regular(root / _LOCK, os.O_RDWR | os.O_CREAT))
    except OSError as error:
        raise BundleError(f"{root}: cannot be written ({error.strerror}: {_LOCK}); make the folder writable") from error
    try:
        try:
            lock.take(wait=False)
        except BlockingIOError:
            _log.warning("%s: another process builds engines for it; waiting", root)
            lock.take(wait=True)
        sweep(root, "engines")  # the leftovers of a killed build
        yield
    finally:
        lock.close()
