"""`rar-bench discriminant`: what the discriminant of a large memory costs, on made-up vectors.

A process of its own fits it over mapped files, and its peak memory is read; then candidates are ranked one picture at a
time, and classes are added.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import shutil
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from tqdm import tqdm

from rar.runtime.bundle.change import stage
from rar.runtime.bundle.files import write_json
from rar.runtime.memory import Memory
from rar.runtime.memory.discriminant import FACTOR, FILE, WEIGHTS, write_fit
from rar.runtime.memory.files import map_npy
from rar.runtime.memory.fit.write import VectorWriter, part_info, write_entries, write_index
from rar.runtime.memory.part import PartSettings
from rar.runtime.memory.reduction import Reduction

from . import record

_BLOCK = 16_384
_QUERIES = 2000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    parser.add_argument("--entries", type=int, default=1_000_000, help="default: %(default)s")
    parser.add_argument("--dim", type=int, default=768, help="default: %(default)s")
    parser.add_argument("--classes", type=int, default=10_000, help="default: %(default)s")
    parser.add_argument("--k", type=int, default=5, help="candidates (default: %(default)s)")
    parser.add_argument("--work", type=Path, help="where the vectors are written (default: a temporary folder)")
    parser.add_argument("--out", metavar="FILE", help="result file (.json)")


def run(args: argparse.Namespace) -> int:
    """Measures, prints and writes."""
    folder = Path(tempfile.mkdtemp(prefix="rar-discriminant-", dir=args.work))
    try:
        vectors = _write(folder, args.entries, args.dim, args.classes)
        context = multiprocessing.get_context("spawn")
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_fit, args=(folder, args.classes, sender))
        process.start()
        sender.close()
        fitted = receiver.recv()
        process.join()
        size = sum((folder / name).stat().st_size for name in (FILE, FACTOR, WEIGHTS))
        ranked = _rank(folder, args)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    result = {
        "environment": record.environment(),
        "entries": args.entries,
        "dim": args.dim,
        "classes": args.classes,
        "vector_bytes": vectors,
        "discriminant_bytes": size,
        "share_percent": 100 * size / vectors,
        **fitted,
        **ranked,
    }
    print(
        f"{args.entries} x {args.dim}, {args.classes} classes: fitted in {fitted['fit_seconds']:.1f} s with "
        f"{fitted['peak_bytes'] / 2**30:.2f} GiB at most, {result['share_percent']:.1f} % of the vectors' bytes; "
        f"{args.k} candidates p50 {ranked['microseconds']['p50']:.0f} us, p99 {ranked['microseconds']['p99']:.0f} us; "
        f"a class added and ranked in {ranked['added_milliseconds']:.1f} ms"
    )
    record.write(result, args.out)
    return 0


def _write(folder: Path, entries: int, dim: int, classes: int) -> int:
    """Seeded vectors about seeded centres; returns their bytes."""
    chance = np.random.default_rng(0)
    centres = chance.normal(size=(classes, dim)).astype(np.float32)
    labels = np.arange(entries, dtype=np.int32) % classes
    with VectorWriter(folder, dim) as writer:
        for start in tqdm(range(0, entries, _BLOCK), desc="vectors", disable=None):
            rows = centres[labels[start : start + _BLOCK]]
            rows = rows + 2 * chance.standard_normal(rows.shape, np.float32)
            writer.append(rows / np.linalg.norm(rows, axis=1, keepdims=True))
    np.save(folder / "entries.npy", labels, allow_pickle=False)
    return (folder / "vectors.npy").stat().st_size


def _fit(folder: Path, classes: int, sender: Any) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = perf_counter()
    told = write_fit(folder, classes)
    took = perf_counter() - began
    # Mapped pages of the vectors count too: it is what the process was seen to hold.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    sender.send({"fit_seconds": took, "peak_bytes": 1024 * peak, "before_bytes": 1024 * before, "discriminant": told})
    sender.close()


def _rank(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Ranks by a memory of one entry a class that has the large memory's discriminant."""
    chance = np.random.default_rng(1)
    names = [f"class {number}" for number in range(args.classes)]
    vectors = map_npy(folder / "vectors.npy")
    root = folder / "bundle"
    with stage(root, "memory") as staging:
        part = staging.folder / "pictures"
        part.mkdir()
        staging.info.update(text_weight=0.0, pool=1, encoder="none", classes=len(names))
        with VectorWriter(part, args.dim) as writer:
            writer.append(vectors[: args.classes])
        write_entries(part, np.arange(args.classes, dtype=np.int32), names)
        settings = PartSettings(reducer="none", search="exact")
        reduction = Reduction.none(args.dim)
        staging.info["pictures"] = part_info(part, reduction, write_index(part, reduction, settings))
        write_fit(part, args.classes)
        for name in (FACTOR, WEIGHTS):
            shutil.copyfile(folder / name, part / name)
        write_json(staging.folder / "labels.json", names)
    memory = Memory.open(root)
    rows = chance.integers(0, args.classes, (_QUERIES, args.k))
    queries = vectors[chance.integers(0, len(vectors), _QUERIES)].astype(np.float32)
    times = []
    for query, row in zip(queries, rows.tolist(), strict=True):
        labels = [[names[place] for place in row]]
        began = perf_counter()
        discriminant = memory.discriminant
        if discriminant is not None:
            discriminant.logits(query[None], labels)
        times.append(1e6 * (perf_counter() - began))
    memory.add(queries[:8], "new")
    began = perf_counter()
    if (discriminant := memory.discriminant) is not None:
        discriminant.logits(queries[:1], [["new", names[0]]])
    added = 1e3 * (perf_counter() - began)
    memory.close()
    p50, p99 = (float(np.percentile(times, share)) for share in (50, 99))
    return {"k": args.k, "microseconds": {"p50": p50, "p99": p99}, "added_milliseconds": added}
