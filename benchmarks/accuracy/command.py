"""`rar-bench accuracy`: top-1 of retrieval and rankers on labelled pictures, and where they go wrong.

Measured are the bundle's own memory, or memories that are built from so many pictures a class (`--shots`, seeded
draws; 0 is zero-shot, by names and descriptions). Misses of the retrieval are told from errors of the ranker, final
scores are held to what they promise as probabilities, and the class pairs that are confused most are listed with their
pictures. The papers' data sets (`--dataset`) have the papers' figures printed beside.

The result file: `results`, a row by name (`k=5: mllm likelihood`; with `--shots` of each number's last draw); `shots`,
mean, standard deviation and draws by number of shots; `published`; `confusion`; `missing`, what Ctrl-C left undone. A
row's `calibration` says of which score.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from rar.export.pictures.labelled import LabelledImage, evenly, read_descriptions
from rar.export.tune.fit import drawn, retrieve
from rar.runtime.bundle.manifest import Bundle
from rar.runtime.errors import InputError
from rar.runtime.memory import Memory
from rar.runtime.recognizer import Recognizer

from .. import record
from . import published
from .clustering import minilm
from .datasets import NAMES, load
from .published import Shots
from .rows import Measure, Measured, confused
from .shots import Asked, by_shots, choose
from .sources import SOURCES, Pictures, read


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    parser.add_argument("bundle", metavar="BUNDLE")
    asked = parser.add_mutually_exclusive_group(required=True)
    asked.add_argument("--test", metavar="SRC", help=f"labelled pictures: {SOURCES}")
    asked.add_argument("--dataset", choices=NAMES, metavar="NAME", help=f"of the papers: {', '.join(NAMES)}")
    parser.add_argument("--data", metavar="DIR", help="where the data set of --dataset lies")
    parser.add_argument("--k", type=int, nargs="+", default=[5], help="candidates; several give a curve (default: 5)")
    parser.add_argument("--rank", nargs="*", default=[], metavar="RANKER", help="all, mllm, 'mllm likelihood', wca, …")
    parser.add_argument("--plain", metavar="BUNDLE", help="the same with an MLLM that was not fine-tuned")
    parser.add_argument("--text-weight", type=float, nargs="*", help="measure retrieval at these weights")
    parser.add_argument("--shots", nargs="+", default=[], metavar="N", help="pictures a class, 0 for names, or all")
    parser.add_argument("--train", metavar="SRC", help="pictures that --shots are drawn from, as --test")
    parser.add_argument("--draws", type=int, default=5, help="seeded draws of each (default: %(default)s)")
    parser.add_argument("--descriptions", metavar="FILE", help="sentences a class for --shots: JSON")
    parser.add_argument("--limit", type=int, metavar="N", help="take N of the test pictures, evenly spread")
    parser.add_argument("--clustering", action="store_true", help="cACC and sACC too; classes need not be the memory's")
    parser.add_argument("--pairs", type=int, default=10, help="confused class pairs to list (default: %(default)s)")
    parser.add_argument("--provider", default="auto")
    parser.add_argument("--out", metavar="FILE", help="result file (.json)")


def run(args: argparse.Namespace) -> int:
    """Measures, prints and writes."""
    shots = [_shots(text) for text in args.shots]
    if args.draws < 1 or min(args.k) < 1 or args.pairs < 0 or (args.limit is not None and args.limit < 1):
        raise InputError("--draws, --k and --limit are from 1 on, --pairs from 0")
    if (args.dataset is None) != (args.data is None):
        raise InputError("--dataset and --data belong together: the set's name, and where it lies")
    if any(shots) and not (args.train or args.dataset):
        raise InputError("--shots needs --train, the pictures to draw from")
    if args.plain and not args.rank:
        raise InputError("--plain needs --rank, what to compare")
    bundle = Bundle.open(args.bundle)
    with tempfile.TemporaryDirectory(prefix="rar-accuracy-") as scratch:
        result = _measure(args, bundle, shots, _read(args, Path(scratch)))
    record.write(result, args.out)
    if result["missing"]:
        print(f"stopped; missing: {', '.join(result['missing'])}", file=sys.stderr)
    return 130 if result["missing"] else 0


@dataclass(frozen=True)
class _Data:
    test: Pictures
    train: list[LabelledImage]


def _read(args: argparse.Namespace, scratch: Path) -> _Data:
    if args.dataset:
        splits = load(args.dataset, args.data)
        data = _Data(Pictures(splits.root, splits.test), splits.train)
    else:
        data = _Data(read(args.test, scratch), read(args.train, scratch).images if args.train else [])
    if args.limit is not None:
        data = replace(data, test=replace(data.test, images=evenly(data.test.images, args.limit)))
    return data


def _measure(args: argparse.Namespace, bundle: Bundle, shots: list[Shots], data: _Data) -> dict[str, Any]:
    images = data.test.images
    measure = Measure([image.label for image in images], minilm() if args.clustering else None)
    table: dict[str, Any] = {}
    beside: list[dict[str, Any]] = []
    missing: list[str] = []
    if shots:
        told = read_descriptions(args.descriptions) if args.descriptions else {}
        wanted = Asked(bundle, args.provider, data.train, images, shots, args.draws, args.k[0], args.rank, told)
        measured = by_shots(wanted, measure)
        rows, table, provider, missing = measured.last, measured.rows, measured.provider, measured.missing
        if args.dataset:
            beside = [row for n, means in measured.means.items() for row in published.beside(args.dataset, n, *means)]
    else:
        recognizer = Recognizer.open(args.bundle, args.provider)
        rows, provider = {}, recognizer.provider
        parts = _as_it_is(args, bundle, recognizer, data.test, measure)
        try:
            for name, one in parts:
                rows[name] = one
        except KeyboardInterrupt:
            if not rows:
                raise
            missing = [f"what follows the row {list(rows)[-1]}"]
    best = max(rows, key=lambda name: rows[name].final)
    _print(rows, table, beside)
    return {
        "environment": record.environment(),
        "encoder": record.encoder(bundle, provider),
        "mllm": _model(bundle),
        "memory": None if shots else dict(bundle.component("memory").info),
        "test": args.test or args.dataset,
        "pictures": len(images),
        "classes": len(set(measure.truth)),
        "results": {name: one.row for name, one in rows.items()},
        "shots": table,
        "published": beside,
        "missing": missing,
        "confusion": {"row": best, "pairs": confused(data.test, rows[best].answers, args.pairs)},
    }


def _as_it_is(
    args: argparse.Namespace, bundle: Bundle, recognizer: Recognizer, test: Pictures, measure: Measure
) -> Iterator[tuple[str, Measured]]:
    """Rows on the bundle's own memory, such as `k=5: none`."""
    memory = recognizer.memory
    if (unknown := set(measure.truth) - set(memory.labels)) and not args.clustering:
        raise InputError(
            f"{args.test or args.dataset}: {sorted(unknown)[0]!r} and {len(unknown) - 1} more classes are not in the "
            "memory; build it with them, give --shots, or measure with --clustering"
        )
    loaded = choose(recognizer, bundle, args.rank) if args.rank else []
    for k in args.k:
        memory.check_k(k)
    queries = retrieve(recognizer, test.images, args.k[0])
    embeddings = np.stack([query.embedding for query in queries.undecoded])
    for k in args.k:
        queries = queries.with_candidates(memory.search(embeddings, k))
        retrieved = [query.candidates for query in queries.undecoded]
        yield f"k={k}: none", measure.retrieved(retrieved, recognizer.sharpness)
        if k == args.k[0]:
            yield f"k={k}: none, exact search", measure.retrieved(memory.search(embeddings, k, exact=True))
        for weight in args.text_weight or ():
            candidates = Memory.open(bundle, weight).search(embeddings, k)
            yield f"k={k}: none, text weight {weight:g}", measure.retrieved(candidates)
        wider = drawn(memory, queries, k)
        for one in loaded:
            given = queries if recognizer.first_opinion(one[0]["rank"]) is None else wider
            for name, row in measure.ranked(given, [one], recognizer.tuning):
                yield f"k={k}: {name}", row
    if args.plain:
        plain = Recognizer.open(args.plain, args.provider)
        untaught = [one for one in choose(plain, Bundle.open(args.plain), args.rank) if one[0]["rank"] == "mllm"]
        queries = retrieve(plain, test.images, args.k[0])
        for name, row in measure.ranked(queries, untaught, None):
            yield f"k={args.k[0]}: not fine-tuned: {name}", row


def _shots(text: str) -> Shots:
    if text == "all":
        return "all"
    if text.isdecimal():
        return int(text)
    raise InputError(f"--shots {text}: give pictures a class, 0 for names alone, or all")


def _model(bundle: Bundle) -> dict[str, Any] | None:
    if "mllm" not in bundle.components:
        return None
    component = bundle.component("mllm")
    kept = ("source", "precision", "parity", "adapter")
    sizes = [file.bytes for name, file in component.files.items() if name.startswith("decoder")]
    return {**{key: component.info.get(key) for key in kept}, "decoder_bytes": sum(sizes)}


def _print(rows: Mapping[str, Measured], table: Mapping[str, Any], beside: list[dict[str, Any]]) -> None:
    for name, one in rows.items():
        row = one.row
        fused = f"   fused {row['fused']['percent']:5.1f}" if "fused" in row else ""
        calibration = row["calibration"]
        after = "" if calibration["fitted"] is None else f" ({calibration['fitted']['ece']:.1f} rescaled)"
        clusters = f"   cACC {row['cacc']:.1f}   sACC {row['sacc']:.1f}" if "cacc" in row else ""
        print(
            f"{name:<52} top-1 {row['top1']['percent']:5.1f} ± {row['top1']['standard_error']:.1f}{fused}   "
            f"missed {row['missed']:4.1f}   misranked {row['misranked']:4.1f}   "
            f"ECE {calibration['as_is']['ece']:.1f}{after}{clusters}"
        )
    for name, columns in table.items():
        told = "   ".join(f"{column} {_pm(value)}" for column, value in columns.items())
        print(f"{name:<14} {told}")
    for row in beside:
        measured = "" if row["measured"] is None else f"   here {row['measured']:5.1f} ({row['difference']:+.1f})"
        print(f"{row['source']}, table {row['table']}, {row['metric']}: {row['method']} {row['value']:.1f}{measured}")


def _pm(row: Mapping[str, Any]) -> str:
    return f"{row['mean']:.1f}" + ("" if row["sd"] is None else f" ± {row['sd']:.1f}")
