"""`rar-bench ray`: Ray Data on this machine beside the library alone, in turns, and two nodes beside one."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from rar.export.pictures.labelled import read_images
from rar.runtime.bundle.manifest import Bundle
from rar.runtime.errors import InputError
from rar.runtime.machine.cores import usable_cores
from rar.runtime.picture.folder import find

from .. import record
from .engines import Engine, Measured, RayData, Stream


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    parser.add_argument("bundle", metavar="BUNDLE")
    parser.add_argument("--images", required=True, metavar="SRC", help="a folder of pictures, or a .csv / .jsonl")
    parser.add_argument("--count", type=int, default=2000, help="pictures a turn (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="of all in turn (default: %(default)s)")
    parser.add_argument("--workers", type=int, help="threads, processes or actors (default: one a core)")
    parser.add_argument("--out", metavar="FILE", help="result file (.json)")


def run(args: argparse.Namespace) -> int:
    """Runs, prints and writes."""
    workers = args.workers or usable_cores()
    if not 1 <= args.count <= 10**6 or not 1 <= args.rounds <= 100 or not 2 <= workers <= 64:
        raise InputError(
            f"--count {args.count} --rounds {args.rounds} --workers {workers}; give up to a million, 100, and 2 to 64"
        )
    pictures = _pictures(args.images, args.count)
    engines = table(workers)
    rounds: list[dict[str, Measured]] = []
    loads = []
    with tqdm(total=args.rounds * len(engines), desc="turns", disable=None) as bar:
        for number in range(args.rounds):
            loads.append(record.load())
            measured = {}
            # Every other round backwards: what gets slower with time is slower for all.
            for name in list(engines)[:: -1 if number % 2 else 1]:
                measured[name] = engines[name].measure(args.bundle, pictures)
                bar.update()
            rounds.append(measured)
    result = {
        "environment": record.environment(workers),
        "encoder": record.encoder(Bundle.open(args.bundle), "auto"),
        "pictures": len(pictures),
        "workers": workers,
        "load_before": loads,
        **summary(rounds),
    }
    for name, one in result["engines"].items():
        own = "" if one["own_ms"] is None else f", {one['own_ms']['median']:.2f} of them its own"
        print(
            f"{name:<22} {one['rate']['median']:7.1f} pictures/s, {one['cpu_ms']['median']:.1f} ms CPU a picture{own}"
        )
    for name, one in result["ratios"].items():
        print(f"{name:<22} {one['median']:.3f} ({one['q25']:.3f}-{one['q75']:.3f})")
    record.write(result, args.out)
    return 0


def table(workers: int) -> Mapping[str, Engine]:
    """What is compared, by name."""
    return {
        "one process": Stream(1, workers),
        "plain processes": Stream(workers, 1),
        "actors of one thread": RayData(workers, 1),
        "one actor": RayData(1, workers),
        "one node of one CPU": RayData(1, 1),
        "two nodes of one CPU": RayData(2, 1, nodes=2),
    }


def summary(rounds: Sequence[Mapping[str, Measured]]) -> dict[str, Any]:
    """The figures; each ratio is of two measurements of one round, and above 1 where the first named is better."""
    engines = {
        name: {
            "rate": record.spread([one[name].rate for one in rounds]),
            "cpu_ms": record.spread([one[name].cpu_ms for one in rounds]),
            "own_ms": record.spread([one[name].own_ms for one in rounds]) if rounds[0][name].used.own else None,
        }
        for name in rounds[0]
    }
    return {
        "engines": engines,
        "ratios": {
            # The best that one machine does without Ray, in pictures a second.
            **{
                f"{name} / best without": record.spread(
                    [one[name].rate / max(one["one process"].rate, one["plain processes"].rate) for one in rounds]
                )
                for name in ("actors of one thread", "one actor")
            },
            # Here both nodes share the cores; by CPU time they are two machines.
            "two nodes / one, by CPU": record.spread(
                [2 * one["one node of one CPU"].cpu_ms / one["two nodes of one CPU"].cpu_ms for one in rounds]
            ),
        },
    }


def _pictures(source: str, count: int) -> list[str]:
    """So many pictures of a source, from all of it; some more than once where it has fewer."""
    path = Path(source)
    found = find(path).images if path.is_dir() else [one.path for one in read_images(path)]
    if not found:
        raise InputError(f"{source}: holds no picture; check the path")
    step = max(1, len(found) // count)
    some = [str(one) for one in found[::step]]
    return (some * -(-count // len(some)))[:count]
