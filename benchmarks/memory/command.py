"""`rar-bench memory`: recall, speed and size of the memory against exact search and against faiss, hnswlib and usearch.

Measured on a bundle's memory of pictures (`--bundle`, `--test`) and on seeded clustered vectors; each contender in a
process of its own, on one thread, in turns. What is built for it is kept in `--work`, so an interrupted run goes on.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rar.runtime.errors import InputError

from .. import record
from ..made import made
from ..process import variables
from . import ours
from .data import DataSet, Pictures, Synthetic, read_queries, write_queries
from .growth import search_while_growing
from .peers import peers
from .sweep import Contender, Setting, sweep
from .targets import judge, ratios, show

# What `--full` adds.
MILLION = 1_000_000
GROWING_SECONDS = 60.0
_LEAST = 1000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    parser.add_argument("--bundle", metavar="BUNDLE", help="measure on its memory of pictures too")
    parser.add_argument("--test", metavar="SRC", help="labelled pictures to search the bundle's memory with")
    parser.add_argument("--entries", type=int, default=50_000, metavar="N", help="synthetic vectors (default: 50000)")
    parser.add_argument("--full", action="store_true", help="a million too, and two readers beside a writer")
    parser.add_argument("--blocks", type=int, default=3, help="turns of each contender (default: %(default)s)")
    parser.add_argument("--work", metavar="DIR", help="keeps what is built (default: a temporary folder)")
    parser.add_argument("--prepare", action="store_true", help="build what would be measured, and stop")
    parser.add_argument("--out", metavar="FILE", help="result file (.json)")


def run(args: argparse.Namespace) -> int:
    """Builds, measures, prints and writes."""
    if (args.bundle is None) != (args.test is None):
        raise InputError("--bundle and --test belong together: the memory, and pictures to search it with")
    if args.entries < _LEAST or args.blocks < 1:
        raise InputError(f"--entries {args.entries} --blocks {args.blocks}: from {_LEAST} entries and one block on")
    if args.prepare and args.work is None:
        raise InputError("--prepare needs --work, where what is built is kept")
    sets: list[DataSet] = [Synthetic(args.entries)]
    if args.bundle is not None:
        sets.insert(0, Pictures(Path(args.bundle), Path(args.test)))
    if args.full:
        sets.append(Synthetic(MILLION))
    results: dict[str, Any] = {}
    grown = None
    with _work_folder(args.work) as work:
        built = [_build(data, work, alone=args.full and data is sets[-1]) for data in sets]
        if args.prepare:
            return 0
        # The linear algebra of processes that are started meanwhile too.
        with variables(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1"):
            for one in built:
                results[one.data.name] = _measure(one, args.blocks)
                show(one.data.name, results[one.data.name])
        if args.full:
            grown = _grow(built[-1].root)
    targets = judge(results, grown)
    for target in targets:
        print(f"{'reached' if target['reached'] else 'MISSED':<8} {target['target']}: {target['measured']}")
    record.write(
        {
            "environment": record.environment(1),
            "blocks": args.blocks,
            "results": results,
            "growing": grown,
            "targets": targets,
        },
        args.out,
    )
    return 0


@contextmanager
def _work_folder(given: str | None) -> Iterator[Path]:
    if given is not None:
        yield Path(given)
        return
    with tempfile.TemporaryDirectory() as scratch:
        yield Path(scratch)


@dataclass(frozen=True)
class _Built:
    """A data set and all that searches it.

    Attributes:
        data: The set.
        root: Its folder.
        contenders: Those to measure.
        costs: What building took, by the folder of what was built.
        chosen: How the build of the default memory found that it is best searched.
    """

    data: DataSet
    root: Path
    contenders: list[Contender]
    costs: dict[str, dict[str, Any]]
    chosen: Setting


def _build(data: DataSet, work: Path, *, alone: bool) -> _Built:
    """Builds what is not there yet; with the default memory and two peers' graphs alone, or all."""
    root, settings, costs = work / data.name, data.settings(), {}
    made(root / "queries", {"data": settings}, partial(write_queries, data))

    def build(contender: Contender) -> Contender:
        asked = {"data": settings, "built": dict(contender.built)}
        costs[contender.folder] = made(root / contender.folder, asked, partial(contender.build, data))
        return contender

    default = build(ours.DEFAULT.contender())
    chosen = ours.chosen(root / default.folder)
    swept = [variant.contender((*ours.SWEEP, chosen)) for variant in (ours.DEFAULT, ours.SMALLER)[: 1 if alone else 2]]
    others = [] if alone else [variant.contender((chosen,)) for variant in ours.OTHERS]
    # A graph of a million takes up to an hour; these two are met at fewer entries.
    rivals = [peer for peer in peers() if not (alone and peer.name in ("hnswlib", "Voyager"))]
    return _Built(data, root, [build(one) for one in (*swept, *rivals, *others)], costs, chosen)


def _measure(built: _Built, blocks: int) -> dict[str, Any]:
    rows = sweep(built.contenders, built.root, blocks)
    contenders: dict[str, dict[str, Any]] = {}
    for contender in built.contenders:
        folder = built.root / contender.folder
        contenders[contender.name] = {
            "built": dict(contender.built),
            "build": built.costs[contender.folder],
            "index_bytes": sum(file.stat().st_size for file in folder.rglob("index*")),
            "sweep": rows[contender.name],
        }
        if contender.name in ours.NAMES:
            contenders[contender.name] |= {
                "stored": ours.stored(folder),
                "files_bytes": ours.file_bytes(folder),
                "searching": ours.searching(folder, built.chosen, blocks),
            }
        if contender.name == ours.DEFAULT.name:
            contenders[contender.name]["opening"] = ours.opening(folder)
    return {
        "data": built.data.settings(),
        "dim": built.data.dim,
        "queries": len(read_queries(built.root / "queries").measured),
        "chosen": {"ef": built.chosen.ef, "rescore": built.chosen.rescore},
        "contenders": contenders,
        "ratios": ratios(contenders),
    }


def _grow(root: Path) -> dict[str, Any]:
    """Two processes search the default memory while it is added to and compacted."""
    copy = root / "growing"
    shutil.rmtree(copy, ignore_errors=True)
    try:
        shutil.copytree(root / ours.DEFAULT.contender().folder / "bundle", copy)
        return search_while_growing(copy, GROWING_SECONDS)
    finally:
        shutil.rmtree(copy, ignore_errors=True)
