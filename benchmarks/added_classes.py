"""`rar-bench added-classes`: classes that are added to a memory on the device, ranked as soon as they are there.

Each draw builds a memory without some of the classes, so that the covariance of its discriminant has never seen them,
and adds their pictures with `Memory.add`. Test pictures of the new and of the old classes are then answered by the
nearest neighbour and by the discriminant, before the memory is compacted and after.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

from rar.runtime.bundle.manifest import Bundle
from rar.runtime.encoder.clip import Clip
from rar.runtime.memory import Memory
from rar.runtime.rank.evidence import WIDER, draw

from . import record
from .left_out import Labelled, embedded, encoder_alone, memories


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    parser.add_argument("encoder", metavar="BUNDLE", help="only its encoder is used")
    parser.add_argument("--train", metavar="SRC", required=True, help="pictures of all classes, for the memory")
    parser.add_argument("--test", metavar="SRC", required=True, help="pictures to recognise")
    parser.add_argument("--left-out", type=int, default=20, help="classes that are added later (default: %(default)s)")
    parser.add_argument("--shots", type=int, metavar="N", help="add only N pictures of each (default: all)")
    parser.add_argument("--draws", type=int, default=3, help="draws of these classes (default: %(default)s)")
    parser.add_argument("--k", type=int, default=5, help="candidates (default: %(default)s)")
    parser.add_argument("--provider", default="auto")
    parser.add_argument("--out", metavar="FILE", help="result file (.json)")


def run(args: argparse.Namespace) -> int:
    """Measures, prints and writes."""
    source = Bundle.open(args.encoder)
    rows = []
    with encoder_alone(source) as bundle:
        clip = Clip(bundle, args.provider)
        train, test = (embedded(clip, path) for path in (args.train, args.test))
        for drawn in memories(bundle, train, args.left_out, args.draws, args.provider):
            added, kinds = train.of(drawn.new, args.shots), {"new": drawn.new, "old": drawn.old}
            drawn.memory.add(added.vectors, added.labels.tolist())
            row: dict[str, Any] = {"draw": drawn.number, "classes": drawn.new, "added_pictures": len(added.labels)}
            for when in ("added", "compacted"):
                row[when] = {kind: _measure(drawn.memory, test.of(of), args.k) for kind, of in kinds.items()}
                drawn.memory.compact()
            rows.append(row)
            print(f"draw {drawn.number}: {_told(row)}")
    mean = {when: {kind: _mean(rows, when, kind) for kind in ("new", "old")} for when in ("added", "compacted")}
    print(f"mean: {_told(mean)}")
    result = {
        "environment": record.environment(),
        "encoder": record.encoder(source, clip.visual.provider),
        "k": args.k,
        "shots": args.shots,
        "rows": rows,
        "mean": mean,
    }
    record.write(result, args.out)
    return 0


def _measure(memory: Memory, pictures: Labelled, k: int) -> dict[str, float]:
    """Percentages: of the nearest neighbour, of the discriminant, and of the truth among the candidates of each."""
    discriminant = memory.discriminant
    if discriminant is None:
        raise AssertionError("a memory that was built with pictures has a discriminant")
    wide = memory.search(pictures.vectors, WIDER * k, fewer=True)
    drawn = draw(discriminant, pictures.vectors, wide, k)
    best = [candidates[int(told.argmax())].label for candidates, told in drawn]
    truth = pictures.labels.tolist()

    def share(hits: list[bool]) -> float:
        return 100 * float(np.mean(hits))

    return {
        "pictures": len(truth),
        "retrieval": share([row[0].label == true for row, true in zip(wide, truth, strict=True)]),
        "discriminant": share([label == true for label, true in zip(best, truth, strict=True)]),
        "in_k": share([true in [c.label for c in row[:k]] for row, true in zip(wide, truth, strict=True)]),
        "drawn_in_k": share([true in [c.label for c in row] for (row, _), true in zip(drawn, truth, strict=True)]),
    }


def _mean(rows: list[dict[str, Any]], when: str, kind: str) -> dict[str, float]:
    return {key: float(np.mean([row[when][kind][key] for row in rows])) for key in rows[0][when][kind]}


def _told(row: dict[str, Any]) -> str:
    return "; ".join(
        f"{kind}, {when}: retrieval {one['retrieval']:.1f}, discriminant {one['discriminant']:.1f}"
        for when in ("added", "compacted")
        for kind, one in row[when].items()
    )
