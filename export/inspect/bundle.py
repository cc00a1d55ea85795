"""Shows what a bundle holds, and checks that it works."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from rar.runtime.bundle.manifest import Bundle
from rar.runtime.cli.printable import printable
from rar.runtime.encoder.clip import Clip
from rar.runtime.encoder.info import EncoderInfo
from rar.runtime.errors import BundleError, ProviderError, RarError
from rar.runtime.memory import MODALITIES, Candidate, Memory, log
from rar.runtime.memory.fit.measure import sample, spread
from rar.runtime.memory.view import LOG
from rar.runtime.rank.mllm.exemplars import COMPONENT, Exemplars
from rar.runtime.rank.mllm.info import MllmInfo
from rar.runtime.rank.mllm.model import Mllm
from rar.runtime.rank.mllm.ranker import MllmRanker
from rar.runtime.rank.protocol import Query
from rar.runtime.recognizer import Recognizer
from rar.runtime.session import Sessions, checks

# Entries of each part that must find themselves.
_SELF_SAMPLE = 200
# What another attention than a tree's costs (docs/own-models.md).
_ROWS = {
    "rows": "pictures are ranked one after the other: one call for the prompt, one call for all names",
    "row": "pictures are ranked one after the other: one call for the prompt, one call for each name",
}


def describe(bundle: Bundle) -> str:
    """A table of the bundle's components and files with their manifest entries."""
    lines = [str(bundle.root)]
    for name, component in bundle.components.items():
        total = sum(record.bytes for record in component.files.values())
        lines += ["", f"{name}  {_size(total)}"]
        width = max((len(file) for file in component.files), default=0)
        lines += [f"  {file:<{width}}  {_size(record.bytes):>9}" for file, record in component.files.items()]
        facts = _memory_facts(bundle, component.info) if name == "memory" else _facts(dict(component.info))
        lines += [f"  {line}" for line in facts]
        if name == "mllm" and (told := _ROWS.get(str(component.info.get("attention")))):
            lines.append(f"  {told}")
    passed = [f"  {one.graph} on {one.place}: {one.measured}" for one in checks.outcomes(bundle)]
    lines += ["", "compared with fp32 where it was opened", *(passed or ["  nothing yet"])]
    return "\n".join(printable(line) for line in lines)  # a stranger's manifest must not steer the terminal


def verify(path: str | os.PathLike[str], provider: str = "auto") -> Iterator[str]:
    """Checks a bundle from end to end; yields a line for each check that passed.

    Args:
        path: The bundle.
        provider: What its graphs are compared with fp32 on; `auto` for all that `auto` takes and that run here.

    Raises:
        BundleError: Names the first check that failed.
        ProviderError: A graph is too far from fp32 on a provider that runs it here, or the one that was named does not.
    """
    bundle = Bundle.open(path)
    yield f"manifest: {', '.join(bundle.components)}"
    yield f"hashes: {bundle.verify()} files as exported"
    yield from _checks(bundle, provider)
    clip = Clip(bundle, "cpu")
    blank = clip.preprocess([np.full((8, 8, 3), 128, np.uint8)])
    towers = {"visual": clip.embed_pixels(blank)} | ({"text": clip.embed_texts(["a photo"])} if clip.templates else {})
    for tower, embedding in towers.items():
        if embedding.shape != (1, clip.dim) or not np.isclose(np.linalg.norm(embedding), 1, atol=1e-2):
            raise BundleError(f"{bundle.root}: the {tower} tower gives no unit vector of {clip.dim}; export it again")
    told = "both towers give" if clip.templates else "its one tower, of pictures, gives"
    yield f"encoder: {told} unit vectors of {clip.dim} dimensions"
    if "mllm" in bundle.components:
        model = Mllm(bundle, clip)
        yield _ranks(model, clip)
        if COMPONENT in bundle.components:
            yield _exemplars(bundle, model)
    if "memory" not in bundle.components:
        yield "memory: none yet"
        return
    yield from _self_retrieval(bundle)
    Recognizer.open(path, "cpu")
    yield "recognizer: opens"


def _exemplars(bundle: Bundle, model: Mllm) -> str:
    try:
        kept = Exemplars.open(bundle, model.prompt)
    except RarError as error:  # they are used only where they are asked for
        return f"exemplars: not to be used ({error})"
    return f"exemplars: {len(kept)} pictures, as this encoder and this MLLM see them"


def _checks(bundle: Bundle, provider: str) -> Iterator[str]:
    """Compares each graph with its stored runs again; see `Sessions.check`."""
    failed = []
    yield "check: cosine to fp32 (worst row, mean) and its limits"
    for component in ("clip", "mllm"):
        for graph in sorted(bundle.components[component].files) if component in bundle.components else ():
            if not graph.endswith(".onnx"):
                continue
            if not checks.has_runs(bundle, component, graph):
                yield f"  {component}/{graph}: exported without inputs to check it with; {checks.again(component)}"
                continue
            fp16 = EncoderInfo.of(bundle).half if component == "clip" else MllmInfo.of(bundle).half(graph)
            for one in Sessions(bundle, provider).check(component, graph, fp16=fp16):
                limit, measured = one.key.limit, one.measured
                yield (
                    f"  {one.key.graph:<18} {one.key.place.provider:<12} {measured.worst:8.5f} {measured.mean:8.5f}   "
                    f"{limit.worst:6g} {limit.mean:6g}   {'passed' if one.passed else 'FAILED'}"
                )
                if not one.passed:
                    failed.append(checks.failure(bundle, one.key, measured))
    if failed:
        raise ProviderError(failed[0])


def _ranks(model: Mllm, clip: Clip) -> str:
    pixels = np.full((8, 8, 3), 128, np.uint8)
    embeddings, features = clip.encode(clip.preprocess([pixels]))
    names = [Candidate("a cat", 0.2), Candidate("a dog", 0.1)]
    query = Query(pixels, embeddings[0], names, None if features is None else features[0])
    scores = MllmRanker(model).rank([query])[0].scores
    if not np.isfinite(scores).all():
        raise BundleError(f"{model.bundle.root}: the MLLM's scores are {scores.tolist()}; export it again")
    return "mllm: ranks two names for a grey picture"


def _self_retrieval(bundle: Bundle) -> Iterator[str]:
    memory = Memory.open(bundle)
    for name, part in memory.parts.items():
        try:
            for graph in part.graphs:
                graph.check(len(part.built))
        except ValueError as error:
            raise BundleError(f"{bundle.root}: the index of memory/{name}: {error}; build the memory again") from error
        there = np.flatnonzero(part.labels >= 0)
        if not len(there):
            yield f"memory: no {name} but those that were added"
            continue
        rows = there[spread(len(there), _SELF_SAMPLE)]
        settings = part.settings
        _, cosines = part.nearest(sample(part.vectors, rows), settings.rescore, ef=settings.ef, exact=False)
        # By cosine, not by position: a memory may hold the same picture twice.
        share = float((cosines.max(1) > 0.999).mean())
        if share < 0.99:
            raise BundleError(
                f"{bundle.root}: only {share:.1%} of memory/{name} find themselves; build the memory again"
            )
        yield f"memory: {share:.1%} of {len(rows)} sampled {name} find themselves"


def _memory_facts(bundle: Bundle, info: Mapping[str, Any]) -> Iterator[str]:
    """How each part is reduced and searched, its recall, and the changes since the build."""
    yield from _facts({key: value for key, value in info.items() if key not in MODALITIES})
    for name in MODALITIES:
        part = info.get(name)
        if not isinstance(part, dict):
            continue
        asked = f", asked for {part['asked']}" if "asked" in part else ""
        recall = part.get("recall")
        told = f"recall@10 {100 * recall:.2f} %" if isinstance(recall, float) else "recall@10 not measured"
        yield f"{name}: {part.get('entries')} entries"
        yield (
            f"  reduced to {part.get('index_dim')} dimensions by {part.get('reducer')}{asked}, "
            f"{_short(part.get('kept'))} of the variance kept, stored in {part.get('index_dtype')}"
        )
        widths = f"ef {part.get('ef')}, rescored {part.get('rescore')}, shards {part.get('shards')}"
        yield f"  searched by {part.get('search')}: {told} ({widths})"
        if isinstance(fitted := part.get("fitted"), dict):
            yield f"  fitted on {fitted.get('entries')} entries, {fitted.get('day')}"
    try:
        tail = log.read(bundle.root / LOG, bundle.component("memory").fingerprint)
    except BundleError as error:
        yield str(error)
        return
    if tail is not None and tail.contents:
        yield f"{LOG}: {len(tail.contents)} changes since; `rar-export compact` folds them in"


def _facts(info: dict[str, object], indent: str = "") -> Iterator[str]:
    for key, value in info.items():
        if isinstance(value, dict):
            flat = ", ".join(f"{k} {_short(v)}" for k, v in value.items() if not isinstance(v, dict))
            yield f"{indent}{key}: {flat}"
            yield from _facts({k: v for k, v in value.items() if isinstance(v, dict)}, indent + "  ")
        else:
            yield f"{indent}{key}: {_short(value)}"


def _short(value: object) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value))
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.1f} kB"
