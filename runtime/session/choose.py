"""Opens the graphs of a bundle on one device, and reports what runs them and why nothing faster does."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakSet

from ..bundle.manifest import Bundle
from ..errors import InputError, ProviderError
from ..machine import cpu
from . import checks
from .cuda.device import cuda
from .cuda.gpu import Gpu, find_gpu
from .onnxruntime import options as provider_options
from .onnxruntime.graph import OnnxSession
from .onnxruntime.obstacles import check_provider
from .onnxruntime.options import Options
from .openvino.graph import OPENVINO, PRECISION, OpenVinoSession, properties
from .openvino.graph import library as openvino_library
from .protocol import Session, closed
from .tensorrt import stored
from .tensorrt.engine import EngineSession
from .tensorrt.library import Library, load_library
from .tensorrt.stored import EngineRecord, Profile, Target

_LOG = logging.getLogger("rar")

ENGINE = "engine"
# The order in which `auto` tries providers, best first.
ORDER = (ENGINE, "tensorrt", "tensorrt-rtx", "cuda", "cpu")
# What can be asked for. OpenVINO only by name: where it is faster than `cpu`, and right, is seen on the device.
CHOICES = ("auto", *ORDER, OPENVINO)
# OpenVINO's names of what it computes in, where that is less than fp32 -> the limits that it is held to.
_LOWER = {"bf16": "bf16", "f16": "fp16"}


@dataclass(frozen=True)
class _Opened:
    """A session, and what its results depend on.

    Attributes:
        session: The session.
        place: What runs it.
        precision: An engine's precision; None for the graph's own.
        computed: What it is computed in, where that is less than its precision.
    """

    session: Session
    place: checks.Place
    precision: str | None = None
    computed: str | None = None

    def key(self, bundle: Bundle, component: str, name: str) -> checks.Key:
        """See `checks.key_of`."""
        return checks.key_of(bundle, component, name, self.place, self.precision, self.computed)


@dataclass(frozen=True)
class Checked:
    """The comparison of a graph with fp32 on one provider; see `Sessions.check`."""

    key: checks.Key
    measured: checks.Measured

    @property
    def passed(self) -> bool:
        """Whether the graph is within its limits."""
        return self.measured.within(self.key.limit)


class Sessions:
    """Opens the graphs of a bundle. Each is compared with its stored fp32 runs before its first answer.

    Args:
        bundle: The bundle.
        provider: `engine` for the bundle's engines of TensorRT or TensorRT-RTX, one of `PROVIDERS` for ONNX Runtime,
            `openvino`, or `auto` for the first of `ORDER` that runs a graph, with one line to the log `rar` about the
            skipped ones.
        threads: Threads within an operator on the CPU; None for one per core.
        options: Provider -> its options, which override the bundle's; see `options`.

    Attributes:
        running: Graph, such as `clip/visual.onnx`, -> what runs it, for all opened graphs.

    Raises:
        InputError: The provider is unknown, or an option is invalid.
    """

    def __init__(
        self, bundle: Bundle, provider: str = "auto", threads: int | None = None, options: Options | None = None
    ) -> None:
        if provider not in CHOICES:
            raise InputError(f"provider {provider!r} is unknown; choose {', '.join(CHOICES)}")
        self._bundle, self._provider, self._threads = bundle, provider, threads
        self._options = provider_options.check(options)
        self.running: dict[str, str] = {}
        self._said: set[str] = set()
        self._closed = False
        # Weakly: a session that nobody holds any more gives its memory back by itself.
        self._opened: WeakSet[Session] = WeakSet()

    def of(self, bundle: Bundle) -> Sessions:
        """The same for another bundle, or for this one as it is now; `running` and what `close` closes are shared."""
        other = Sessions(bundle, self._provider, self._threads, self._options)
        other.running, other._said, other._opened = self.running, self._said, self._opened
        return other

    def close(self) -> None:
        """Closes all sessions that were opened; they can neither run nor be opened again."""
        self._closed = True
        for session in list(self._opened):
            session.close()

    def open(self, component: str, name: str, *, fp16: bool = False) -> Session:
        """Opens one graph.

        Args:
            component: The bundle's component.
            name: The graph's name in it.
            fp16: Whether the graph computes in fp16.

        Raises:
            ProviderError: The requested provider cannot run it; with `auto`, none can.
            BundleError: The graph, or an engine of it, is missing or damaged.
            InputError: The sessions are closed.
        """
        if self._closed:
            raise closed(f"{component}/{name}")
        graph = f"{component}/{name}"
        path = self._bundle.graph(component, name)
        passed: dict[str, list[str]] = {}  # reason -> the providers that it ruled out
        for provider in self._tried:
            try:
                opened = self._open(provider, component, path, fp16)
                self._hold(component, name, opened)
            except ProviderError as error:
                if self._provider != "auto":
                    raise
                passed.setdefault(str(error), []).append(provider)
                continue
            self.running[graph] = provider
            self._opened.add(opened.session)
            if self._provider == "auto":
                self._say(graph, provider, passed)
            return opened.session
        raise ProviderError(f"nothing runs {graph}{_reasons(passed)}")

    def beside(self, component: str, name: str, provider: str, threads: int, *, fp16: bool = False) -> Session:
        """Opens a graph that runs already once more, on the same provider, for another number of threads.

        Args:
            component: The bundle's component.
            name: The graph's name in it.
            provider: What runs it already.
            threads: Threads within an operator.
            fp16: Whether the graph computes in fp16.

        Raises:
            RarError: As `open`.
        """
        if self._closed:
            raise closed(f"{component}/{name}")
        other = Sessions(self._bundle, provider, threads, self._options)
        other._said, other._opened = self._said, self._opened
        return other.open(component, name, fp16=fp16)

    def check(self, component: str, name: str, *, fp16: bool = False) -> Iterator[Checked]:
        """Compares a graph with fp32 again, ignoring stored outcomes, on all providers that can run it here.

        Args:
            component: The bundle's component.
            name: The graph's name in it.
            fp16: Whether the graph computes in fp16.

        Yields:
            The comparison on each; nothing if the graph was exported without runs.

        Raises:
            ProviderError: The provider that was named cannot run it.
            BundleError: The graph or its runs are missing or damaged.
        """
        path = self._bundle.graph(component, name)
        if not checks.has_runs(self._bundle, component, name):
            return
        runs = checks.load_runs(self._bundle, component, name)
        for provider in self._tried:
            try:
                opened = self._open(provider, component, path, fp16)
            except ProviderError:
                if self._provider != "auto":
                    raise
                continue
            try:
                measured = checks.measure(opened.session, runs)
            finally:
                opened.session.close()
            yield Checked(opened.key(self._bundle, component, name), measured)

    @property
    def _tried(self) -> Sequence[str]:
        return ORDER if self._provider == "auto" else [self._provider]

    def _open(self, provider: str, component: str, path: Path, fp16: bool) -> _Opened:
        if provider == ENGINE:
            return self._engine(f"{component}/{path.name}")
        if provider == OPENVINO:
            return self._openvino(component, path)
        return self._onnx(provider, component, path, fp16)

    def _hold(self, component: str, name: str, opened: _Opened) -> None:
        """See `checks.hold`; a bundle from before stored runs is recognised by its content."""
        try:
            if checks.has_runs(self._bundle, component, name):
                key = opened.key(self._bundle, component, name)
                checks.hold(self._bundle, opened.session, key, provider_options.cache_folder())
                return
            again = f"export {component} again to have them checked: {checks.again(component)}"
            said = f"{self._bundle.root}: {component} was exported without inputs to check its graphs with"
            if opened.place.provider == ENGINE:
                raise ProviderError(f"{said}, and no engine answers unchecked; {again}, then `rar-export engine`")
        except Exception:
            opened.session.close()
            raise
        if said not in self._said:
            self._said.add(said)
            _LOG.warning("%s: whether %s gives what it should is not known; %s", said, opened.place, again)

    def _say(self, graph: str, provider: str, passed: Mapping[str, Sequence[str]]) -> None:
        reasons = _reasons(passed)
        # Logged once, unless another graph has another result.
        known = reasons in self._said
        self._said.add(reasons)
        _LOG.log(logging.DEBUG if known else logging.INFO, "%s runs on %s%s", graph, provider, reasons)

    def _onnx(self, provider: str, component: str, path: Path, fp16: bool) -> _Opened:
        import onnxruntime as ort

        check_provider(provider)

        def settings(cache: Path) -> dict[str, str]:
            profiles = self._profiles(f"{component}/{path.name}")
            of_bundle = provider_options.of_bundle(self._bundle, component)
            return provider_options.merged(provider, cache, profiles, of_bundle, self._options)

        processor = cpu.describe() if provider == "cpu" else find_gpu().arch
        # The folder of compiled files does not affect results.
        told = ", ".join(f"{name} {value}" for name, value in sorted(settings(Path("cache")).items()))
        place = checks.Place(provider, f"onnxruntime {ort.__version__}", processor, told)
        used = settings(self._cache(provider, component, path))
        return _Opened(OnnxSession(path, provider, self._threads, fp16=fp16, options=used), place)

    def _openvino(self, component: str, path: Path) -> _Opened:
        version = openvino_library().__version__
        of_bundle = provider_options.of_bundle(self._bundle, component)
        options = properties(provider_options.merged(OPENVINO, Path(), (), of_bundle, self._options))
        told = ", ".join(f"{name} {value}" for name, value in sorted(options.items()))
        place = checks.Place(OPENVINO, f"openvino {version}", cpu.describe(), told)
        session = OpenVinoSession(path, self._threads, options=options)
        return _Opened(session, place, computed=_LOWER.get(options[PRECISION]))

    def _cache(self, provider: str, component: str, path: Path) -> Path:
        """A provider's folder for the compiled form of this graph, for this GPU and this ONNX Runtime."""
        import onnxruntime as ort

        made_by = provider if provider == "cpu" else f"{provider}-{ort.__version__}-{find_gpu().arch}"
        return provider_options.cache_folder() / made_by / self._bundle.component(component).fingerprint / path.stem

    def _profiles(self, graph: str) -> Sequence[Profile]:
        """The shapes that any engine of the graph was built for."""
        for name, part in self._bundle.components.items():
            if name.startswith("engines/"):
                target = Target(*(str(part.info.get(key)) for key in ("library", "version", "arch")))
                if record := stored.records(self._bundle, target).get(graph):
                    return record.key.profiles
        return ()

    def _engine(self, graph: str) -> _Opened:
        """The graph's engine for this GPU, by an installed library."""
        gpu = find_gpu()
        reasons = []
        for name in stored.LIBRARIES:
            try:
                library = load_library(name)
                record = stored.find(self._bundle, graph, Target(name, library.version, gpu.arch))
                return self._load(record, library, gpu)
            except ProviderError as error:
                reasons.append(str(error))
        raise ProviderError("; ".join(reasons))

    def _load(self, record: EngineRecord, library: Library, gpu: Gpu) -> _Opened:
        path = stored.engine_file(self._bundle, record)
        key = record.key
        cache = provider_options.cache_folder() / library.name / f"{key.sha256[:16]}-{gpu.arch}.cache"
        session = EngineSession(path, library, key.profiles, cuda(), cache=cache)
        place = checks.Place(ENGINE, f"{library.name} {library.version}", gpu.arch, key.sha256)
        return _Opened(session, place, key.precision)


def _reasons(passed: Mapping[str, Sequence[str]]) -> str:
    listed = "; ".join(f"{', '.join(providers)} ({reason})" for reason, providers in passed.items())
    return f"; passed over: {listed}" if listed else ""
