"""`rar-bench exemplars`: what pictures beside the candidates' names gain and cost an MLLM that ranks by likelihood.

Each picture is asked about by names alone and with exemplars in turn, one at a time, so that a busy machine slows both;
then again, when the keys and values of its exemplars were kept.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from time import perf_counter
from typing import Any

import numpy as np

from rar.export.pictures.labelled import evenly, read_images
from rar.export.tune.fit import drawn, retrieve
from rar.runtime.bundle.manifest import Bundle
from rar.runtime.errors import InputError
from rar.runtime.rank.mllm.exemplars import COMPONENT
from rar.runtime.rank.mllm.model import Mllm
from rar.runtime.rank.mllm.ranker import MllmOptions, MllmRanker
from rar.runtime.rank.protocol import Query
from rar.runtime.recognizer import Recognizer

from . import record


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    parser.add_argument("bundle", metavar="BUNDLE", help="with an MLLM and exemplars (`rar-export exemplars`)")
    parser.add_argument("--test", metavar="SRC", required=True, help="pictures to recognise")
    parser.add_argument("--count", type=int, default=48, metavar="N", help="how many of them (default: %(default)s)")
    parser.add_argument("--k", type=int, default=5, help="candidates (default: %(default)s)")
    parser.add_argument("--provider", default="auto")
    parser.add_argument("--threads", type=int, metavar="N", help="default: one a core")
    parser.add_argument("--out", metavar="FILE", help="result file (.json)")


def run(args: argparse.Namespace) -> int:
    """Measures, prints and writes."""
    if args.count < 1:
        raise InputError(f"--count {args.count}; give 1 or more")
    bundle = Bundle.open(args.bundle)
    kept = bundle.component(COMPONENT).info
    load = record.load()
    recognizer = Recognizer.open(args.bundle, args.provider, threads=args.threads)
    images = evenly(read_images(args.test), args.count)
    queries = retrieve(recognizer, images, args.k)
    if recognizer.first_opinion("mllm") is not None:
        queries = drawn(recognizer.memory, queries, args.k)
    model = Mllm(bundle, recognizer.clip, args.threads)
    plain, shown = (MllmRanker(model, MllmOptions(exemplars=number)) for number in (0, 1))
    first = queries[0]
    for ranker in (plain, shown):  # warm-up, with other exemplars than any that follow
        ranker.rank([replace(first, candidates=first.candidates[::-1])])
    rows = [_ask(plain, shown, query, image.label) for query, image in zip(queries, images, strict=True)]
    result = {
        "environment": {**record.environment(args.threads), "load_before": load},
        "encoder": record.encoder(bundle, recognizer.provider),
        "mllm": {key: bundle.component("mllm").info.get(key) for key in ("source", "precision", "adapter")},
        "exemplars": {key: kept[key] for key in ("classes", "pictures", "image_tokens", "dim")},
        "test": args.test,
        "pictures": len(rows),
        "k": args.k,
        "results": {way: _spread(rows, way) for way in rows[0]},
    }
    for way, row in result["results"].items():
        print(
            f"{way:<24} top-1 {row['top1']['percent']:5.1f} ± {row['top1']['standard_error']:.1f}   "
            f"{row['ms']['median']:7.1f} ms   {row['ratio']['median']:5.2f} times names alone"
        )
    record.write(result, args.out)
    return 0


def _ask(plain: MllmRanker, shown: MllmRanker, query: Query, truth: str) -> dict[str, tuple[bool, float]]:
    """Whether each way is right, and its seconds."""
    taken = {"names": _timed(plain, query, truth), "exemplars": _timed(shown, query, truth)}
    shown.rank([query])  # met again, they are kept
    return {**taken, "exemplars kept": _timed(shown, query, truth)}


def _timed(ranker: MllmRanker, query: Query, truth: str) -> tuple[bool, float]:
    start = perf_counter()
    (ranking,) = ranker.rank([query])
    seconds = perf_counter() - start
    return query.candidates[int(ranking.scores.argmax())].label == truth, seconds


def _spread(rows: Sequence[dict[str, tuple[bool, float]]], way: str) -> dict[str, Any]:
    return {
        "top1": record.share(np.array([row[way][0] for row in rows])),
        "ms": record.spread([1e3 * row[way][1] for row in rows]),
        "ratio": record.spread([row[way][1] / row["names"][1] for row in rows]),
    }
