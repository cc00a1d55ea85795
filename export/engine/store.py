"""Builds what a bundle lacks for a target and makes it live, engine by engine.

An engine that was finished stays whatever becomes of the next one, and nothing that is half written is ever live.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path

from tqdm import tqdm

from rar.runtime.bundle import Bundle, stage, sweep
from rar.runtime.engine_checks import Check, save_checks
from rar.runtime.engines import EngineKey, EngineRecord, Target, graph_sha256, info, records
from rar.runtime.errors import BundleError, ExportError, ProviderError
from rar.runtime.session.gpu import find_gpu
from rar.runtime.tensorrt_library import Library

from . import runs
from .build import Settings, build
from .form import WEIGHTS_ONLY, Precision, check_conversion, graph_precision, plan_precision, prepare
from .profiles import Shapes, graph_profiles, load_graph
from .target import check_precision
from .timing import read_timing, timing_file, write_timing

_log = logging.getLogger(__name__)

_GRAPHS = ("clip/visual.onnx", "clip/text.onnx", "mllm/vision.onnx", "mllm/embed.onnx", "mllm/decoder.onnx")
_SCRATCH = ".engines-"
_LOCK = "engines.lock"


@dataclass(frozen=True)
class Options:
    """What to build.

    Attributes:
        precision: Of all graphs that can have it; see `form.plan_precision`.
        shapes: What the profiles are to hold.
        settings: See `build.Settings`.
        images: A folder of pictures to calibrate activations on; None for photos that packages ship.
        timing_cache: TensorRT's cache file; None for the machine's own.
    """

    precision: Precision = "fp16"
    shapes: Shapes = field(default_factory=Shapes)
    settings: Settings = field(default_factory=Settings)
    images: str | None = None
    timing_cache: Path | None = None


@dataclass(frozen=True)
class Outcome:
    """One graph's engine, and whether it had to be built."""

    record: EngineRecord
    built: bool


def build_engines(
    root: str | os.PathLike[str], library: Library, target: Target, options: Options
) -> Iterator[Outcome]:
    """Builds a bundle's engines for a target, those that it lacks.

    Another process that builds for the same bundle is waited for; what it has built is then there.

    Args:
        root: The bundle's folder.
        library: See `target.choose`.
        target: See `target.choose`.
        options: What to build.

    Yields:
        Each graph's outcome; its engine is live by then.

    Raises:
        BundleError: There is no bundle, it holds no graphs, or it cannot be written.
        ExportError: A graph cannot be built; the engines of those before it stay.
    """
    check_precision(target, options.precision)
    if library.name == "tensorrt_rtx":
        _check_rtx(options)
    Bundle.open(root)  # what is wrong with it is said before it is locked
    with _lock(Path(root)):
        bundle = Bundle.open(root)
        with tqdm(_plans(bundle, target, options), disable=None, unit="engine") as bar:
            for plan in bar:
                bar.set_description(plan.graph)
                found = _present(Bundle.open(root), target).get(plan.graph)
                if found is not None and found.key == plan.key and (found.accepted or found.parity is None):
                    yield Outcome(found, built=False)
                else:
                    yield Outcome(_build_one(bundle, library, plan, options), built=True)


def _check_rtx(options: Options) -> None:
    if options.timing_cache is not None:
        raise ExportError("TensorRT-RTX times nothing when it builds, so it has no timing cache; leave it out")
    if options.settings.weight_stripped:
        try:
            find_gpu()
        except ProviderError as error:
            raise ExportError(
                f"TensorRT-RTX leaves weights out only where it finds a GPU ({error}); build without --weight-stripped"
            ) from error


@dataclass(frozen=True)
class _Plan:
    """What is to become of a graph: from what it computes in to what its engine does."""

    graph: str
    own: Precision
    precision: Precision
    key: EngineKey


def _plans(bundle: Bundle, target: Target, options: Options) -> list[_Plan]:
    """One a graph; what no engine can be made of is refused before the first is built."""
    plans = []
    for graph in _GRAPHS:
        component, _, name = graph.partition("/")
        if component not in bundle.components:
            continue
        model = load_graph(bundle, graph)
        own = graph_precision(model, graph)
        precision, how = plan_precision(model, graph, target.library, options.precision)
        check_conversion(graph, own, precision, options.settings.weight_stripped)
        if precision in ("int8", "fp8") and WEIGHTS_ONLY not in how:
            how = (*how, runs.calibration_flag(options.images))
        profiles = graph_profiles(bundle, model, graph, options.shapes)
        flags = tuple(sorted((*how, *options.settings.flags)))
        key = EngineKey(graph_sha256(bundle, component, name), target, precision, profiles, flags)
        plans.append(_Plan(graph, own, precision, key))
    if not plans:
        raise BundleError(f"{bundle.root}: holds neither an encoder nor an MLLM to build engines of")
    return plans


def _build_one(bundle: Bundle, library: Library, plan: _Plan, options: Options) -> EngineRecord:
    target = plan.key.target
    checks = runs.reference(bundle, plan.graph)
    samples = partial(runs.calibration, bundle, plan.graph, options.images)
    timing = options.timing_cache or timing_file(target)
    try:
        # Inside the bundle: a model's weights may be more than /tmp holds.
        with tempfile.TemporaryDirectory(prefix=_SCRATCH, dir=bundle.root) as scratch:
            source, weights_only = bundle.graph(*plan.graph.split("/")), WEIGHTS_ONLY in plan.key.flags
            form = prepare(source, Path(scratch), plan.own, plan.precision, weights_only, checks, samples)
            before = read_timing(timing, target) if library.name == "tensorrt" else b""
            built = build(library, target.arch, form.path, plan.key.profiles, options.settings, before)
            if built.timing != before:
                write_timing(timing, target, built.timing)
            record = EngineRecord(plan.graph, plan.key, conversion=form.cosine)
            _commit(bundle.root, record, built.engine, checks)
    except OSError as error:
        raise ExportError(f"{bundle.root}: cannot be written ({error.strerror or error})") from error
    return record


def _commit(root: Path, record: EngineRecord, engine: memoryview, checks: Sequence[Check]) -> None:
    """Makes an engine live beside those that are."""
    bundle, target = Bundle.open(root), record.key.target
    kept = [other for other in _present(bundle, target).values() if other.graph != record.graph]
    with stage(root, target.component) as staging:
        for other in kept:
            for file in (other.file, other.check_file):
                _link(bundle.file(target.component, file, check=False), staging.folder / file)
        (staging.folder / record.file).write_bytes(engine)
        save_checks(staging.folder / record.check_file, checks)
        staging.info.update(
            info(target, [*kept, record]), made_with={name: version(name) for name in ("onnx", "rar-runtime")}
        )


def _present(bundle: Bundle, target: Target) -> dict[str, EngineRecord]:
    try:
        return records(bundle, target)
    except BundleError as error:
        _log.warning("%s", error)
        return {}


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without links
        shutil.copyfile(source, target)


@contextmanager
def _lock(root: Path) -> Iterator[None]:
    """Keeps other builds for a bundle waiting; the kernel lets go of it however the process ends."""
    try:
        descriptor = os.open(root / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise BundleError(f"{root}: cannot be written ({error.strerror}: {_LOCK}); make the folder writable") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _log.warning("%s: another process builds engines for it; waiting", root)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        sweep(root, "engines")  # what a build that was killed has left
        yield
    finally:
        os.close(descriptor)
