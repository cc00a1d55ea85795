"""`rar-bench retrieve`: pictures a second of the retrieval path against the plain PyTorch stack, in one run.

The plain stack is what the papers' code does: Pillow decodes, torchvision prepares, the same network runs in
PyTorch eager mode, NumPy compares with every vector. Rounds of both alternate, so that a noisy machine slows
both alike; ratios are between medians.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from rar.export.clip import export_clip
from rar.export.dual_encoder import DualEncoder
from rar.export.graph import Precision
from rar.export.labelled import few_shot, read_images
from rar.export.memory import MemorySource, build_memory
from rar.runtime.bundle import Bundle
from rar.runtime.recognizer import Recognizer

from . import report

MODELS = ("starter", "vit-b-32-random")
_PRECISIONS: tuple[Precision, ...] = ("fp32", "int8")
_NEIGHBOURS = 50  # as many as the runtime scores again
_STAGES = ("decode", "preprocess", "embed", "search")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    parser.add_argument("--images", metavar="SRC", required=True, help="labelled pictures to recognise")
    parser.add_argument("--memory", metavar="SRC", required=True, help="labelled pictures for the memory")
    parser.add_argument("--shots", type=int, help="keep N pictures a class in the memory")
    parser.add_argument(
        "--model", choices=MODELS, default="starter", help="vit-b-32-random has random weights: speed only"
    )
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8, 32], help="batch sizes (default: 1 8 32)")
    parser.add_argument("--rounds", type=int, default=15, help="timed rounds of each stack (default: %(default)s)")
    parser.add_argument("--threads", type=int, help="of both stacks (default: one a core)")
    parser.add_argument("--out", metavar="FILE", help="result file (.json)")


def run(args: argparse.Namespace) -> int:
    """Exports, builds, measures, prints and writes."""
    import torch

    if args.threads:
        torch.set_num_threads(args.threads)
    model = _load(args.model)
    paths = [image.path for image in read_images(args.images)]
    images = read_images(args.memory)
    images = few_shot(images, args.shots, 0) if args.shots else images
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        recognizers = {}
        for precision in _PRECISIONS:
            out = Path(scratch) / precision
            export_clip(model, out, precision)
            build_memory(Bundle.open(out), MemorySource(images=images), provider="cpu", threads=args.threads)
            recognizers[precision] = Recognizer.open(out, "cpu", threads=args.threads)
        # Both stacks search the same vectors.
        vectors = recognizers["fp32"].memory.parts["pictures"].vectors.astype(np.float32)
        stacks: dict[str, Callable[[list[Path]], dict[str, float]]] = {
            "plain": lambda batch: _plain(model, vectors, batch)
        }
        for precision, recognizer in recognizers.items():
            stacks[precision] = partial(_ours, recognizer)
        for batch in args.batch:
            times: dict[str, list[dict[str, float]]] = {name: [] for name in stacks}
            for turn in range(-2, args.rounds):  # two rounds of warm-up
                start = (turn + 2) * batch % len(paths)
                chosen = [paths[(start + i) % len(paths)] for i in range(batch)]
                for name, stack in stacks.items():
                    took = stack(chosen)
                    if turn >= 0:
                        times[name].append(took)
            rows += [_row(batch, name, taken, times["plain"]) for name, taken in times.items()]
    for row in rows:
        stages = "  ".join(f"{stage} {row['stages_ms'][stage]['median']:.2f}" for stage in _STAGES)
        print(
            f"batch {row['batch']:<3} {row['stack']:<6} {row['pictures_per_second']['median']:7.1f} pictures/s "
            f"({row['speedup']:.2f}x)   ms a picture: {stages}"
        )
    result = {
        "environment": report.environment(args.threads),
        "model": model.source,
        "memory_entries": len(vectors),
        "results": rows,
    }
    report.write(result, args.out)
    return 0


def _load(name: str) -> DualEncoder:
    if name == "starter":
        from rar.export import starter

        return starter.load()
    import open_clip
    import torch

    from rar.export import openclip

    with tempfile.TemporaryDirectory() as scratch:
        torch.manual_seed(0)
        checkpoint = Path(scratch) / "random.pt"
        torch.save(open_clip.create_model("ViT-B-32").state_dict(), checkpoint)
        return openclip.load("ViT-B-32", str(checkpoint))


def _plain(model: DualEncoder, vectors: npt.NDArray[np.float32], paths: list[Path]) -> dict[str, float]:
    import torch

    clock = _Clock()
    images = []
    for path in paths:
        with Image.open(path) as image:
            images.append(ImageOps.exif_transpose(image).convert("RGB"))
    clock.lap("decode")
    pixels = torch.from_numpy(np.stack([model.reference_preprocess(image) for image in images]))
    clock.lap("preprocess")
    with torch.inference_mode():
        embeddings = model.visual(pixels).numpy()
    clock.lap("embed")
    cosines = embeddings @ vectors.T
    count = min(_NEIGHBOURS, len(vectors) - 1)
    nearest = np.argpartition(-cosines, count, axis=1)[:, :count]
    np.take_along_axis(nearest, np.argsort(-np.take_along_axis(cosines, nearest, 1), axis=1), 1)
    clock.lap("search")
    return clock.laps


def _ours(recognizer: Recognizer, paths: list[Path]) -> dict[str, float]:
    start = perf_counter()
    results = list(recognizer.stream(paths, k=5, rank="none", batch_size=len(paths)))
    total = perf_counter() - start
    laps = {stage: results[0].timings[stage] * len(paths) / 1e3 for stage in _STAGES}
    return {**laps, "total": total}


class _Clock:
    def __init__(self) -> None:
        self.laps: dict[str, float] = {"total": 0.0}
        self._last = perf_counter()

    def lap(self, stage: str) -> None:
        now = perf_counter()
        self.laps[stage] = now - self._last
        self.laps["total"] += now - self._last
        self._last = now


def _row(batch: int, name: str, taken: list[dict[str, float]], plain: list[dict[str, float]]) -> dict[str, Any]:
    total = np.median([lap["total"] for lap in taken])
    return {
        "batch": batch,
        "stack": name,
        "pictures_per_second": report.spread([batch / lap["total"] for lap in taken]),
        "speedup": float(np.median([lap["total"] for lap in plain]) / total),
        "stages_ms": {stage: report.spread([1e3 * lap[stage] / batch for lap in taken]) for stage in _STAGES},
    }
