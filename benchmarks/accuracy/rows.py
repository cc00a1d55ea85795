"""What came of labelled pictures: top-1, misses told from misrankings, calibration, and the class pairs confused."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rar.export.pictures.labelled import LabelledImage
from rar.export.tune.fit import Retrieved, ranker_name
from rar.export.tune.judged import Judged, judge
from rar.runtime.memory import Candidate
from rar.runtime.rank.gate import sureness
from rar.runtime.rank.protocol import Ranker, Spec
from rar.runtime.rank.rankers import RANKERS
from rar.runtime.rank.tuning import Fused, Tuning

from .. import record
from .calibration import calibration
from .clustering import Embed, clustering_accuracy, semantic_accuracy
from .sources import Pictures

# CLIP's own logit scale, for cosines, which are not logits.
_COSINE_SCALE = 100.0
_SHOWN = 3
# Shares of the pictures that a gate lets through to the ranker, in percent.
_ASKED = (0, 10, 20, 25, 30, 50, 100)


@dataclass(frozen=True)
class Measured:
    """One row.

    Attributes:
        row: For the result file.
        answers: The class that each picture was given in the end.
    """

    row: dict[str, Any]
    answers: list[str]

    @property
    def final(self) -> float:
        """Top-1 of the answers, in percent."""
        return float(self.row.get("fused", self.row["top1"])["percent"])


@dataclass(frozen=True)
class Measure:
    """What is measured of any candidates.

    Attributes:
        truth: The true class of each picture.
        embed: The sentence encoder of the semantic accuracy, where clustering and semantic accuracy are asked for.
    """

    truth: Sequence[str]
    embed: Embed | None = None

    def retrieved(self, candidates: Sequence[Sequence[Candidate]], sharpness: float | None = None) -> Measured:
        """The retrieval's own order; the similarities times `sharpness` are log-probabilities."""
        similarity = np.array([[candidate.similarity for candidate in row] for row in candidates], np.float32)
        right = [[c.label == true for c in row] for row, true in zip(candidates, self.truth, strict=True)]
        judged = Judged(similarity, similarity, np.array(right))
        said = "similarity (cosine)"
        return self._measured("none", judged, candidates, similarity, sharpness or _COSINE_SCALE, said)

    def ranked(
        self,
        queries: Retrieved,
        loaded: Sequence[tuple[Mapping[str, Any], Ranker]],
        tuning: Tuning | None,
    ) -> Iterator[tuple[str, Measured]]:
        """A row a ranker; fused with the similarity, and gated, where the bundle's tuning was fitted for it."""
        candidates = [query.candidates for query in queries.undecoded]
        first = tuning.first if tuning else None
        for settings, ranker in loaded:
            name = ranker_name(settings)
            judged = judge(ranker, queries, self.truth, name)
            spec = RANKERS[settings["rank"]]
            fits = tuning is not None and tuning.fits(settings["rank"], spec.options.of(settings))
            fitted = tuning if fits else None
            fused = fitted.fused if fitted else Fused()
            if settings["rank"] == "discriminant":
                fused = first or Fused(sharpness=1.0)
            measured = self._measured(name, judged, candidates, *_said(name, spec, judged, fused, first))
            measured.row["milliseconds"] = judged.milliseconds
            if fitted:
                measured.row["fused"] = record.share(judged.final(fused, first))
                measured.row["fusion"] = fused and fused.weights.similarity
                measured.row["discriminant"] = fused and fused.weights.discriminant
                if fitted.gate is not None and fused is not None:
                    margin = first.weights if first is not None and fitted.gate_by == "fused" else None
                    sure = sureness(queries.undecoded, margin)
                    skipped = sure >= np.float32(fitted.gate)
                    measured.row["gate"] = {
                        "by": fitted.gate_by,
                        "top1": record.share(judged.gated(fused.weights, skipped, first)),
                        "skipped": 100 * float(skipped.mean()),
                        # What the ranker gains where it ranks the least sure pictures only, in percent of all.
                        "asked": {
                            f"{share}": record.share(judged.gated(fused.weights, _surest(sure, 100 - share), first))
                            for share in _ASKED
                        },
                    }
            yield name, measured

    def _measured(
        self,
        name: str,
        judged: Judged,
        candidates: Sequence[Sequence[Candidate]],
        finals: npt.NDArray[np.float32],
        scale: float,
        said: str,
    ) -> Measured:
        alone = judged.hits(0.0)
        in_k = np.asarray(judged.right.any(1))
        order = np.argsort(-finals, axis=1, kind="stable")
        answers = [row[place].label for row, place in zip(candidates, order[:, 0], strict=True)]
        k = judged.right.shape[1]
        hits = judged.right[np.arange(len(order)), order[:, 0]]
        row: dict[str, Any] = {
            "ranker": name,
            "k": k,
            "top1": record.share(alone),
            "recall": record.share(in_k),
            "missed": 100 * float((~in_k).mean()),
            "misranked": 100 * float((in_k & ~alone).mean()),
            "calibration": {"score": said, **calibration(finals, hits, scale)},
        }
        if k >= 5:
            row["top5"] = record.share(np.asarray(np.take_along_axis(judged.right, order[:, :5], axis=1).any(1)))
        if self.embed is not None:
            row["cacc"] = 100 * clustering_accuracy(self.truth, answers)
            row["sacc"] = 100 * semantic_accuracy(self.truth, answers, self.embed)
        return Measured(row, answers)


def _surest(sure: npt.NDArray[np.float32], percent: int) -> npt.NDArray[np.bool_]:
    """The given share of the pictures, those of the largest margin: bool [N]."""
    surest = np.zeros(len(sure), bool)
    surest[np.argsort(-sure, kind="stable")[: round(len(sure) * percent / 100)]] = True
    return surest


def _said(
    name: str, spec: Spec[Any], judged: Judged, fused: Fused | None, first: Fused | None
) -> tuple[npt.NDArray[np.float32], float, str]:
    """The final scores, what they are multiplied by to be log-probabilities, and what they are."""
    if fused is None:
        if first is None:
            return judged.similarity, _COSINE_SCALE, "similarity (cosine): the ranker is not used, it gains nothing"
        return (
            judged.finals(first.weights, judged.evidence),
            first.sharpness or 1.0,
            "discriminant: the ranker gains nothing",
        )
    weights = fused.weights
    finals = judged.finals(weights)
    if not spec.log_probabilities:
        return finals, fused.sharpness or _COSINE_SCALE, f"{name}, mean of cosines"
    said = (
        f"{name}, log-probability + {weights.similarity:.3g} * similarity + {weights.discriminant:.3g} * discriminant"
    )
    return finals, fused.sharpness or 1 + weights.similarity + weights.discriminant, said


def confused(pictures: Pictures, answers: Sequence[str], count: int) -> list[dict[str, Any]]:
    """The pairs of classes that were taken for each other most.

    Args:
        pictures: What was asked.
        answers: What was answered.
        count: Pairs, at most.

    Returns:
        `true`, `answered`, how many `wrong` `of` the true class's pictures, and the `pictures` of up to three of them,
        from the pictures' root.
    """
    wrong: dict[tuple[str, str], list[LabelledImage]] = {}
    total: dict[str, int] = {}
    for image, answer in zip(pictures.images, answers, strict=True):
        total[image.label] = total.get(image.label, 0) + 1
        if answer != image.label:
            wrong.setdefault((image.label, answer), []).append(image)
    worst = sorted(wrong.items(), key=lambda pair: (-len(pair[1]), pair[0]))[:count]
    return [
        {
            "true": true,
            "answered": answered,
            "wrong": len(images),
            "of": total[true],
            "pictures": [pictures.name(image) for image in images[:_SHOWN]],
        }
        for (true, answered), images in worst
    ]
