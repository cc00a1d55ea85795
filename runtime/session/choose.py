"""Opens the graphs of a bundle on one device, and says what runs them and why nothing faster does."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from .. import engines
from ..bundle import Bundle
from ..engine_checks import checks, worst_cosine
from ..engines import LIMITS, EngineRecord, Parity, Profile, Target
from ..errors import BundleError, InputError, ProviderError
from ..tensorrt_library import Library, load_library
from . import options as provider_options
from .cuda import cuda
from .engine import EngineSession
from .gpu import Gpu, find_gpu
from .obstacles import check_provider
from .onnx import OnnxSession
from .options import Options
from .protocol import Session

_LOG = logging.getLogger("rar")

ENGINE = "engine"
# What `auto` tries, best first.
ORDER = (ENGINE, "tensorrt", "tensorrt-rtx", "cuda", "cpu")


class Sessions:
    """Opens the graphs of a bundle.

    Args:
        bundle: The bundle.
        provider: `engine` for the bundle's engines of TensorRT or TensorRT-RTX, one of `PROVIDERS` for ONNX Runtime,
            or `auto` for the first of `ORDER` that runs a graph, with one line to the log `rar` about what was passed
            over.
        threads: Threads within an operator on the CPU; None for one a core.
        options: Provider -> its own options, before those of the bundle; see `options`.

    Attributes:
        running: Graph, as `clip/visual.onnx`, -> what runs it, for all that were opened.

    Raises:
        InputError: An unknown provider, or options that cannot be.
    """

    def __init__(
        self, bundle: Bundle, provider: str = "auto", threads: int | None = None, options: Options | None = None
    ) -> None:
        if provider not in ("auto", *ORDER):
            raise InputError(f"provider {provider!r} is unknown; choose auto, {', '.join(ORDER)}")
        self._bundle, self._provider, self._threads = bundle, provider, threads
        self._options = provider_options.check(options)
        self.running: dict[str, str] = {}
        self._said: set[str] = set()

    def of(self, bundle: Bundle) -> Sessions:
        """The same for another bundle, or for this one as it is now; `running` is shared."""
        other = Sessions(bundle, self._provider, self._threads, self._options)
        other.running, other._said = self.running, self._said
        return other

    def open(self, component: str, name: str, *, fp16: bool = False) -> Session:
        """Opens one graph.

        Args:
            component: The bundle's component.
            name: The graph's name in it.
            fp16: Whether the graph computes in fp16.

        Raises:
            ProviderError: What was asked for cannot run it; with `auto`, nothing can.
            BundleError: The graph, or an engine of it, is missing or damaged.
        """
        graph = f"{component}/{name}"
        path = self._bundle.graph(component, name)
        passed: dict[str, list[str]] = {}  # reason -> whom it kept
        for provider in [self._provider] if self._provider != "auto" else ORDER:
            try:
                session = self._engine(graph) if provider == ENGINE else self._onnx(provider, component, path, fp16)
            except ProviderError as error:
                if self._provider != "auto":
                    raise
                passed.setdefault(str(error), []).append(provider)
                continue
            self.running[graph] = provider
            if self._provider == "auto":
                self._say(graph, provider, passed)
            return session
        raise ProviderError(f"nothing runs {graph}{_reasons(passed)}")

    def _say(self, graph: str, provider: str, passed: Mapping[str, Sequence[str]]) -> None:
        reasons = _reasons(passed)
        # Once, unless another graph fares otherwise.
        known = reasons in self._said
        self._said.add(reasons)
        _LOG.log(logging.DEBUG if known else logging.INFO, "%s runs on %s%s", graph, provider, reasons)

    def _onnx(self, provider: str, component: str, path: Path, fp16: bool) -> Session:
        check_provider(provider)
        settings = provider_options.merged(
            provider,
            self._cache(provider, component, path),
            self._profiles(f"{component}/{path.name}"),
            provider_options.of_bundle(self._bundle, component),
            self._options,
        )
        return OnnxSession(path, provider, self._threads, fp16=fp16, options=settings)

    def _cache(self, provider: str, component: str, path: Path) -> Path:
        """Where a provider keeps what it compiles of a graph as it is now, for this GPU and this ONNX Runtime."""
        import onnxruntime as ort

        made_by = provider if provider == "cpu" else f"{provider}-{ort.__version__}-{find_gpu().arch}"
        return provider_options.cache_folder() / made_by / self._bundle.component(component).fingerprint / path.stem

    def _profiles(self, graph: str) -> Sequence[Profile]:
        """The shapes that any engine of the graph was built for."""
        for name, part in self._bundle.components.items():
            if name.startswith("engines/"):
                target = Target(*(str(part.info.get(key)) for key in ("library", "version", "arch")))
                if found := engines.records(self._bundle, target).get(graph):
                    return found.key.profiles
        return ()

    def _engine(self, graph: str) -> Session:
        """The graph's engine for this GPU by a library that is here, compared if that was not done yet."""
        gpu = find_gpu()
        reasons = []
        for name in engines.LIBRARIES:
            try:
                library = load_library(name)
                record = engines.find(self._bundle, graph, Target(name, library.version, gpu.arch))
                return self._opened(record, library, gpu)
            except ProviderError as error:
                reasons.append(str(error))
        raise ProviderError("; ".join(reasons))

    def _opened(self, record: EngineRecord, library: Library, gpu: Gpu) -> Session:
        path = engines.engine_file(self._bundle, record)
        cache = provider_options.cache_folder() / library.name / f"{record.key.sha256[:16]}-{gpu.arch}.cache"
        weights = self._bundle.graph(*record.graph.split("/")) if "weight-stripped" in record.key.flags else None
        session = EngineSession(path, library, record.key.profiles, cuda(), weights=weights, cache=cache)
        if record.parity is None:
            self._bundle = accept(self._bundle, record, session, gpu.name)
        return session


def _reasons(passed: Mapping[str, Sequence[str]]) -> str:
    found = "; ".join(f"{', '.join(providers)} ({reason})" for reason, providers in passed.items())
    return f"; passed over: {found}" if found else ""


def accept(bundle: Bundle, record: EngineRecord, session: Session, device: str) -> Bundle:
    """Compares what a session makes of an engine's stored inputs with what ONNX Runtime made of them on the CPU.

    The result is stored in the bundle, so that it is done once; where the bundle cannot be written it is done at each
    opening.

    Args:
        bundle: The bundle.
        record: The engine's entry.
        session: The engine.
        device: Name of the GPU.

    Returns:
        The bundle as it is then.

    Raises:
        ProviderError: The engine is too far off, or gives numbers that are not finite; it is closed.
        BundleError: The stored runs are missing or damaged.
    """
    cosines = [
        worst_cosine(check.outputs, session.run(check.inputs, list(check.outputs))) for check in checks(bundle, record)
    ]
    # NaN wins: min() would pass over it.
    worst = next((cosine for cosine in cosines if cosine != cosine), min(cosines))
    limit = LIMITS[record.key.precision]
    try:
        bundle = engines.set_parity(bundle, record, Parity(worst, device))
    except (BundleError, OSError) as error:
        _LOG.info("%s: how it compared cannot be stored (%s); it is compared again next time", record.graph, error)
    if not worst >= limit:
        session.close()
        raise ProviderError(
            f"{bundle.root}: the engine of {record.graph} for {record.key.target} is rejected: on {device} its worst "
            f"cosine to ONNX Runtime is {worst:.5f}, limit {limit}; build it at another --precision or with another "
            "version of the library"
        )
    _LOG.info("%s: the engine for %s was compared on %s: cosine %.6f", record.graph, record.key.target, device, worst)
    return bundle
