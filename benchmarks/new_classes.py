"""`rar-bench new-classes`: fine-tune on some classes, rank pictures of the others.

A memory grows by classes that the MLLM was never trained on. Per draw a part of the classes is left out of the
fine-tuning; the memory holds all; fusion is fitted on the left-out classes' validation pictures and measured on
their test pictures.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from rar.export.finetune import adapter as adapters
from rar.export.finetune.train import finetune
from rar.export.memory.build import MemorySource, build_memory
from rar.export.mllm.export import export_mllm
from rar.export.pictures.labelled import LabelledImage, read_images
from rar.export.starter.mllm import MODES, load_mllm
from rar.export.tune.fit import retrieve
from rar.export.tune.fuse import settle
from rar.export.tune.judged import judge
from rar.runtime.bundle.copy import copy
from rar.runtime.bundle.manifest import Bundle
from rar.runtime.encoder.clip import Clip
from rar.runtime.rank.mllm.model import Mllm
from rar.runtime.rank.mllm.prompt import Mode
from rar.runtime.rank.mllm.ranker import MllmOptions, MllmRanker
from rar.runtime.recognizer import Recognizer

from . import record
from .train_starter import OPTIONS

_LISTED: dict[Mode, Mapping[str, str]] = {
    "likelihood": {**MODES["likelihood"], "question": "What is it? One of {candidates}."}
}
VARIANTS: dict[str, dict[str, Any]] = {
    "contrast": {},
    "name alone": {"contrast": False},
    "contrast, candidates in the prompt": {"modes": _LISTED},
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    parser.add_argument("encoder", metavar="BUNDLE", help="a starter bundle; only its encoder is used")
    parser.add_argument("--grocery", type=Path, required=True, help="folder with train.csv, val.csv and test.csv")
    parser.add_argument("--draws", type=int, default=3, help="draws of left-out classes (default: %(default)s)")
    parser.add_argument("--left-out", type=int, default=20, help="classes a draw (default: %(default)s)")
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=["contrast"], help="what is trained")
    parser.add_argument("--epochs", type=float, default=OPTIONS.epochs, help="default: the starter's")
    parser.add_argument("--work", type=Path, required=True, help="folder for adapters and bundles")
    parser.add_argument("--out", metavar="FILE", help="result file (.json)")


def run(args: argparse.Namespace) -> int:
    """Measures, prints and writes."""
    train, val, test = (read_images(args.grocery / f"{name}.csv") for name in ("train", "val", "test"))
    names = sorted({image.label for image in train})
    bundle = Bundle.open(args.encoder)
    rows: list[dict[str, Any]] = []
    for draw in range(args.draws):
        left_out = set(np.random.default_rng(draw).permutation(names)[: args.left_out].tolist())
        for variant in args.variants:
            folder = args.work / f"{draw}-{variant.replace(', ', '-').replace(' ', '-')}"
            known = [image for image in train if image.label not in left_out]
            adapter = folder / "adapter"
            if not adapters.exists(adapter):
                options = replace(OPTIONS, epochs=args.epochs, **VARIANTS[variant])
                finetune(load_mllm(), Clip(bundle), [known], adapter, options)
            shutil.rmtree(folder / "bundle", ignore_errors=True)
            target = folder / "bundle"
            _encoder_only(bundle, target)
            export_mllm(load_mllm(), target, "int8", adapter)
            build_memory(Bundle.open(target), MemorySource(images=train), provider="cpu")
            row = {"draw": draw, "variant": variant, **_measure(target, left_out, val, test)}
            rows.append(row)
            print(
                f"draw {draw}, {variant}: retrieval {row['retrieval']:.1f}, alone {row['alone']:.1f}, "
                f"fused {row['fused']:.1f} ({row['pictures']} pictures of {args.left_out} new classes)"
            )
            shutil.rmtree(target)
    record.write(
        {"environment": record.environment(), "options": vars(OPTIONS) | {"epochs": args.epochs}, "rows": rows},
        args.out,
    )
    return 0


def _encoder_only(bundle: Bundle, target: Path) -> None:
    """A copy with nothing but the encoder."""
    kept = Bundle(bundle.root, {"clip": bundle.component("clip")})
    copy(kept, target, without=None)


def _measure(
    path: Path, left_out: set[str], val: list[LabelledImage], test: list[LabelledImage], k: int = 5
) -> dict[str, Any]:
    recognizer = Recognizer.open(path, "cpu")
    ranker = MllmRanker(Mllm(Bundle.open(path), recognizer.clip), MllmOptions("likelihood"))
    judged = []
    for images in (val, test):
        new = [image for image in images if image.label in left_out]
        judged.append(judge(ranker, retrieve(recognizer, new, k), [image.label for image in new]))
    fused = settle(judged[0])
    return {
        "pictures": len(judged[1].right),
        "fitted_on": len(judged[0].right),
        "retrieval": 100 * float(judged[1].right[:, 0].mean()),
        "in_k": 100 * float(judged[1].right.any(1).mean()),
        "alone": 100 * judged[1].top1(0.0),
        "fused": 100 * float(judged[1].final(fused).mean()),
        "fusion": fused and fused.weights.similarity,
    }
