"""`rar-recognize`: names what pictures show, from a bundle."""

from __future__ import annotations

import argparse
import io
import json
import logging
import os
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import get_args

from . import cli_boxes
from .annotations import Box
from .errors import InputError, RarError
from .images import find_images
from .mllm.prompt import Mode
from .mllm.ranker import MllmOptions
from .printable import printable
from .rank import RANKS
from .recognizer import GATES, Recognizer
from .result import Result
from .session import ORDER
from .wca import WcaOptions


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; 0, or 2 where the input cannot be used, or where a picture could not be read."""
    args = _parser().parse_args(argv)
    return guard("rar-recognize", lambda: _run(args))


def guard(name: str, run: Callable[[], int]) -> int:
    """Runs a command: our own errors become one line on stderr and exit code 2, a closed pipe ends it."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # file names need not be UTF-8
    try:
        code = run()
        sys.stdout.flush()
    except RarError as error:
        print(f"{name}: {printable(' '.join(str(error).split()))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{name}: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rar-recognize",
        description="Retrieves the k most similar classes of a bundle's memory for each picture and ranks them. "
        "Prints a table, or with --json one line a picture.",
    )
    parser.add_argument("bundle", metavar="BUNDLE", help="folder made by rar-export")
    parser.add_argument("images", metavar="IMAGE", nargs="*", help="picture files, or folders of them")
    parser.add_argument("--k", type=int, help="candidates a picture (default: 5, or all classes of fewer)")
    parser.add_argument("--rank", choices=RANKS, help="what orders the candidates (default: the bundle's own choice)")
    parser.add_argument("--mode", choices=get_args(Mode), help="how the MLLM ranks (default: the bundle's own choice)")
    parser.add_argument(
        "--gate", choices=GATES, default="off", help="unsure: rank only where retrieval is not sure (default: off)"
    )
    parser.add_argument(
        "--deadline-ms", type=float, metavar="MS", help="keep the retrieval's order rather than be later"
    )
    parser.add_argument(
        "--provider",
        default="auto",
        choices=["auto", *ORDER],
        help="what runs the models (default: the best there is)",
    )
    parser.add_argument("--verbose", action="store_true", help="say what runs the models, and why nothing faster does")
    parser.add_argument("--threads", type=int, metavar="N", help="default: one a core")
    parser.add_argument("--crops", type=int, metavar="N", help="WCA's crops a picture (default: 60)")
    parser.add_argument("--json", action="store_true", help="one JSON object a line instead of the table")
    cli_boxes.add_arguments(parser)
    return parser


def _run(args: argparse.Namespace) -> int:
    if args.verbose:
        logging.basicConfig(format="%(name)s: %(message)s")
        logging.getLogger("rar").setLevel(logging.INFO)
    cli_boxes.check(args)
    paths = list(_expand(args.images))
    wca = WcaOptions() if args.crops is None else WcaOptions(crops=args.crops)
    mllm = None if args.mode is None else MllmOptions(args.mode)
    recognizer = Recognizer.open(args.bundle, args.provider, threads=args.threads, wca=wca, mllm=mllm)
    if args.boxes is not None:

        def show(path: Path, result: Result, box: Box) -> str:
            return to_json(path, result, recognizer.provider, box) if args.json else to_table(path, result, box)

        return cli_boxes.run(args, recognizer, show)
    k = min(5, recognizer.memory.classes) if args.k is None else args.k
    failed = False
    results = recognizer.stream(paths, k, args.rank, gate=args.gate, deadline_ms=args.deadline_ms)
    for path, result in zip(paths, results, strict=True):
        failed |= result.error is not None
        print(to_json(path, result, recognizer.provider) if args.json else to_table(path, result), flush=True)
    return 2 if failed else 0


def _expand(names: Sequence[str]) -> Iterator[Path]:
    for name in names:
        path = Path(name)
        try:
            folder = stat.S_ISDIR(path.stat().st_mode)
        except (OSError, ValueError) as error:
            raise InputError(f"{name}: no such file or folder ({error}); check the path") from error
        if folder:
            yield from find_images(path)
        else:
            yield path


def to_json(path: Path, result: Result, provider: str, box: Box | None = None) -> str:
    """One result as a line of JSON."""
    record: dict[str, object] = {"path": str(path)}
    if box is not None:
        record["bbox"] = box.bbox
    if result.error is not None:
        record["error"] = str(result.error)
    else:
        record.update(
            label=result.label,
            score=result.score,
            candidates=[asdict(candidate) for candidate in result.candidates],
            retrieved=[candidate.label for candidate in result.retrieved],
            ranked_by=result.ranked_by,
            skipped=result.skipped,
            fallback=result.fallback,
            regions=[vars(region) for region in result.regions],
            milliseconds=result.timings,
            provider=provider,
        )
    return json.dumps(record, ensure_ascii=False)


def to_table(path: Path, result: Result, box: Box | None = None) -> str:
    """One result as lines for a terminal: the answer, then the candidates before and after ranking."""
    head = printable(str(path)) + ("" if box is None else f"  box {', '.join(f'{value:g}' for value in box.bbox)}")
    if result.error is not None:
        return f"{head}\n  error: {printable(str(result.error))}\n"
    stages = "  ".join(f"{stage} {ms:.1f}" for stage, ms in result.timings.items())
    lines = [head, f"  {printable(result.label or '')}  {result.score:.3f}", f"  ms: {stages}"]
    width = max(len(printable(candidate.label)) for candidate in result.candidates)
    lines.append(f"  {'retrieved':<{width + 8}}  {_ranked(result)}".rstrip())
    for before, after in zip(result.retrieved, result.candidates, strict=True):
        line = f"  {before.similarity:6.3f}  {printable(before.label):<{width}}"
        if after.rank_score is not None:
            line += f"  {after.rank_score:6.3f}  {printable(after.label)}"
        lines.append(line.rstrip())
    return "\n".join(lines) + "\n"


def _ranked(result: Result) -> str:
    """Who ranked, or why nobody did, as the head of the table's second column."""
    if result.ranked_by is None:
        return "" if result.skipped is None else f"not ranked ({result.skipped})"
    return f"ranked by {result.ranked_by}" + (" (no usable answer)" if result.fallback else "")


if __name__ == "__main__":
    sys.exit(main())
