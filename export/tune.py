"""Fits, on held-out pictures, what a bundle's memory and rankers cannot know by themselves, and stores it.

How much pictures and texts count in the retrieval, which ranker orders best, by how much its scores and the
retrieval's similarity count (`fusion`), and from which margin on, of the similarities or of a probe, the ranker may be
left out (`gate`). Needs no PyTorch.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any, overload

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from rar.runtime import bundle as bundles
from rar.runtime.errors import ImageError, InputError
from rar.runtime.grain import Grain, GrainOptions
from rar.runtime.images import Pixels, load_image
from rar.runtime.memory import Candidate, Memory
from rar.runtime.mllm.model import Mllm
from rar.runtime.mllm.ranker import MllmOptions, MllmRanker
from rar.runtime.probe import sureness
from rar.runtime.rank import Query, Rank, Ranker
from rar.runtime.recognizer import Recognizer
from rar.runtime.tuning import GateBy
from rar.runtime.wca import Wca

from .labelled import LabelledImage
from .probe import fit_probe
from .weigh import fit_weighing

Floats = npt.NDArray[np.float32]

# A margin of similarity is a few hundredths and a log-probability a few units, so weights reach far.
WEIGHTS = np.concatenate([[0.0], np.geomspace(0.3, 3000, 41)])
# Beside it a float32 has no room for a ranker's score: the retrieval's order is left.
_RETRIEVAL_ALONE = 1e12
_CHUNK = 16
# Of the pictures that a loss allows to skip, what is skipped.
_SHARE = 0.9
# Shares of the whole picture that are tried for the GRAIN ranker.
_ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0)
_STORED = ("rank", "mode", "debias", "alpha", "fusion")


@dataclass(frozen=True)
class Judged:
    """A ranker's scores of held-out pictures.

    Attributes:
        similarity: float32 [N, k], the retrieval's.
        scores: float32 [N, k], the ranker's.
        right: bool [N, k], the true class; a row is empty where retrieval missed it.
        milliseconds: Median a picture, over the chunks.
    """

    similarity: Floats
    scores: Floats
    right: npt.NDArray[np.bool_]
    milliseconds: float = 0.0

    def gated(self, fusion: float, skipped: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """As `hits`, where the retrieval's order stands for the pictures that are skipped."""
        return np.where(skipped, self.right[:, 0], self.hits(fusion))

    def top1(self, fusion: float) -> float:
        """Share of pictures whose best final score is the true class's."""
        return float(self.hits(fusion).mean())

    def hits(self, fusion: float) -> npt.NDArray[np.bool_]:
        """Which pictures those are: bool [N]."""
        # As `Ranking.order` has it, its rounding included: what is equal there goes to retrieval's first.
        best = ((self.scores + fusion * self.similarity) / (1 + fusion)).argmax(1)
        return np.asarray(self.right[np.arange(len(best)), best])


def tune(
    path: str | os.PathLike[str],
    images: Sequence[LabelledImage],
    k: int = 5,
    loss: float = 0.3,
    provider: str = "auto",
    threads: int | None = None,
    *,
    weigh: bool = True,
) -> dict[str, Any]:
    """Fits weight of the texts, ranker, fusion and gate on held-out pictures and writes them into the manifest.

    Args:
        path: The bundle; must hold a memory, and an MLLM or texts, or there is nothing to tune.
        images: Held-out pictures: none of them in the memory.
        k: Candidates a picture.
        loss: Percentage points of top-1 that the gate may cost on these pictures.
        provider: Device.
        threads: Threads of each session.
        weigh: Whether the texts' weight may change; else it stays as it was set by hand.

    Returns:
        What was stored: the best ranker's `rank`, `mode`, `debias`, `fusion`, `gate` and `gate_by`; under `measured`
        what each gained; and `default`, the bundle's ranker from now on: that one, or `none` unless it gains (`gains`).

    Raises:
        InputError: A picture's class is not in the memory, or a picture cannot be read, or nothing can rank.
        BundleError: The manifest cannot be written.
    """
    if not images:
        raise InputError("tuning needs held-out pictures; give one or more")
    if not 0 <= loss < 100:
        raise InputError(f"loss={loss}; give percentage points of top-1, 0 or more")
    recognizer = Recognizer.open(path, provider, threads=threads)
    if unknown := sorted({image.label for image in images} - set(recognizer.memory.labels)):
        raise InputError(
            f"the memory has no class {unknown[0]!r} ({len(unknown)} of the pictures' classes are not in it); "
            "leave such pictures out, or add them to the memory"
        )
    k = min(k, recognizer.memory.classes)
    queries = retrieve(recognizer, images, k)
    truth = [image.label for image in images]
    embeddings = np.stack([query.embedding for query in queries.undecoded])
    weighing = fit_weighing(path, embeddings, truth, threads=threads) if weigh else None
    if weighing is not None:
        weighed = Memory.open(path, weighing.text_weight, centred=weighing.centred, threads=threads)
        k = min(k, weighed.classes)
        queries = queries.with_candidates(weighed.search(embeddings, k))
    rows: list[dict[str, Any]] = []
    judged: list[Judged] = []
    for settings, ranker in rankers(recognizer, path, threads):
        found = judge(ranker, queries, truth, settings["rank"] if "mode" not in settings else settings["mode"])
        fusion = settle_fusion(found)
        rows.append(
            {
                **settings,
                "fusion": fusion,
                "top1": round(100 * found.top1(0.0), 2),
                "fused_top1": round(100 * found.top1(fusion), 2),
                "milliseconds": round(found.milliseconds, 2),
            }
        )
        judged.append(found)
    if not rows:
        raise InputError(f"{path}: nothing ranks here; add an MLLM with `rar-export mllm`, or texts for wca")
    retrieval = round(100 * float(judged[0].right[:, 0].mean()), 2)

    def merit(row: int) -> tuple[float, bool, float]:
        return rows[row]["fused_top1"], rows[row]["rank"] == "mllm", -rows[row]["milliseconds"]

    best = max(range(len(rows)), key=merit)
    memory = recognizer.memory
    pictures = memory.parts.get("pictures")
    probe = None if pictures is None else fit_probe(pictures.vectors, pictures.labels, memory.labels)
    gates: dict[GateBy, dict[str, float]] = {
        "similarity": fit_gate(judged[best], rows[best]["fusion"], loss, sureness(queries.undecoded, None))
    }
    if probe is not None:
        margins = sureness(queries.undecoded, probe)
        gates["probe"] = fit_gate(judged[best], rows[best]["fusion"], loss, margins)
    gate_by = max(gates, key=lambda by: gates[by]["skipped"])
    gate = gates[gate_by]
    measured = {
        "pictures": len(images),
        "k": k,
        "retrieval": retrieval,
        "in_k": round(100 * float(judged[0].right.any(1).mean()), 2),
        "rankers": rows,
        "gates": gates,
    }
    if weighing is not None:
        measured["weighing"] = vars(weighing)
    stored: dict[str, Any] = {key: rows[best][key] for key in _STORED if key in rows[best]}
    stored |= {"gate": gate["margin"], "gate_by": gate_by, "measured": measured}
    # Where nothing gains, the weight keeps the ranker from harm even when it is asked for.
    rank: Rank = stored["rank"] if gains(judged[best], rows[best]["fusion"]) else "none"
    if probe is not None and gate_by == "probe":
        probe.save(path, bundles.Bundle.open(path).component("clip").fingerprint)
    fitted = {} if weighing is None else {"text_weight": weighing.text_weight, "centred": weighing.centred}
    bundles.annotate(path, "memory", rank=rank, tune=stored, **fitted)
    return stored | {"default": rank}


def judge(ranker: Ranker, queries: Sequence[Query], truth: Sequence[str], name: str = "ranking") -> Judged:
    """Ranks queries and compares with the truth."""
    similarity, scores, right, times = [], [], [], []
    for start in tqdm(range(0, len(queries), _CHUNK), desc=name, disable=None):
        part = queries[start : start + _CHUNK]
        began = perf_counter()
        scores += [ranking.scores for ranking in ranker.rank(part)]
        times.append(1e3 * (perf_counter() - began) / len(part))
        similarity += [[candidate.similarity for candidate in query.candidates] for query in part]
        labels = truth[start : start + _CHUNK]
        right += [[c.label == own for c in query.candidates] for query, own in zip(part, labels, strict=True)]
    return Judged(np.array(similarity, np.float32), np.stack(scores), np.array(right), float(np.median(times)))


def gains(judged: Judged, fusion: float) -> bool:
    """Whether the final order is better than retrieval's by more than chance gives.

    Of the pictures that only one of the two gets right, more go to it by over one standard deviation of a fair coin.
    """
    retrieved, ranked = judged.right[:, 0], judged.hits(fusion)
    won, lost = int((ranked & ~retrieved).sum()), int((retrieved & ~ranked).sum())
    return won - lost > math.sqrt(won + lost)


def settle_fusion(judged: Judged) -> float:
    """The fitted weight where it gains, else retrieval alone: a gain within chance may be a loss on other pictures."""
    fusion = fit_fusion(judged)
    return fusion if gains(judged, fusion) else _RETRIEVAL_ALONE


def fit_fusion(judged: Judged) -> float:
    """The weight of the similarity with the most pictures right: never fewer than retrieval has.

    Of several such the middle one: next to an edge, other pictures would fall off.
    """
    # Python's floats, as the runtime has them: NumPy's would add up in float64.
    shares = np.array([judged.top1(float(weight)) for weight in WEIGHTS])
    if shares.max() < judged.right[:, 0].mean():
        return _RETRIEVAL_ALONE
    best = np.flatnonzero(shares == shares.max())
    return float(WEIGHTS[best[len(best) // 2]])


def fit_gate(judged: Judged, fusion: float, loss: float, margins: Floats) -> dict[str, float]:
    """The margin above which the retrieval's order may stand: somewhat more than the stated loss asks for.

    Args:
        judged: The ranker on held-out pictures.
        fusion: Its weight of the similarity.
        loss: Percentage points of top-1 that may be lost.
        margins: float32 [N], how sure the retrieval is of each picture (`sureness`).

    Returns:
        `margin`; `skipped`, the share of pictures at or above it; `top1`, in percent, with it.
    """
    if judged.similarity.shape[1] < 2:
        return {"margin": 0.0, "skipped": 1.0, "top1": round(100 * judged.top1(fusion), 2)}
    order = np.argsort(-margins, kind="stable")  # the surest first
    gained = judged.right[order, 0].astype(int) - judged.hits(fusion)[order]
    lost = -np.concatenate([[0], np.cumsum(gained)])  # when the surest n keep the retrieval's order
    # Pictures of one margin are skipped or ranked together.
    apart = np.concatenate([[True], np.diff(margins[order]) < 0, [True]])
    allowed = np.flatnonzero(apart & (lost <= loss / 100 * len(order) + 1e-9))
    # One that nothing is known of is never sure.
    allowed = allowed[allowed <= int((margins > -np.inf).sum())]
    # Where the loss is just reached, other pictures would lose more.
    count = int(allowed[-1] if allowed[-1] == len(order) else allowed[allowed <= _SHARE * allowed[-1]][-1])
    if count:
        margin = margins[order[count - 1]]
        # Halfway to the next, which must not be skipped: the last bit of a margin depends on the batch.
        if count < len(order) and margins[order[count]] < (middle := (margin + margins[order[count]]) / 2):
            margin = middle
    else:
        margin = np.nextafter(margins.max(), np.float32(np.inf))
    skipped = margins >= np.float32(margin)
    hits = judged.gated(fusion, skipped)
    return {"margin": float(margin), "skipped": float(skipped.mean()), "top1": round(100 * float(hits.mean()), 2)}


class Retrieved(Sequence[Query]):
    """Queries whose pictures are decoded again when they are asked for: all at once would not fit into memory.

    Attributes:
        undecoded: The same without their pictures.
    """

    def __init__(self, images: Sequence[LabelledImage], undecoded: Sequence[Query]) -> None:
        self.undecoded = undecoded
        self._images = images

    def with_candidates(self, found: Sequence[Sequence[Candidate]]) -> Retrieved:
        """The same pictures with other candidates."""
        pairs = zip(self.undecoded, found, strict=True)
        return Retrieved(self._images, [replace(query, candidates=candidates) for query, candidates in pairs])

    def __len__(self) -> int:
        return len(self.undecoded)

    @overload
    def __getitem__(self, index: int) -> Query: ...
    @overload
    def __getitem__(self, index: slice) -> list[Query]: ...
    def __getitem__(self, index: int | slice) -> Query | list[Query]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return replace(self.undecoded[index], pixels=load_image(self._images[index].path))


def retrieve(recognizer: Recognizer, images: Sequence[LabelledImage], k: int) -> Retrieved:
    """What a ranker is given of labelled pictures.

    Raises:
        InputError: A picture cannot be read.
    """
    empty: Pixels = np.empty((0, 0, 3), np.uint8)
    queries = []
    found = recognizer.queries((image.path for image in images), k)
    for query in tqdm(found, total=len(images), desc="retrieval", disable=None):
        if isinstance(query, ImageError):
            raise InputError(f"{query}; mend or remove the picture") from query
        queries.append(replace(query, pixels=empty))
    return Retrieved(images, queries)


def ranker_name(settings: Mapping[str, Any]) -> str:
    """One of `rankers` for the reader: rank, mode, and where it counts debias or alpha."""
    if "alpha" in settings:
        return f"{settings['rank']} ({settings['alpha']:g})"
    name = " ".join(str(settings[key]) for key in ("rank", "mode") if key in settings)
    return f"{name} ({settings['debias']})" if settings.get("mode") == "choice" else name


def rankers(
    recognizer: Recognizer, path: str | os.PathLike[str], threads: int | None
) -> Iterator[tuple[dict[str, Any], Ranker]]:
    """All rankers that the bundle can run, each with its settings."""
    bundle = bundles.Bundle.open(path)
    if "texts" in recognizer.memory.parts:
        yield {"rank": "wca"}, Wca(recognizer.clip, recognizer.memory)
    if recognizer.clip.has_regions:
        for alpha in _ALPHAS:
            yield {"rank": "grain", "alpha": alpha}, Grain(recognizer.clip, recognizer.memory, GrainOptions(alpha))
    if "mllm" not in bundle.components:
        return
    model = Mllm(bundle, recognizer.clip, threads)
    for options in (
        MllmOptions("likelihood"),
        MllmOptions("choice", "rotate"),
        MllmOptions("choice", "calibrate"),
        MllmOptions("generate"),
    ):
        if options.mode in model.prompt.modes:
            yield {"rank": "mllm", "mode": options.mode, "debias": options.debias}, MllmRanker(model, options)
