"""`rar-bench detection`: boxes named by RAR against plain CLIP on crops, by size and by frequency of the class."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from rar.runtime.bundle.manifest import Bundle
from rar.runtime.cli.boxes import parse_blur, parse_grow
from rar.runtime.detection.annotations import Annotations, match_labels, read_annotations
from rar.runtime.detection.confidence import FUSION, merged
from rar.runtime.detection.dataset import detect
from rar.runtime.errors import InputError
from rar.runtime.picture.boxes import Blur, Growth
from rar.runtime.rank.protocol import Rank
from rar.runtime.rank.rankers import RANKS
from rar.runtime.recognizer import Recognizer

from .. import record
from .average_precision import average_precision

PLAIN = "CLIP on crops"
# COCO's sizes, by area in pixels.
SIZES = {"small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, math.inf)}
GROWTHS = (1.0, 1.125, 1.25, 1.5, 2.0, 3.0)
FUSIONS = (0.0, 0.25, 0.5, 0.75, 1.0)

Hits = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Way:
    """How boxes are cut and ranked; see `Recognizer.recognize_regions`."""

    rank: Rank
    grow: Growth
    blur: Blur | float | None


@dataclass(frozen=True)
class Outcome:
    """The results of one way for all boxes.

    Attributes:
        rows: COCO results; scores use the default exponent `FUSION` unless stated otherwise.
        hits: bool [N], whether each annotated box got its own category; False without an answer.
        proposals: The detector's score of each row's box; 1 for an annotated one.
        milliseconds: Time per box, with decoding.
    """

    rows: Sequence[Mapping[str, Any]]
    hits: Hits
    proposals: Sequence[float]
    milliseconds: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    parser.add_argument("bundle", metavar="BUNDLE")
    parser.add_argument("--boxes", metavar="FILE", required=True, help="annotations: COCO, LVIS or V3Det (.json)")
    parser.add_argument("--images", metavar="DIR", help="the pictures (default: beside the annotations)")
    parser.add_argument("--proposals", metavar="FILE", help="a detector's COCO results: its AP with RAR's classes")
    parser.add_argument("--rank", choices=RANKS, nargs="*", help="rankers (default: the bundle's own)")
    parser.add_argument("--k", type=int, default=5, help="candidates a box (default: %(default)s)")
    parser.add_argument("--grow", metavar="F", help="as for rar-recognize")
    parser.add_argument("--blur", metavar="R", help="as for rar-recognize")
    parser.add_argument("--sweep", action="store_true", help="top-1 of retrieval by crop scale, with and without blur")
    parser.add_argument("--provider", default="auto")
    parser.add_argument("--threads", type=int, metavar="N", help="default: one a core")
    parser.add_argument("--out", metavar="FILE", help="result file (.json)")


def run(args: argparse.Namespace) -> int:
    """Measures, prints and writes."""
    annotations = read_annotations(args.boxes)
    if not any(annotations.boxes.values()):
        raise InputError(f"{args.boxes}: holds no box that can be used; without truth there is no accuracy")
    folder = Path(args.boxes).parent if args.images is None else Path(args.images)
    load = record.load()
    bench = Bench(Recognizer.open(args.bundle, args.provider, threads=args.threads), annotations, folder, args.k)
    default = Way("none", parse_grow(args.grow), parse_blur(args.blur))
    ways = _ways(default, args.rank or [bench.recognizer.default_rank])
    bundle = Bundle.open(args.bundle)
    result: dict[str, Any] = {
        "environment": {**record.environment(args.threads), "load": load},
        "encoder": record.encoder(bundle, bench.recognizer.provider),
        "memory": dict(bundle.component("memory").info),
        "boxes": {
            "file": args.boxes,
            "pictures": len(annotations.pictures),
            "sizes": {name: int(chosen.sum()) for name, chosen in bench.sizes.items()},
            "skipped": dict(annotations.skipped),
            "unknown_categories": match_labels(annotations.categories, bench.recognizer.memory.labels)[1],
        },
        "k": args.k,
        "default": {"grow": _grow(default.grow), "blur": _blur(default.blur)},
        "results": bench.compare(ways),
    }
    _print(result["results"])
    if args.proposals is not None:
        proposed = replace(bench, annotations=read_annotations(args.boxes, args.proposals))
        result["proposals"] = proposed.by_fusion(ways)
        for name, points in result["proposals"].items():
            told = "  ".join(f"{point['fusion']:g}: {point['AP']['AP']:.1f}" for point in points)
            print(f"{name:<16} AP of proposals by fusion  {told}")
    if args.sweep:
        result["sweep"] = []
        for point in bench.sweep(default.blur):
            result["sweep"].append(point)
            told = "  ".join(f"{size} {share['percent']:5.1f}" for size, share in point["top1"].items())
            print(
                f"grow {point['grow']:<6} {'sharp' if point['blur'] is None else 'blurred':<8} top-1 {told}", flush=True
            )
    record.write(result, args.out)
    return 0


@dataclass(frozen=True)
class Bench:
    """One recognizer and one set of boxes; `k` candidates per box."""

    recognizer: Recognizer
    annotations: Annotations
    folder: Path
    k: int

    @cached_property
    def sizes(self) -> dict[str, Hits]:
        """For each of COCO's sizes and for `all`, bool [N]: which boxes have that size."""
        boxes = [box for of_picture in self.annotations.boxes.values() for box in of_picture]
        areas = np.array([box.bbox[2] * box.bbox[3] for box in boxes])
        sizes = {name: (low <= areas) & (areas < high) for name, (low, high) in SIZES.items()}
        return {**sizes, "all": np.ones(len(boxes), bool)}

    def compare(self, ways: Mapping[str, Way]) -> dict[str, Any]:
        """AP and top-1 by size of each way, and its gain over the first."""
        outcomes = {name: self.measure(way) for name, way in ways.items()}
        plain = next(iter(outcomes.values())).hits
        return {
            name: {
                "top1": self.by_size(outcome.hits),
                "gain": {size: _gain(outcome.hits[of], plain[of]) for size, of in self.sizes.items() if of.any()},
                "AP": average_precision(self.annotations.file, outcome.rows),
                "milliseconds": outcome.milliseconds,
            }
            for name, outcome in outcomes.items()
        }

    def by_fusion(self, ways: Mapping[str, Way]) -> dict[str, list[dict[str, Any]]]:
        """AP of proposals in each way, by the exponent of the proposal's score."""
        result: dict[str, list[dict[str, Any]]] = {}
        for name, way in ways.items():
            outcome = self.measure(way, fusion=0.0)
            for exponent in FUSIONS:
                rows = [
                    {**row, "score": merged(proposal, row["score"], exponent)}
                    for row, proposal in zip(outcome.rows, outcome.proposals, strict=True)
                ]
                ap = average_precision(self.annotations.file, rows)
                result.setdefault(name, []).append({"fusion": exponent, "AP": ap})
        return result

    def sweep(self, blur: Blur | float | None) -> Iterator[dict[str, Any]]:
        """Top-1 of retrieval at one crop scale for all sizes, sharp and blurred."""
        for grow in GROWTHS:
            for tried in (None, blur or Blur()):
                top1 = self.by_size(self.measure(Way("none", grow, tried)).hits)
                yield {"grow": grow, "blur": _blur(tried), "top1": top1}

    def measure(self, way: Way, fusion: float = FUSION) -> Outcome:
        """Recognises all boxes in one way."""
        rows: list[dict[str, Any]] = []
        hits: list[bool] = []
        proposals: list[float] = []
        start = perf_counter()
        detections = detect(
            self.recognizer, self.annotations, self.folder, self.k, way.rank, fusion=fusion, grow=way.grow,
            blur=way.blur,
        )  # fmt: skip
        total = sum(1 for boxes in self.annotations.boxes.values() if boxes)
        for one in tqdm(detections, total=total, desc=way.rank, disable=None):
            rows += one.to_coco()
            for box, result in zip(one.boxes, one.results, strict=True):
                hits.append(result.label is not None and one.categories[result.label] == box.category_id)
                if result.error is None:
                    proposals.append(1.0 if box.score is None else box.score)
        return Outcome(rows, np.array(hits, bool), proposals, 1e3 * (perf_counter() - start) / max(1, len(hits)))

    def by_size(self, hits: Hits) -> dict[str, Any]:
        """Share of hits of each size that occurs."""
        return {name: record.share(hits[chosen]) for name, chosen in self.sizes.items() if chosen.any()}


def _ways(default: Way, rankers: Sequence[Rank]) -> dict[str, Way]:
    plain = Way("none", 1.0, None)
    ways = {PLAIN: plain} | ({} if default == plain else {"RAR, retrieval": default})
    return ways | {f"RAR, {rank}": replace(default, rank=rank) for rank in rankers if rank != "none"}


def _gain(hits: Hits, plain: Hits) -> dict[str, float]:
    """Difference in points with its standard error, box by box."""
    difference = 100 * (hits.astype(float) - plain)
    error = float(difference.std()) / np.sqrt(len(difference))
    return {"points": float(difference.mean()), "standard_error": float(error), "count": len(difference)}


def _grow(grow: Growth) -> Any:
    """The value as JSON; an infinite limit is null."""
    if isinstance(grow, (int, float)):
        return grow
    return [[None if limit == math.inf else limit, factor] for limit, factor in grow]


def _blur(blur: Blur | float | None) -> Any:
    return asdict(blur) if isinstance(blur, Blur) else blur


def _print(rows: Mapping[str, Any]) -> None:
    for name, row in rows.items():
        told = "  ".join(
            f"{size} {share['percent']:5.1f} ± {share['standard_error']:.1f} ({row['gain'][size]['points']:+.1f})"
            for size, share in row["top1"].items()
        )
        figures = "  ".join(f"{key} {value:.1f}" for key, value in row["AP"].items() if value is not None)
        print(f"{name:<16} top-1 {told}\n{'':<16} {figures}")
