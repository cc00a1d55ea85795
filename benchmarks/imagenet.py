"""`rar-bench imagenet`: the starter's retrieval by names against its backbone's own classifier, same photos."""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np
from tqdm import tqdm

from rar.export.pictures.labelled import LabelledImage
from rar.export.starter.classes import imagenet_classes
from rar.export.starter.towers import backbone
from rar.runtime.bundle.manifest import Bundle
from rar.runtime.errors import InputError
from rar.runtime.picture.load import load_image
from rar.runtime.rank.rankers import RANKS
from rar.runtime.recognizer import Recognizer

from . import record

_BATCH = 16


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    parser.add_argument("bundle", metavar="BUNDLE", help="a starter bundle with its memory of 1,000 names")
    parser.add_argument("--samples", metavar="DIR", required=True, help="folder with labels.csv: file, imagenet_index")
    parser.add_argument("--rank", choices=RANKS, nargs="*", default=[], help="rankers to measure besides retrieval")
    parser.add_argument("--out", metavar="FILE", help="result file (.json)")


def run(args: argparse.Namespace) -> int:
    """Measures, prints and writes."""
    import torch

    entries = read_samples(Path(args.samples))
    names, _ = imagenet_classes()
    recognizer = Recognizer.open(args.bundle, "cpu")
    network = backbone()
    classified, retrieved = [], []
    for start in tqdm(range(0, len(entries), _BATCH), desc="photos", disable=None):
        batch = entries[start : start + _BATCH]
        pixels = recognizer.clip.preprocess([load_image(image.path) for image in batch])
        with torch.inference_mode():
            classified += [names[i] for i in network(torch.from_numpy(pixels)).argmax(1).tolist()]
        candidate_lists = recognizer.memory.search(recognizer.clip.embed_pixels(pixels), 1)
        retrieved += [candidates[0].label for candidates in candidate_lists]
    answers = {"backbone's classifier, PyTorch fp32": classified, "retrieval by name": retrieved}
    for rank in args.rank:
        stream = recognizer.stream((image.path for image in entries), k=5, rank=rank)
        results = tqdm(stream, total=len(entries), desc=rank, disable=None)
        answers[f"rank {rank}"] = [result.label or "" for result in results]
    truth = [image.label for image in entries]
    rows = {
        name: {"top1": record.share(np.array([a == b for a, b in zip(labels, truth, strict=True)]))}
        for name, labels in answers.items()
    }
    for name, row in rows.items():
        print(f"{name:<36} top-1 {row['top1']['percent']:5.1f} ± {row['top1']['standard_error']:.1f}")
    bundle = Bundle.open(args.bundle)
    result = {
        "environment": record.environment(),
        "encoder": record.encoder(bundle, recognizer.provider),
        "memory": dict(bundle.component("memory").info),
        "results": rows,
    }
    record.write(result, args.out)
    return 0


def read_samples(folder: Path) -> list[LabelledImage]:
    """The photos of a folder's labels.csv, with the names of the starter's memory.

    Raises:
        InputError: There is no such table.
    """
    table = folder / "labels.csv"
    if not table.is_file():
        raise InputError(f"{table}: no such file; name a folder with labels.csv and its photos")
    names, _ = imagenet_classes()
    with table.open(encoding="utf-8", newline="") as file:
        return [LabelledImage(folder / row["file"], names[int(row["imagenet_index"])]) for row in csv.DictReader(file)]
