"""`rar-bench accuracy`: top-1 and recall of retrieval and rankers on labelled pictures."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from rar.export.labelled import LabelledImage, read_images
from rar.runtime.bundle import Bundle
from rar.runtime.errors import InputError
from rar.runtime.images import load_image
from rar.runtime.memory import Candidate, Memory
from rar.runtime.recognizer import RANKS, Recognizer

from . import record

Floats = npt.NDArray[np.float32]
_BATCH = 32


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    parser.add_argument("bundle", metavar="BUNDLE")
    parser.add_argument("--test", metavar="SRC", required=True, help="labelled pictures: a folder, .csv or .jsonl")
    parser.add_argument("--k", type=int, default=5, help="distinct candidates a picture (default: %(default)s)")
    parser.add_argument("--rank", choices=RANKS, nargs="*", default=[], help="rankers to measure besides retrieval")
    parser.add_argument("--text-weight", type=float, nargs="*", help="measure retrieval at these weights")
    parser.add_argument("--provider", default="auto")
    parser.add_argument("--out", metavar="FILE", help="result file (.json)")


def run(args: argparse.Namespace) -> int:
    """Measures, prints and writes."""
    bundle = Bundle.open(args.bundle)
    images = read_images(args.test)
    recognizer = Recognizer.open(args.bundle, args.provider)
    unknown = {image.label for image in images} - set(recognizer.memory.labels)
    if unknown:
        raise InputError(
            f"{args.test}: {sorted(unknown)[0]!r} and {len(unknown) - 1} more classes are not in the memory"
        )
    truth = [image.label for image in images]
    queries = embed(recognizer, images)
    rows: dict[str, Any] = {}
    for weight in args.text_weight or [recognizer.memory.text_weight]:
        memory = Memory.open(bundle, weight)
        for name, exact in (("retrieval", False), ("exact search", True)):
            found = [
                c
                for part in np.array_split(queries, max(1, len(queries) // _BATCH))
                for c in memory.search(part, args.k, exact=exact)
            ]
            rows[name if args.text_weight is None else f"{name}, text weight {weight}"] = scores(found, truth)
    for rank in args.rank:
        stream = recognizer.stream((image.path for image in images), args.k, rank)
        results = list(tqdm(stream, total=len(images), desc=rank, disable=None))
        rows[f"rank {rank}"] = scores([list(result.candidates) for result in results], truth)
    for name, row in rows.items():
        print(
            f"{name:<28} top-1 {row['top1']['percent']:5.1f} ± {row['top1']['standard_error']:.1f}   "
            f"in {args.k} candidates {row['recall']['percent']:5.1f}"
        )
    result = {
        "environment": record.environment(),
        "encoder": record.encoder(bundle, recognizer.provider),
        "memory": dict(bundle.component("memory").info),
        "test": args.test,
        "k": args.k,
        "results": rows,
    }
    record.write(result, args.out)
    return 0


def embed(recognizer: Recognizer, images: Sequence[LabelledImage]) -> Floats:
    """Embeddings of labelled pictures: float32 [N, d]."""
    clip = recognizer.clip
    batches = []
    for start in tqdm(range(0, len(images), _BATCH), desc="embedding", disable=None):
        pixels = [load_image(image.path) for image in images[start : start + _BATCH]]
        batches.append(clip.embed_pixels(clip.preprocess(pixels)))
    return np.concatenate(batches)


def scores(found: Sequence[Sequence[Candidate]], truth: Sequence[str]) -> dict[str, Any]:
    """Top-1, and how often the true class is among the candidates."""
    top1 = np.array([candidates[0].label == label for candidates, label in zip(found, truth, strict=True)])
    recall = np.array([label in [c.label for c in candidates] for candidates, label in zip(found, truth, strict=True)])
    return {"top1": record.share(top1), "recall": record.share(recall)}
