"""`rar-bench families`: export and ranking of an MLLM of every family, tiny and in the shape of a published one.

The models have random weights: no checkpoint is loaded. What a graph weighs and how long it runs is that of its shape.
The tokenizer is a small one, which makes more tokens of a name than the published model's. Each row is written when it
is finished. Rows of an `--out` that is there already are kept unless they are measured again.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rar.export.pictures.photos import checked_photos
from rar.runtime.errors import InputError, RarError
from rar.runtime.machine.cores import usable_cores

from .. import record
from .measure import PRECISIONS, Asked, measure, write
from .models import WRITERS, Shape
from .shapes import PUBLISHED, SIZES
from .table import put, table

_LEFT_OUT = ("3b", "4b", "7b")  # by default: their weights at fp32 fill 16 to 32 GB
_SPARE = 1 << 30


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    sizes = ",".join(size for size in SIZES if size not in _LEFT_OUT)
    parser.add_argument("--sizes", default=sizes, help=f"of {','.join(SIZES)} (default: %(default)s)")
    parser.add_argument("--only", metavar="FAMILY", nargs="+", help=f"of {', '.join(WRITERS)} (default: all)")
    parser.add_argument("--rounds", type=int, default=7, help="rankings that count (default: %(default)s)")
    parser.add_argument("--threads", type=int, help="of a ranking (default: one a core)")
    parser.add_argument(
        "--work", metavar="DIR", help="where models are made for the time: up to 9 bytes a parameter, on a disk"
    )
    parser.add_argument("--out", metavar="FILE", help="result file (.json)")
    parser.add_argument("--document", metavar="FILE", help="Markdown whose table of this form becomes the result's")


def run(args: argparse.Namespace) -> int:
    """Measures, prints and writes; 1 where a row could not be measured."""
    if args.rounds < 5:
        raise InputError(f"--rounds {args.rounds}: a median with quartiles needs 5 or more")
    wanted = list(_wanted(args.sizes.split(","), args.only))
    result = _begun(args.out, record.environment(args.threads))
    asked = Asked(checked_photos()[0], args.rounds, args.threads or usable_cores())
    failed = False
    with tempfile.TemporaryDirectory(prefix="rar-families-", dir=args.work) as work:
        for family, size, name, shape in wanted:
            for row in _rows(family, shape, asked, Path(work)):
                row = {"family": family, "size": size, "shape_of": name, **row}
                failed |= row["why"] is not None
                print(_line(row), flush=True)
                kept = [old for old in result["results"] if _key(old) != _key(row)]
                result["results"] = sorted([*kept, row], key=_order)
                record.write(result, args.out)
    print(table(result))
    if args.document:
        put(Path(args.document), table(result))
    return int(failed)


def _wanted(sizes: list[str], only: list[str] | None) -> Iterator[tuple[str, str, str | None, Shape | None]]:
    """Family, size, whose shape it is and the shape; smaller sizes first.

    Raises:
        InputError: A size or a family is unknown, or none has both.
    """
    for given, known, option in ((sizes, SIZES, "--sizes"), (only or (), WRITERS, "--only")):
        if unknown := [one for one in given if one not in known]:
            raise InputError(f"{option} {unknown[0]}: choose of {', '.join(known)}")
    found = [
        (family, size, published.name if published else None, published.shape if published else None)
        for size in SIZES
        if size in sizes
        for family in only or WRITERS
        for published in ([None] if size == "tiny" else PUBLISHED.get(family, ()))
        if published is None or published.size == size
    ]
    if not found:
        raise InputError(f"--only {' '.join(only or ())} has no shape of the sizes {','.join(sizes)}")
    yield from found


def _begun(out: str | None, environment: dict[str, Any]) -> dict[str, Any]:
    """The result so far: that of an earlier run on the same machine, or none.

    Raises:
        InputError: The file was measured elsewhere.
    """
    rows: list[dict[str, Any]] = []
    if out is not None and Path(out).exists():
        earlier = record.read(out)
        same = ("cpu", "cores", "threads", "versions")
        if earlier["benchmark"] != "families" or any(earlier["environment"][key] != environment[key] for key in same):
            raise InputError(f"{out}: was measured on another machine or with other versions; name a new file")
        rows = earlier["results"]
    return {"environment": environment, "results": rows}


def _rows(family: str, shape: Shape | None, asked: Asked, work: Path) -> Iterator[dict[str, Any]]:
    """One row a precision; with `why` where it could not be measured."""
    with tempfile.TemporaryDirectory(dir=work) as scratch:
        folder = Path(scratch)
        try:
            model = write(family, shape, folder / "model", _SPARE)
        except RarError as error:
            yield from ({"precision": precision, "why": str(error)} for precision in PRECISIONS)
            return
        for precision in PRECISIONS:
            load = record.load()
            with tempfile.TemporaryDirectory(dir=folder) as room:
                try:
                    measured = measure(model, precision, Path(room) / precision, asked, _SPARE)
                except RarError as error:
                    measured = {"why": str(error)}
            yield {"precision": precision, "load_before": load, "why": None, **measured}


def _key(row: dict[str, Any]) -> tuple[str, str, str]:
    return row["family"], row["size"], row["precision"]


def _order(row: dict[str, Any]) -> tuple[int, int, int]:
    return SIZES.index(row["size"]), list(WRITERS).index(row["family"]), PRECISIONS.index(row["precision"])


def _line(row: dict[str, Any]) -> str:
    name = f"{row['family']:<16} {row['size']:<5} {row['precision']:<5}"
    if row["why"]:
        return f"{name} {row['why']}"
    export, rank = row["export"], row["rank"]["seconds"]
    return (
        f"{name} {row['parameters'] / 1e6:7.1f} M  export {export['seconds']:6.1f} s"
        f" {export['peak_bytes'] / 1e9:5.2f} GB  graphs {row['graph_bytes']['all'] / 1e6:8.1f} MB"
        f"  ranking {rank['median']:.3f} s ({rank['q25']:.3f}-{rank['q75']:.3f})"
    )
