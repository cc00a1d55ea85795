"""`rar-bench added-classes`: classes that are added to a memory on the device, ranked as soon as they are there.

Each draw builds a memory without some of the classes, so that the covariance of its discriminant has never seen them,
and adds their pictures with `Memory.add`. Test pictures of the new and of the old classes are then answered by the
nearest neighbour and by the discriminant, before the memory is compacted and after.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from rar.export.interchange import Embeddings
from rar.export.memory.build import MemorySource, build_memory
from rar.export.pictures.embed import embed_images
from rar.export.pictures.labelled import read_images
from rar.runtime.bundle.copy import copy
from rar.runtime.bundle.manifest import Bundle
from rar.runtime.encoder.clip import Clip
from rar.runtime.memory import Memory
from rar.runtime.rank.evidence import WIDER, draw

from . import record

Floats = npt.NDArray[np.float32]


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


@dataclass(frozen=True)
class Labelled:
    """Embedded pictures."""

    vectors: Floats
    labels: npt.NDArray[np.str_]

    def of(self, classes: Sequence[str], shots: int | None = None) -> Labelled:
        """Those of some classes, of each at most so many, the first ones."""
        places = [np.flatnonzero(self.labels == label)[:shots] for label in classes]
        rows = np.concatenate(places)
        return Labelled(self.vectors[rows], self.labels[rows])


def run(args: argparse.Namespace) -> int:
    """Measures, prints and writes."""
    source = Bundle.open(args.encoder)
    folder = Path(tempfile.mkdtemp(prefix="rar-added-"))
    try:
        bundle = copy(Bundle(source.root, {"clip": source.component("clip")}), folder / "bundle", without="")
        clip = Clip(bundle, args.provider)
        train, test = (embedded(clip, path) for path in (args.train, args.test))
        names = sorted(set(train.labels.tolist()))
        rows = []
        for number in tqdm(range(args.draws), desc="draws", disable=None):
            new = sorted(np.random.default_rng(number).permutation(names)[: args.left_out].tolist())
            old = [name for name in names if name not in set(new)]
            known = train.of(old)
            embeddings = Embeddings.of(known.vectors, known.labels.tolist())
            build_memory(bundle, MemorySource(embeddings=embeddings), provider=args.provider)
            memory = Memory.open(bundle)
            added = train.of(new, args.shots)
            memory.add(added.vectors, added.labels.tolist())
            row: dict[str, Any] = {"draw": number, "classes": new, "added_pictures": len(added.labels)}
            for when in ("added", "compacted"):
                row[when] = {kind: _measure(memory, test.of(of), args.k) for kind, of in (("new", new), ("old", old))}
                memory.compact()
            memory.close()
            rows.append(row)
            print(f"draw {number}: {_told(row)}")
        mean = {when: {kind: _mean(rows, when, kind) for kind in ("new", "old")} for when in ("added", "compacted")}
        print(f"mean: {_told(mean)}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
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


def embedded(clip: Clip, path: str) -> Labelled:
    """Embeds labelled pictures."""
    images = read_images(path)
    return Labelled(embed_images(clip, images), np.array([image.label for image in images]))


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
