"""`rar-bench open-set`: pictures of no class of the memory, told near and far by each way there is.

Each draw builds a memory without some of the classes, whose test pictures are the near strangers; photos of quite
other things are the far ones. The ways are compared by the area under the ROC curve (AUROC) and by the share of
strangers that pass where 95 % of the known are let through (FPR at 95 % TPR). Then the memory refuses by itself, as
`unknown="reject"` does: by what it fitted on its own pictures, and by what `rar-export tune` fits on held-out ones.

An MLLM takes no part: one that was fine-tuned on all classes knows those that are left out here, too.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rar.export.pictures.embed import embed_images
from rar.export.pictures.labelled import LabelledImage
from rar.export.tune.unknown import area, fit_unknown
from rar.runtime.bundle.manifest import Bundle
from rar.runtime.encoder.clip import Clip
from rar.runtime.errors import InputError
from rar.runtime.memory import Candidate, Memory
from rar.runtime.memory.discriminant import Discriminant
from rar.runtime.memory.gaussian import learn
from rar.runtime.memory.strangers import POOL, RATE, traits_of_nearest
from rar.runtime.picture.folder import find_images

from . import record
from .left_out import Labelled, embedded, encoder_alone, memories

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]

_KINDS = ("known", "near", "far")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    parser.add_argument("encoder", metavar="BUNDLE", help="its encoder is used")
    parser.add_argument("--train", metavar="SRC", help="pictures of all classes (default: those in its memory)")
    parser.add_argument("--test", metavar="SRC", required=True, help="pictures to recognise, and the near strangers")
    parser.add_argument("--far", metavar="DIR", required=True, help="photos of other things, the far strangers")
    parser.add_argument("--val", metavar="SRC", help="held-out pictures, to fit the refusal on as tune does")
    parser.add_argument("--left-out", type=int, default=20, help="classes that are strangers (default: %(default)s)")
    parser.add_argument("--draws", type=int, default=3, help="draws of these classes (default: %(default)s)")
    parser.add_argument("--provider", default="auto")
    parser.add_argument("--out", metavar="FILE", help="result file (.json)")


def run(args: argparse.Namespace) -> int:
    """Measures, prints and writes."""
    source = Bundle.open(args.encoder)
    rows = []
    with encoder_alone(source) as bundle:
        clip = Clip(bundle, args.provider)
        train = embedded(clip, args.train) if args.train else _remembered(source)
        test = embedded(clip, args.test)
        val = embedded(clip, args.val) if args.val else None
        far = embed_images(clip, [LabelledImage(path, "far") for path in find_images(Path(args.far))])
        for drawn in memories(bundle, train, args.left_out, args.draws, args.provider):
            asked = {"known": test.of(drawn.old).vectors, "near": test.of(drawn.new).vectors, "far": far}
            measured = _measure(drawn.memory, asked, val.of(drawn.old) if val else None)
            row = {"draw": drawn.number, "classes": drawn.new, **measured}
            rows.append(row)
            print(f"draw {drawn.number}\n{_told(row)}")
    mean = _mean([{key: row[key] for key in ("ways", "reject")} for row in rows])
    print(f"mean\n{_told(mean)}")
    found = {
        "environment": record.environment(),
        "encoder": record.encoder(source, clip.visual.provider),
        "false_rejections_asked": 100 * RATE,
        "far_pictures": len(far),
        "rows": rows,
        "mean": mean,
    }
    record.write(found, args.out)
    return 0


def _remembered(bundle: Bundle) -> Labelled:
    """The pictures in a bundle's memory."""
    memory = Memory.open(bundle)
    if (part := memory.parts.get("pictures")) is None or not len(part.built):
        raise InputError(f"{bundle.root}: its memory holds no pictures; give some by --train")
    kept = part.labels >= 0
    return Labelled(part.vectors[kept].astype(np.float32), np.array(memory.labels)[part.labels[kept]])


def _measure(memory: Memory, asked: dict[str, Floats], val: Labelled | None) -> dict[str, Any]:
    """Each way's figures, and what is refused in percent."""
    discriminant, part = memory.discriminant, memory.parts["pictures"]
    # All pictures as one class.
    background = learn(part.vectors, np.zeros_like(part.labels), 1)
    if discriminant is None or discriminant.fit.strangers is None or background is None:
        raise InputError("these pictures tell nothing of strangers; give two or more a class")
    strangers = {"memory": discriminant.fit.strangers}
    measured: dict[str, Any] = {"pictures": {kind: len(vectors) for kind, vectors in asked.items()}}
    if val is not None:
        fitted, told = fit_unknown(memory, val.vectors, val.labels.tolist(), RATE)
        if fitted is not None:
            strangers["held-out"] = fitted
            measured["held_out"] = told
    nearest = {kind: memory.search_pictures(vectors, POOL) for kind, vectors in asked.items()}
    traits = {kind: traits_of_nearest(discriminant, vectors, nearest[kind]) for kind, vectors in asked.items()}
    best = {kind: _best_logits(discriminant, vectors, nearest[kind]) for kind, vectors in asked.items()}
    ways = {
        kind: {
            "best cosine": -traits[kind][:, 0],
            "distance from the middle": traits[kind][:, 1],
            "Mahalanobis": (distance := discriminant.fit.gaussian.squares(vectors) - 2 * best[kind]),
            "relative Mahalanobis": distance - background.gaussian.squares(vectors),
            "best logit": -best[kind],
            **{f"together, fitted on {name} pictures": one.chances(traits[kind]) for name, one in strangers.items()},
        }
        for kind, vectors in asked.items()
    }
    measured["ways"] = {
        way: {
            kind: {"auroc": area(ways["known"][way], ways[kind][way]), "fpr95": _passed(ways, way, kind)}
            for kind in ("near", "far")
        }
        for way in ways["known"]
    }
    measured["reject"] = {
        name: {
            **{kind: 100 * float((one.chances(traits[kind]) >= one.limit).mean()) for kind in _KINDS},
            "ece": _calibration(one.chances(traits["known"]), one.chances(traits["near"])),
        }
        for name, one in strangers.items()
    }
    return measured


def _best_logits(discriminant: Discriminant, vectors: Floats, nearest: Sequence[Sequence[Candidate]]) -> Doubles:
    """The discriminant's best of each picture: float64 [N]."""
    rows = [
        discriminant.logits(vectors[place : place + 1], [[one.label for one in row]]).max()
        for place, row in enumerate(nearest)
    ]
    return np.array(rows, np.float64)


def _passed(ways: dict[str, dict[str, Doubles]], way: str, kind: str) -> float:
    """The percentage of strangers that pass where 95 % of the known do."""
    return 100 * float((ways[kind][way] <= np.quantile(ways["known"][way], 0.95)).mean())


def _calibration(known: Doubles, strange: Doubles) -> float:
    """How far the probabilities are off on average in ten bins (ECE), both kinds counting alike, in points."""
    chances = np.concatenate([known, strange])
    truth = np.repeat([0.0, 1.0], [len(known), len(strange)])
    counts = np.repeat([0.5 / len(known), 0.5 / len(strange)], [len(known), len(strange)])
    bins = np.minimum((10 * chances).astype(int), 9)
    return 100 * float(sum(abs((counts * (chances - truth))[bins == one].sum()) for one in range(10)))


def _mean(rows: list[Any]) -> Any:
    """The mean of equal trees of numbers; of what only some have, nothing."""
    if isinstance(rows[0], dict):
        return {key: _mean([row[key] for row in rows]) for key in rows[0] if all(key in row for row in rows)}
    return float(np.mean(rows))


def _told(row: dict[str, Any]) -> str:
    lines = [
        f"  {way:<34} near {one['near']['auroc']:.3f} ({one['near']['fpr95']:.1f} % pass)   "
        f"far {one['far']['auroc']:.4f} ({one['far']['fpr95']:.1f} % pass)"
        for way, one in row["ways"].items()
    ]
    return "\n".join(
        [
            *lines,
            *(
                f"  refused, fitted on {name} pictures: known {one['known']:.1f} %, near {one['near']:.1f} %, "
                f"far {one['far']:.1f} %; ECE {one['ece']:.1f}"
                for name, one in row["reject"].items()
            ),
        ]
    )
