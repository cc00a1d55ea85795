"""`rar-bench ranking`: what each ranker makes of retrieval's candidates, by k and by shots; misses told from errors."""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from rar.export.labelled import LabelledImage, evenly, few_shot, read_images
from rar.export.memory import MemorySource, build_memory
from rar.export.tune import Judged, judge, ranker_name, rankers, retrieve
from rar.runtime.bundle import Bundle, copy
from rar.runtime.errors import InputError
from rar.runtime.grain import GrainOptions
from rar.runtime.mllm.model import Mllm
from rar.runtime.mllm.ranker import MllmOptions, MllmRanker
from rar.runtime.probe import sureness
from rar.runtime.rank import Ranker
from rar.runtime.recognizer import Recognizer

from . import record


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    parser.add_argument("bundle", metavar="BUNDLE", help="tuned, with memory and MLLM")
    parser.add_argument("--test", metavar="SRC", required=True, help="labelled pictures: a folder, .csv or .jsonl")
    parser.add_argument("--k", type=int, nargs="+", default=[5], help="candidates; several give a curve")
    parser.add_argument("--plain", metavar="BUNDLE", help="the same with an MLLM that was not fine-tuned")
    parser.add_argument("--only", nargs="+", metavar="RANKER", help="rankers, by the names of the rows")
    parser.add_argument("--train", metavar="SRC", help="pictures that --shots are drawn from")
    parser.add_argument("--shots", type=int, nargs="*", default=[], help="memories of so many pictures a class")
    parser.add_argument("--draws", type=int, default=5, help="seeded draws of each (default: %(default)s)")
    parser.add_argument("--limit", type=int, metavar="N", help="take N of the test pictures, evenly spread")
    parser.add_argument("--out", metavar="FILE", help="result file (.json)")


def run(args: argparse.Namespace) -> int:
    """Measures, prints and writes."""
    if args.shots and not args.train:
        raise InputError("--shots needs --train, the pictures to draw from")
    images = read_images(args.test)
    if args.limit is not None:
        images = evenly(images, args.limit)
    bundle = Bundle.open(args.bundle)
    recognizer = Recognizer.open(args.bundle, "cpu")
    rows: dict[str, Any] = {}
    loaded = list(rankers(recognizer, args.bundle, None))
    for k in args.k:
        for name, row in _rank(recognizer, loaded, images, k, args.only).items():
            rows[f"k={k}: {name}"] = row
    if args.plain:
        plain = Recognizer.open(args.plain, "cpu")
        measured = {name.split(": ")[1] for name in rows}
        untaught = list(rankers(plain, args.plain, None))
        for name, row in _rank(plain, untaught, images, args.k[0], sorted(measured - {"none", "wca"})).items():
            if name != "none":
                rows[f"k={args.k[0]}: not fine-tuned: {name}"] = row
    for name, row in rows.items():
        fused = f"   fused {row['fused']['percent']:5.1f}" if "fused" in row else ""
        print(
            f"{name:<52} top-1 {row['top1']['percent']:5.1f} ± {row['top1']['standard_error']:.1f}{fused}   "
            f"missed {row['missed']:4.1f}   misranked {row['misranked']:4.1f}"
        )
    shots = _shots(args, bundle, images) if args.shots else {}
    for name, row in shots.items():
        print(f"{name:<10} retrieval {_pm(row['retrieval'])}   ranked {_pm(row['ranked'])}   gain {_pm(row['gain'])}")
    result = {
        "environment": record.environment(),
        "encoder": record.encoder(bundle, recognizer.provider),
        "mllm": _model(bundle),
        "memory": dict(bundle.component("memory").info),
        "test": args.test,
        "pictures": len(images),
        "results": rows,
        "shots": shots,
    }
    record.write(result, args.out)
    return 0


def _rank(
    recognizer: Recognizer,
    loaded: Sequence[tuple[dict[str, Any], Ranker]],
    images: Sequence[LabelledImage],
    k: int,
    only: Sequence[str] | None,
) -> dict[str, Any]:
    """Rows of retrieval and of each ranker; fused with the weight that the bundle stores, where it was fitted."""
    queries, truth = retrieve(recognizer, images, k), [image.label for image in images]
    rows: dict[str, Any] = {}
    for settings, ranker in loaded:
        name = ranker_name(settings)
        if only and name not in only:
            continue
        judged = judge(ranker, queries, truth, name)
        if not rows:
            rows["none"] = _row(judged, judged.right[:, 0])
        rows[name] = _row(judged, judged.hits(0.0)) | {"milliseconds": judged.milliseconds}
        tuning = recognizer.tuning
        options: MllmOptions | GrainOptions | None = None
        if "mode" in settings:
            options = MllmOptions(settings["mode"], settings["debias"])
        elif "alpha" in settings:
            options = GrainOptions(settings["alpha"])
        if tuning is not None and tuning.fits(settings["rank"], options):
            hits = judged.hits(tuning.fusion)
            rows[name] |= {"fused": record.share(hits), "fusion": tuning.fusion}
            if tuning.gate is not None:
                skipped = sureness(queries.undecoded, recognizer.probe) >= np.float32(tuning.gate)
                gated = judged.gated(tuning.fusion, skipped)
                rows[name]["gate"] = {
                    "by": tuning.gate_by,
                    "top1": record.share(gated),
                    "skipped": 100 * float(skipped.mean()),
                }
    return rows


def _row(judged: Judged, hits: npt.NDArray[np.bool_]) -> dict[str, Any]:
    found = judged.right.any(1)
    return {
        "top1": record.share(hits),
        "missed": 100 * float((~found).mean()),
        "misranked": 100 * float((found & ~hits).mean()),
    }


def _shots(args: argparse.Namespace, bundle: Bundle, images: Sequence[LabelledImage]) -> dict[str, Any]:
    """Retrieval and tuned ranker on memories of few pictures, each draw a memory that is really built."""
    train, truth = read_images(args.train), [image.label for image in images]
    rows: dict[str, Any] = {}
    folder = Path(tempfile.mkdtemp())
    try:
        target = copy(bundle, folder / "bundle", without="memory")
        tuning = Recognizer.open(args.bundle, "cpu").tuning
        if tuning is None or tuning.mllm is None:
            raise InputError(f"{args.bundle}: not tuned for an MLLM; run `rar-export tune` first")
        with tqdm(total=len(args.shots) * args.draws, desc="draws", disable=None) as bar:
            for shots in args.shots:
                found: dict[str, list[float]] = {"retrieval": [], "ranked": [], "gain": []}
                for seed in range(args.draws):
                    drawn = few_shot(train, shots, seed)
                    build_memory(target, MemorySource(images=drawn), provider="cpu")
                    recognizer = Recognizer.open(target.root, "cpu")
                    model = Mllm(Bundle.open(target.root), recognizer.clip)
                    judged = judge(MllmRanker(model, tuning.mllm), retrieve(recognizer, images, args.k[0]), truth)
                    retrieval, ranked = 100 * float(judged.right[:, 0].mean()), 100 * judged.top1(tuning.fusion)
                    for key, value in (("retrieval", retrieval), ("ranked", ranked), ("gain", ranked - retrieval)):
                        found[key].append(value)
                    bar.update()
                rows[f"{shots} shots"] = {
                    key: {"mean": float(np.mean(v)), "sd": float(np.std(v, ddof=1)), "draws": v}
                    for key, v in found.items()
                }
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return rows


def _model(bundle: Bundle) -> dict[str, Any]:
    component = bundle.component("mllm")
    kept = ("source", "precision", "parity", "adapter")
    sizes = {name: record.bytes for name, record in component.files.items() if name.startswith("decoder")}
    return {**{key: component.info.get(key) for key in kept}, "decoder_bytes": sum(sizes.values())}


def _pm(row: dict[str, Any]) -> str:
    return f"{row['mean']:5.1f} ± {row['sd']:.1f}"
