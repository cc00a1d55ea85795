"""What came of labelled pictures: top-1, misses told from misrankings, calibration, and the class pairs confused."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rar.export.labelled import LabelledImage
from rar.export.tune import WEIGHTS, Judged, Retrieved, judge, ranker_name
from rar.runtime.grain import GrainOptions
from rar.runtime.memory import Candidate
from rar.runtime.mllm.ranker import MllmOptions
from rar.runtime.probe import Probe, sureness
from rar.runtime.rank import Ranker
from rar.runtime.tuning import Tuning

from .. import record
from .calibration import calibration
from .clustering import Embed, clustering_accuracy, semantic_accuracy
from .sources import Pictures

# Of a cosine, which is no logit: CLIP's own.
_COSINE_SCALE = 100.0
_SHOWN = 3


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

    def retrieved(self, found: Sequence[Sequence[Candidate]]) -> Measured:
        """The retrieval's own order."""
        similarity = np.array([[candidate.similarity for candidate in row] for row in found], np.float32)
        right = [[c.label == own for c in row] for row, own in zip(found, self.truth, strict=True)]
        judged = Judged(similarity, similarity, np.array(right))
        return self._measured("none", judged, found, 0.0, _COSINE_SCALE, "similarity (cosine)")

    def ranked(
        self,
        queries: Retrieved,
        loaded: Sequence[tuple[Mapping[str, Any], Ranker]],
        tuning: Tuning | None,
        probe: Probe | None,
    ) -> Iterator[tuple[str, Measured]]:
        """A row a ranker; fused with the similarity, and gated, where the bundle's tuning was fitted for it."""
        found = [query.candidates for query in queries.undecoded]
        for settings, ranker in loaded:
            name = ranker_name(settings)
            judged = judge(ranker, queries, self.truth, name)
            fitted = tuning if tuning is not None and tuning.fits(settings["rank"], _options(settings)) else None
            fusion = fitted.fusion if fitted else 0.0
            scale, said = _COSINE_SCALE, f"{name}, mean of cosines"
            if fusion > WEIGHTS.max():
                said = "similarity (cosine): the fitted weight leaves nothing of the ranker"
            elif settings["rank"] == "mllm":
                scale, said = 1 + fusion, f"{name}, log-probability + {fusion:.3g} * similarity"
            measured = self._measured(name, judged, found, fusion, scale, said)
            measured.row["milliseconds"] = judged.milliseconds
            if fitted:
                measured.row.update(fused=record.share(judged.hits(fusion)), fusion=fusion)
                if fitted.gate is not None:
                    sure = sureness(queries.undecoded, probe if fitted.gate_by == "probe" else None)
                    skipped = sure >= np.float32(fitted.gate)
                    measured.row["gate"] = {
                        "by": fitted.gate_by,
                        "top1": record.share(judged.gated(fusion, skipped)),
                        "skipped": 100 * float(skipped.mean()),
                    }
            yield name, measured

    def _measured(
        self,
        name: str,
        judged: Judged,
        found: Sequence[Sequence[Candidate]],
        fusion: float,
        scale: float,
        said: str,
    ) -> Measured:
        alone = judged.hits(0.0)
        in_k = np.asarray(judged.right.any(1))
        finals = (judged.scores + fusion * judged.similarity) / (1 + fusion)
        order = np.argsort(-finals, axis=1, kind="stable")
        answers = [row[place].label for row, place in zip(found, order[:, 0], strict=True)]
        k = judged.right.shape[1]
        row: dict[str, Any] = {
            "ranker": name,
            "k": k,
            "top1": record.share(alone),
            "recall": record.share(in_k),
            "missed": 100 * float((~in_k).mean()),
            "misranked": 100 * float((in_k & ~alone).mean()),
            "calibration": {"score": said, **calibration(finals, judged.hits(fusion), scale)},
        }
        if k >= 5:
            row["top5"] = record.share(np.asarray(np.take_along_axis(judged.right, order[:, :5], axis=1).any(1)))
        if self.embed is not None:
            row["cacc"] = 100 * clustering_accuracy(self.truth, answers)
            row["sacc"] = 100 * semantic_accuracy(self.truth, answers, self.embed)
        return Measured(row, answers)


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


def _options(settings: Mapping[str, Any]) -> MllmOptions | GrainOptions | None:
    if "mode" in settings:
        return MllmOptions(settings["mode"], settings["debias"])
    return GrainOptions(settings["alpha"]) if "alpha" in settings else None
