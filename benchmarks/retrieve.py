"""`rar-bench retrieve`: pictures a second of the retrieval path against the plain PyTorch stack, in one run.

The plain stack is what the papers' code does: Pillow decodes, torchvision prepares, the same network runs in
PyTorch eager mode, NumPy compares with every vector. Each stack has a process of its own and the machine to itself,
as it would in use: idle thread pools of another one slow it. They take turns, block by block, so that a noisy machine
slows all alike; ratios are between medians.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from itertools import product
from pathlib import Path
from time import perf_counter
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from rar.export.clip import export_clip
from rar.export.dual_encoder import DualEncoder
from rar.export.graph import Precision
from rar.export.labelled import few_shot, read_images
from rar.export.memory import MemorySource, build_memory
from rar.runtime.bundle import Bundle
from rar.runtime.recognizer import Recognizer

from . import record
from .peers.pytorch import decode, nearest
from .power import Power, try_meter
from .process import in_a_process

# Runs one batch of pictures and returns the seconds each stage took, and their total.
Stack: TypeAlias = Callable[[list[Path]], dict[str, float]]

MODELS = ("starter", "vit-b-32-random")
RANDOM_MODEL = "ViT-B-32"
_PRECISIONS: tuple[Precision, ...] = ("fp32", "int8")
_BLOCKS = 3
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
    parser.add_argument(
        "--rounds", type=int, default=5, help="timed rounds in each of three blocks (default: %(default)s)"
    )
    parser.add_argument("--threads", type=int, help="of both stacks (default: one a core)")
    parser.add_argument("--out", metavar="FILE", help="result file (.json)")


def run(args: argparse.Namespace) -> int:
    """Exports, builds, measures, prints and writes."""
    model = load_model(args.model)
    paths = [image.path for image in read_images(args.images)]
    images = read_images(args.memory)
    images = few_shot(images, args.shots, 0) if args.shots else images
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        bundles = {precision: Path(scratch) / precision for precision in _PRECISIONS}
        for precision, out in bundles.items():
            export_clip(model, out, precision)
            build_memory(Bundle.open(out), MemorySource(images=images), provider="cpu", threads=args.threads)
        # Both stacks search the same vectors.
        vectors = bundles["fp32"] / Bundle.open(bundles["fp32"]).component("memory").files["pictures/vectors.npy"].path
        openers: dict[str, Callable[[], Stack]] = {"plain": partial(_open_plain, args.model, vectors, args.threads)}
        openers |= {name: partial(_open_ours, out, args.threads) for name, out in bundles.items()}
        times: dict[tuple[int, str], list[dict[str, float]]] = {}
        meter, measured = try_meter()
        powers = {key: Power(meter) for key in product(args.batch, openers)} if meter is not None else {}
        for block, (name, opener) in product(range(_BLOCKS), openers.items()):
            with in_a_process(opener) as stack:
                for batch in args.batch:
                    stack(paths[:batch])  # warm-up
                    with powers.get((batch, name), nullcontext()):
                        for turn in range(args.rounds):
                            first = (block * args.rounds + turn) * batch
                            chosen = [paths[(first + i) % len(paths)] for i in range(batch)]
                            times.setdefault((batch, name), []).append(stack(chosen))
        for batch, name in product(args.batch, openers):
            rows.append(_row(batch, name, times[batch, name], times[batch, "plain"]))
            if (batch, name) in powers:
                rows[-1]["power"] = powers[batch, name].result(batch * len(times[batch, name]))
    for row in rows:
        stages = "  ".join(f"{stage} {row['stages_ms'][stage]['median']:.2f}" for stage in _STAGES)
        print(
            f"batch {row['batch']:<3} {row['stack']:<6} {row['pictures_per_second']['median']:7.1f} pictures/s "
            f"({row['speedup']:.2f}x)   ms a picture: {stages}"
        )
    result = {
        "environment": record.environment(args.threads),
        "model": model.source,
        "memory_entries": len(images),
        "power": measured,
        "results": rows,
    }
    record.write(result, args.out)
    return 0


def _open_plain(model: str, vectors: Path, threads: int | None) -> Stack:
    import torch

    if threads:
        torch.set_num_threads(threads)
    return partial(_plain, load_model(model), np.load(vectors).astype(np.float32))


def _open_ours(bundle: Path, threads: int | None) -> Stack:
    return partial(_ours, Recognizer.open(bundle, "cpu", threads=threads))


def load_model(name: str) -> DualEncoder:
    """One of `MODELS` as PyTorch modules."""
    if name == "starter":
        from rar.export import starter

        return starter.load()
    from rar.export import openclip

    with tempfile.TemporaryDirectory() as scratch:
        return openclip.load(RANDOM_MODEL, str(write_random(Path(scratch))))


def write_random(folder: Path) -> Path:
    """Seeded random weights of `RANDOM_MODEL`, as a checkpoint that open_clip reads."""
    import open_clip
    import torch

    torch.manual_seed(0)
    checkpoint = folder / "random.pt"
    torch.save(open_clip.create_model(RANDOM_MODEL).state_dict(), checkpoint)
    return checkpoint


def _plain(model: DualEncoder, vectors: npt.NDArray[np.float32], paths: list[Path]) -> dict[str, float]:
    import torch

    clock = _Clock()
    images = decode(paths)
    clock.lap("decode")
    pixels = torch.from_numpy(np.stack([model.reference_preprocess(image) for image in images]))
    clock.lap("preprocess")
    with torch.inference_mode():
        found = model.visual(pixels)
        # Some encoders give features for an MLLM beside the embedding.
        embeddings = (found[0] if isinstance(found, tuple) else found).numpy()
    clock.lap("embed")
    nearest(embeddings, vectors)
    clock.lap("search")
    return clock.laps


def _ours(recognizer: Recognizer, paths: list[Path]) -> dict[str, float]:
    start = perf_counter()
    k = min(5, recognizer.memory.classes)
    results = list(recognizer.stream(paths, k=k, rank="none", batch_size=len(paths)))
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
        "pictures_per_second": record.spread([batch / lap["total"] for lap in taken]),
        "speedup": float(np.median([lap["total"] for lap in plain]) / total),
        "stages_ms": {stage: record.spread([1e3 * lap[stage] / batch for lap in taken]) for stage in _STAGES},
    }
