"""Fits a bundle's settings on held-out pictures, and stores them; needs no PyTorch.

The settings are the weights of pictures and texts in the retrieval; whether the memory's discriminant takes part; the
best ranker, and how its scores, the similarity and the discriminant's evidence are added up (`fuse`); which rankers
gain nothing and are not used; the margin from which the ranker may be skipped (`gate`); and how pictures of no class
are told (`unknown`).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from rar.runtime.bundle.change import annotate
from rar.runtime.bundle.hub import check_own
from rar.runtime.bundle.manifest import Bundle
from rar.runtime.errors import InputError, RarError
from rar.runtime.memory import Candidate, Memory
from rar.runtime.memory.strangers import RATE
from rar.runtime.picture.load import Pixels, decode
from rar.runtime.rank.evidence import WIDER, draw
from rar.runtime.rank.gate import sureness
from rar.runtime.rank.mllm.ranker import MllmRanker
from rar.runtime.rank.protocol import Opened, Query, Rank, Ranker
from rar.runtime.rank.rankers import RANKERS
from rar.runtime.rank.tuning import Fused, GateBy, Tuning
from rar.runtime.recognizer import Recognizer

from ..pictures.labelled import LabelledImage
from .fuse import First, Sum, fit_first, fit_fused
from .gate import fit_gate
from .judged import Judged, judge
from .unknown import fit_unknown
from .weigh import fit_weighing

_log = logging.getLogger("rar")

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Tuned:
    """What `tune` fitted and stored.

    Attributes:
        tuning: The best ranker as it was set, how it is fused, and its gate.
        default: The bundle's ranker from now on: that one, or `none` unless it gains.
        measured: What each ranker and each gate gained.
    """

    tuning: Tuning
    default: Rank
    measured: Mapping[str, Any]

    def stored(self) -> dict[str, Any]:
        """The memory's `tune` in the manifest."""
        return {**self.tuning.stored(), "measured": self.measured}


@dataclass(frozen=True)
class _Tried:
    """A ranker as it was set, what it said of the held-out pictures, and what became of it."""

    settings: dict[str, Any]
    judged: Judged
    fused: Fused | None
    sum: Sum

    @property
    def rank(self) -> Rank:
        return str(self.settings["rank"])

    def row(self, first: First) -> dict[str, Any]:
        """What the manifest says of it; `fusion` is None where it is not used."""
        judged, fused = self.judged, self.fused
        final = judged.final(fused, first.fused)
        return {
            **self.settings,
            "fusion": None if fused is None else fused.weights.similarity,
            "discriminant": None if fused is None else fused.weights.discriminant,
            "top1": round(100 * judged.top1(0.0), 2),
            "fused_top1": round(100 * float(final.mean()), 2),
            "likelihood": round(float(self.sum.likelihood.mean()), 4) if len(self.sum.likelihood) else None,
            "milliseconds": round(judged.milliseconds, 2),
        }


def tune(
    path: str | os.PathLike[str],
    images: Sequence[LabelledImage],
    k: int = 5,
    loss: float = 0.3,
    provider: str = "auto",
    threads: int | None = None,
    *,
    weigh: bool = True,
    false_rejections: float = 100 * RATE,
) -> Tuned:
    """Fits all that held-out pictures tell of a bundle and writes it into the manifest.

    Args:
        path: The bundle; must hold a memory, and pictures in it, an MLLM or texts, or there is nothing to tune.
        images: Held-out pictures; none may be in the memory.
        k: Candidates per picture.
        loss: Percentage points of top-1 that the gate may cost on these pictures.
        provider: Device.
        threads: Threads of each session.
        weigh: Whether the texts' weight may change; otherwise it stays as set by hand.
        false_rejections: Percentage of pictures of the memory's classes that `unknown="reject"` may refuse.

    Returns:
        What was stored.

    Raises:
        InputError: A picture's class is not in the memory, a picture cannot be read, or the bundle has no ranker.
        BundleError: The manifest cannot be written, the bundle lies in a hub's cache, or the memory was built anew
            meanwhile.
    """
    check_own(Path(path))  # before minutes of fitting
    if not images:
        raise InputError("tuning needs held-out pictures; give one or more")
    if not 0 <= loss < 100:
        raise InputError(f"loss={loss}; give percentage points of top-1, 0 or more")
    if not 0 <= false_rejections < 100:
        raise InputError(f"false_rejections={false_rejections}; give a percentage of the pictures, 0 to below 100")
    made_for = Bundle.open(path).component("memory")
    recognizer = Recognizer.open(path, provider, threads=threads)
    memory = recognizer.memory
    if unknown := sorted({image.label for image in images} - set(memory.labels)):
        raise InputError(
            f"the memory has no class {unknown[0]!r} ({len(unknown)} of the pictures' classes are not in it); "
            "leave such pictures out, or add them to the memory"
        )
    k = min(k, memory.classes)
    queries = retrieve(recognizer, images, k)
    truth = [image.label for image in images]
    embeddings = np.stack([query.embedding for query in queries.undecoded])
    weighing = fit_weighing(path, embeddings, truth, threads=threads) if weigh else None
    if weighing is not None:
        memory = Memory.open(path, weighing.text_weight, centred=weighing.centred, threads=threads)
        k = min(k, memory.classes)
        queries = queries.with_candidates(memory.search(embeddings, k))
    retrieval = _shares(queries, truth)
    queries, first = _first(memory, queries, truth, k)
    tried = list(_try(recognizer, path, threads, queries, truth, first))
    if not tried:
        raise InputError(f"{path}: nothing ranks here; add pictures to the memory, an MLLM, or texts for wca")
    best = max(tried, key=_merit)
    gates = _gates(best, first, loss, queries)
    gate_by = max(gates, key=lambda by: gates[by]["skipped"])
    measured = {
        "pictures": len(images),
        "k": k,
        "retrieval": round(100 * retrieval[0], 2),
        "in_k": round(100 * retrieval[1], 2),
        "drawn_in_k": round(100 * _shares(queries, truth)[1], 2),
        "rankers": [one.row(first) for one in tried],
        "gates": gates,
    }
    if weighing is not None:
        measured["weighing"] = vars(weighing)
    strangers, told = fit_unknown(memory, embeddings, truth, false_rejections / 100)
    if told is not None:
        measured["unknown"] = told
    used = {one.rank for one in tried if one.fused is not None}
    tuning = Tuning(
        best.rank,
        RANKERS[best.rank].options.of(best.settings),
        best.fused,
        first.fused,
        alone=first.fused is None,
        unused=tuple(sorted({one.rank for one in tried} - used)),
        retrieval=first.retrieval,
        gate=gates[gate_by]["margin"],
        gate_by=gate_by,
        strangers=strangers,
    )
    tuned = Tuned(tuning, best.rank if best.fused is not None else "none", measured)
    fitted: dict[str, Any] = {"rank": tuned.default, "tune": tuned.stored()}
    if weighing is not None:
        fitted |= {"text_weight": weighing.text_weight, "centred": weighing.centred}
    annotate(path, "memory", made_for=made_for, **fitted)
    return tuned


def _shares(queries: Retrieved, truth: Sequence[str]) -> tuple[float, float]:
    """Share of the pictures whose most similar class is theirs, and of those with theirs among the candidates."""
    right = [[c.label == true for c in q.candidates] for q, true in zip(queries.undecoded, truth, strict=True)]
    # Candidates lie in the order of similarity.
    return float(np.mean([row[0] for row in right])), float(np.mean([any(row) for row in right]))


def _first(memory: Memory, queries: Retrieved, truth: Sequence[str], k: int) -> tuple[Retrieved, First]:
    """The pictures with the candidates that are best drawn, and what is known of these before a ranker runs."""

    def judged(some: Retrieved) -> Judged:
        similarity = np.stack([query.similarities for query in some.undecoded])
        right = [[c.label == true for c in q.candidates] for q, true in zip(some.undecoded, truth, strict=True)]
        told = [query.evidence for query in some.undecoded if query.evidence is not None]
        return Judged(similarity, similarity, np.array(right), evidence=np.stack(told) if told else None)

    if memory.discriminant is not None:
        wider = drawn(memory, queries, k)
        first = fit_first(judged(wider))
        if first.fused is not None:
            return wider, first
    return queries, fit_first(judged(queries))


def _try(
    recognizer: Recognizer,
    path: str | os.PathLike[str],
    threads: int | None,
    queries: Retrieved,
    truth: Sequence[str],
    first: First,
) -> Iterator[_Tried]:
    k = len(queries.undecoded[0].candidates)
    for settings, ranker in rankers(recognizer, path, threads):
        if isinstance(ranker, MllmRanker) and ranker.most is not None and k > ranker.most:
            _log.warning(
                "%s has letters for %d candidates, not for %d: left out", ranker_name(settings), ranker.most, k
            )
            continue
        judged = judge(ranker, queries, truth, settings.get("mode", settings["rank"]))
        if settings["rank"] == "discriminant":
            yield _Tried(settings, judged, first.fused, first.sum)
        else:
            yield _Tried(settings, judged, *fit_fused(judged, first))


def _merit(one: _Tried) -> tuple[bool, float, bool, float]:
    """The likelier the truth the better; of equals one that gives log-probabilities, and then the faster."""
    likelihood = float(one.sum.likelihood.mean()) if len(one.sum.likelihood) else 0.0
    return one.fused is not None, likelihood, RANKERS[one.rank].log_probabilities, -one.judged.milliseconds


def _gates(best: _Tried, first: First, loss: float, queries: Retrieved) -> dict[GateBy, dict[str, float]]:
    """The gate of each kind of margin."""
    if best.fused is None or best.rank == "discriminant":  # what does not run is always skipped
        return {"similarity": {"margin": 0.0, "skipped": 1.0, "top1": best.row(first)["fused_top1"]}}
    margins: dict[GateBy, Floats] = {"similarity": sureness(queries.undecoded)}
    if first.fused is not None:
        margins["fused"] = sureness(queries.undecoded, first.fused.weights)
    weights = best.fused.weights
    return {by: fit_gate(best.judged, weights, loss, margin, first.fused) for by, margin in margins.items()}


class Retrieved(Sequence[Query]):
    """Queries whose pictures are decoded at each access: all at once would not fit into memory.

    Attributes:
        undecoded: The same queries without their pictures.
    """

    def __init__(self, images: Sequence[LabelledImage], undecoded: Sequence[Query]) -> None:
        self.undecoded = undecoded
        self._images = images

    def with_candidates(
        self, lists: Sequence[Sequence[Candidate]], evidence: Sequence[Floats] | None = None
    ) -> Retrieved:
        """The same pictures with other candidates, and what the discriminant says of these."""
        told: Sequence[Floats | None] = [None] * len(lists) if evidence is None else evidence
        rows = zip(self.undecoded, lists, told, strict=True)
        return Retrieved(self._images, [replace(q, candidates=row, evidence=of_row) for q, row, of_row in rows])

    def __len__(self) -> int:
        return len(self.undecoded)

    @overload
    def __getitem__(self, index: int) -> Query: ...
    @overload
    def __getitem__(self, index: slice) -> list[Query]: ...
    def __getitem__(self, index: int | slice) -> Query | list[Query]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return replace(self.undecoded[index], pixels=decode(self._images[index].path).pixels)


def retrieve(recognizer: Recognizer, images: Sequence[LabelledImage], k: int) -> Retrieved:
    """The rankers' inputs for labelled pictures.

    Raises:
        InputError: A picture cannot be read.
    """
    empty: Pixels = np.empty((0, 0, 3), np.uint8)
    queries = []
    retrieved = recognizer.queries((image.path for image in images), k)
    for query in tqdm(retrieved, total=len(images), desc="retrieval", disable=None):
        if isinstance(query, RarError):
            raise InputError(f"{query}; mend or remove the picture") from query
        queries.append(replace(query, pixels=empty))
    return Retrieved(images, queries)


def drawn(memory: Memory, queries: Retrieved, k: int) -> Retrieved:
    """The same pictures with the candidates that the memory's discriminant draws, and its evidence of these.

    They stay as they are in a memory without one.
    """
    if memory.discriminant is None:
        return queries
    embeddings = np.stack([query.embedding for query in queries.undecoded])
    proposed = memory.search(embeddings, WIDER * k, fewer=True)
    rows = draw(memory.discriminant, embeddings, proposed, k)
    return queries.with_candidates([candidates for candidates, _ in rows], [told for _, told in rows])


def ranker_name(settings: Mapping[str, Any]) -> str:
    """A readable name of one of `rankers`: rank, mode, and debias, exemplars or alpha if they apply."""
    if "alpha" in settings:
        return f"{settings['rank']} ({settings['alpha']:g})"
    name = " ".join(str(settings[key]) for key in ("rank", "mode") if key in settings)
    name += f" ({settings['debias']})" if settings.get("mode") == "choice" else ""
    return f"{name}, exemplars {settings['exemplars']}" if settings.get("exemplars") else name


def rankers(
    recognizer: Recognizer, path: str | os.PathLike[str], threads: int | None
) -> Iterator[tuple[dict[str, Any], Ranker]]:
    """All rankers that the bundle can run, each with its settings."""
    opened = Opened(Bundle.open(path), recognizer.clip, recognizer.memory, threads)
    for name, spec in RANKERS.items():
        for options, ranker in spec.trials(opened):
            yield {"rank": name, **options.stored()}, ranker
