"""`rar-bench grain`: trains a small GRAIN on seeded scenes and measures it against the caption contrast alone.

The same network is trained twice for each seed, on the same pictures in the same order for the same number of steps:
with GRAIN's three losses, and with the first of them. Then both meet scenes of combinations that neither has seen.
What was trained already is taken from the work folder.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from rar.export.encoder.export import export_clip
from rar.export.grain import checkpoint
from rar.export.grain.config import SIZES, GrainConfig
from rar.export.grain.data import Collator
from rar.export.grain.export import dual_encoder
from rar.export.grain.metrics import measure
from rar.export.grain.model import Grain
from rar.export.grain.options import TrainOptions
from rar.export.grain.tokens import tokenizer
from rar.export.grain.train import CHECKPOINT, LOG, train
from rar.export.memory.build import MemorySource, build_memory
from rar.export.pictures.labelled import read_images
from rar.export.tune.fit import rankers, retrieve
from rar.export.tune.fuse import settle
from rar.export.tune.judged import judge
from rar.runtime.bundle.manifest import Bundle
from rar.runtime.recognizer import Recognizer

from .. import record
from .evaluate import masked_descriptions, zero_shot
from .scenes import Scenes, class_scenes, mixed_scenes, product_scenes, train_scenes, write
from .things import kinds, read_products

CONFIG = SIZES["tiny"]
SCENES = 32_000
OPTIONS = TrainOptions(epochs=1.0, batch=64, lr=1e-3, warmup=0.05, save_every=100)
CONTRAST = replace(OPTIONS, box_weight=0.0, region_weight=0.0)

# Seed of the test scenes; training scenes use the run's own seed.
_HELD_OUT_SEED, _VAL_SEED, _TEST_SEED = 1000, 1001, 1002
_HELD_OUT, _RETRIEVED, _CLASSIFIED, _PRODUCTS, _VAL = 200, 500, 1280, 800, 320
_K = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    root = os.environ.get("RAR_DATA", "../shared")
    parser.add_argument("--work", metavar="DIR", required=True, help="where runs are kept; one that is there goes on")
    parser.add_argument("--grocery", metavar="DIR", default=f"{root}/grocery", help="default: %(default)s")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="default: 0 1 2")
    parser.add_argument("--out", metavar="FILE", help="write the result as JSON")


def run(args: argparse.Namespace) -> int:
    """Trains, measures, prints and writes."""
    work, grocery = Path(args.work), Path(args.grocery)
    rows = [run_seed(work, grocery, seed) for seed in args.seeds]
    result = {
        "environment": record.environment(),
        "config": vars(CONFIG),
        "options": vars(OPTIONS),
        "scenes": SCENES,
        "sizes": {"retrieval": _RETRIEVED, "classification": _CLASSIFIED, "products": _PRODUCTS, "validation": _VAL},
        "summary": summary(rows),
        "seeds": rows,
    }
    print(json.dumps(result["summary"], indent=1))
    record.write(result, args.out)
    return 0


def run_seed(work: Path, grocery: Path, seed: int) -> dict[str, Any]:
    """Both networks of a seed, trained and measured."""
    held_out = mixed_scenes(_HELD_OUT, _HELD_OUT_SEED, read_products(grocery, "val"))
    row: dict[str, Any] = {"seed": seed}
    scenes: Scenes | None = None
    for name, options in (("grain", OPTIONS), ("contrast", CONTRAST)):
        folder = work / f"{name}-{seed}"
        scenes = scenes or train_scenes(SCENES, seed, read_products(grocery, "train"))
        path = train(scenes, folder, CONFIG, replace(options, seed=seed), held_out)
        model = checkpoint.load(path).model
        log = [json.loads(line) for line in (folder / LOG).read_text(encoding="utf-8").splitlines()]
        row[name] = {"measured": evaluate(model, CONFIG, grocery), "minutes": round(minutes(log), 1), "log": log}
    row["rankers"] = rank(work / f"grain-{seed}" / CHECKPOINT, work / f"bundle-{seed}", work / "pictures")
    return row


def minutes(log: Sequence[dict[str, Any]]) -> float:
    """What a training took, by its log, in which the clock begins anew each time that it was gone on with."""
    clock = [float(line["seconds"]) for line in log]
    return sum(one for one, after in zip(clock, [*clock[1:], 0.0], strict=True) if after < one) / 60


def evaluate(model: Grain, config: GrainConfig, grocery: Path) -> dict[str, float]:
    """What a network can do on scenes that it has not seen: percentages, and mean IoU."""
    collator = Collator(config, tokenizer(config))
    products = read_products(grocery, "test")
    mixed = mixed_scenes(_RETRIEVED, _TEST_SEED, products)
    figures = measure(model, collator, mixed, range(_RETRIEVED))
    names = {unseen: [kind.name for kind in kinds(unseen)] for unseen in (True, False)}
    tests = {
        "unseen_top1": (class_scenes(_CLASSIFIED, _TEST_SEED), names[True]),
        "unseen_top1_of_all": (class_scenes(_CLASSIFIED, _TEST_SEED), names[True] + names[False]),
        "seen_top1": (class_scenes(_CLASSIFIED, _TEST_SEED, unseen=False), names[False]),
        "product_top1": (product_scenes(_PRODUCTS, _TEST_SEED, products), [product.name for product in products]),
    }
    return {
        **{name: 100 * zero_shot(model, collator, *test) for name, test in tests.items()},
        "text_to_image_recall1": 100 * figures.text_to_image,
        "image_to_text_recall1": 100 * figures.image_to_text,
        "region_description": 100 * figures.description,
        "masked_description": 100 * masked_descriptions(model, collator, mixed, range(_RETRIEVED)),
        "matched_iou": figures.iou,
    }


def rank(trained: Path, bundle: Path, pictures: Path) -> dict[str, Any]:
    """Retrieval among the unseen combinations, and what each ranker makes of its candidates; fitted on validation."""
    if not (bundle / "bundle.json").exists():
        export_clip(dual_encoder(checkpoint.load(trained).model, "GRAIN tiny"), bundle)
    unseen = kinds(unseen=True)
    source = MemorySource(
        classes=[kind.name for kind in unseen], descriptions={kind.name: kind.descriptions for kind in unseen}
    )
    build_memory(Bundle.open(bundle), source, dim="none", provider="cpu")
    splits = {
        name: read_images(write(class_scenes(count, seed), pictures / name))
        for name, count, seed in (("val", _VAL, _VAL_SEED), ("test", _CLASSIFIED, _TEST_SEED))
    }
    recognizer = Recognizer.open(bundle, "cpu")
    queries = {name: retrieve(recognizer, images, _K) for name, images in splits.items()}
    truth = {name: [image.label for image in images] for name, images in splits.items()}
    fitted: dict[str, dict[str, Any]] = {}
    for settings, ranker in rankers(recognizer, bundle, None):
        name = settings["rank"]
        val = judge(ranker, queries["val"], truth["val"], name)
        fused = settle(val)
        top1 = float(val.final(fused).mean())
        if name not in fitted or top1 > fitted[name]["val"]:
            fitted[name] = {"val": top1, "settings": settings, "fused": fused, "ranker": ranker}
    rows: dict[str, Any] = {}
    for name, best in fitted.items():
        test = judge(best["ranker"], queries["test"], truth["test"], name)
        rows["retrieval"] = record.share(test.right[:, 0])
        rows["in_k"] = record.share(np.asarray(test.right.any(1)))
        rows[name] = {
            **best["settings"],
            "fusion": None if best["fused"] is None else best["fused"].weights.similarity,
            "alone": record.share(test.hits(0.0)),
            "fused": record.share(test.final(best["fused"])),
            "milliseconds": test.milliseconds,
        }
    return rows


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Mean and standard deviation over the seeds, and the differences seed by seed."""

    def spread(values: Sequence[float]) -> dict[str, float]:
        deviation = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
        return {"mean": round(float(np.mean(values)), 3), "deviation": round(deviation, 3)}

    def of(name: str, key: str) -> list[float]:
        return [row[name]["measured"][key] for row in rows]

    figures: dict[str, Any] = {}
    for key in rows[0]["grain"]["measured"]:
        pairs = zip(of("grain", key), of("contrast", key), strict=True)
        figures[key] = {name: spread(of(name, key)) for name in ("grain", "contrast")}
        figures[key]["gain"] = spread([ours - theirs for ours, theirs in pairs])
    figures["rankers"] = {"retrieval": spread([row["rankers"]["retrieval"]["percent"] for row in rows])}
    for name in ("wca", "grain"):
        for way in ("alone", "fused"):
            values = [row["rankers"][name][way]["percent"] for row in rows]
            figures["rankers"][f"{name} {way}"] = spread(values)
    return figures
