"""`rar-recognize`: names what pictures show, from a bundle."""

from __future__ import annotations

import argparse
import logging
import os
import stat
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..detection.annotations import Box
from ..errors import ImageError, InputError
from ..loop import GATES, UNKNOWN, Asked
from ..picture.folder import find
from ..picture.given import check_local
from ..picture.load import MAX_PIXELS, Reading, load_image
from ..rank.protocol import RankerOptions, Spec
from ..rank.rankers import RANKERS, RANKS
from ..recognizer import Recognizer
from ..result import Result, Skipped
from ..session import CHOICES
from . import boxes, engine, show, video
from .arguments import Parser
from .guard import guard
from .printable import json_line, printable
from .records import record, told

_SKIPPED: Mapping[Skipped, str] = {
    "gate": "gate",
    "deadline": "deadline",
    "gains nothing": "the ranker asked for is not used: gains nothing here",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point. Returns 0, or 2 if the input cannot be used or a picture cannot be read."""
    args = parser().parse_args(argv)
    return guard("rar-recognize", lambda: _run(args))


def parser() -> Parser:
    """What reads the command line."""
    top = Parser(
        prog="rar-recognize",
        description="Retrieves the k most similar classes of a bundle's memory for each picture and ranks them. "
        "Prints a table, or with --json one line a picture.",
    )
    top.add_argument("bundle", metavar="BUNDLE", help="folder made by rar-export")
    top.add_argument("images", metavar="IMAGE", nargs="*", help="picture files, or folders of them")
    top.add_argument("--k", type=int, help="candidates a picture (default: 5, or all classes of fewer)")
    top.add_argument("--rank", choices=RANKS, help="what orders the candidates (default: the bundle's own choice)")
    for flag in (flag for spec in RANKERS.values() for flag in spec.flags):
        # A whole number has a metavar; choices are shown instead of one.
        number: dict[str, Any] = {"type": int, "metavar": "N"} if flag.choices is None else {}
        top.add_argument(f"--{flag.name}", choices=flag.choices, help=flag.help, **number)
    top.add_argument(
        "--gate", choices=GATES, default="off", help="unsure: rank only where retrieval is not sure (default: off)"
    )
    top.add_argument(
        "--unknown",
        choices=UNKNOWN,
        default="answer",
        help="reject: name no class where a picture seems to show none of the memory's (default: answer)",
    )
    top.add_argument("--deadline-ms", type=float, metavar="MS", help="keep the retrieval's order rather than be later")
    top.add_argument(
        "--provider",
        default="auto",
        choices=CHOICES,
        help="what runs the models (default: the best there is)",
    )
    top.add_argument("--verbose", action="store_true", help="say what runs the models, and why nothing faster does")
    top.add_argument("--threads", type=int, metavar="N", help="default: one a core")
    top.add_argument(
        "--max-pixels", type=int, metavar="N", help="limit of a picture's width times height (default: 100 million)"
    )
    top.add_argument("--tolerant", action="store_true", help="name cut JPEGs too, by what is there; they are marked")
    top.add_argument("--show", action="store_true", help="draw each picture, in terminals that can")
    top.add_argument("--json", action="store_true", help="one JSON object a line instead of the table")
    boxes.add_arguments(top)
    video.add_arguments(top)
    engine.add_arguments(top)
    return top


def _run(args: argparse.Namespace) -> int:
    if args.verbose:
        logging.basicConfig(format="%(name)s: %(message)s")
        logging.getLogger("rar").setLevel(logging.INFO)
    boxes.check(args)
    video.check(args)
    engine.check(args)
    by = _drawing(args)
    rankers: dict[str, Any] = {name: _settings(spec, vars(args)) for name, spec in RANKERS.items()}
    limit = MAX_PIXELS if args.max_pixels is None else args.max_pixels
    reading = Reading(max_pixels=limit, tolerant=args.tolerant)
    asked: Asked = {
        "k": args.k,
        "rank": args.rank,
        "gate": args.gate,
        "deadline_ms": args.deadline_ms,
        "unknown": args.unknown,
    }
    if args.engine is not None:
        return engine.run(args, asked, {"provider": args.provider, "reading": reading, **rankers})
    paths = list(_expand(args.images))
    recognizer = Recognizer.open(args.bundle, args.provider, threads=args.threads, reading=reading, **rankers)
    if args.boxes is not None:

        def told(path: Path, result: Result, box: Box) -> str:
            return to_json(path, result, recognizer.provider, box) if args.json else to_table(path, result, box)

        return boxes.run(args, recognizer, told)
    if args.video is not None:
        return video.run(args, recognizer)
    failed = False
    results = recognizer.stream(paths, **asked)
    for path, result in zip(paths, results, strict=True):
        failed |= result.error is not None
        if by is not None and result.error is None:
            print(show.drawn(load_image(path, limit), by), end="")
        print(to_json(path, result, recognizer.provider) if args.json else to_table(path, result), flush=True)
    return 2 if failed else 0


def _drawing(args: argparse.Namespace) -> show.Protocol | None:
    """How pictures are drawn; None where they are not asked for, or cannot be: that is told."""
    if not args.show:
        return None
    if args.json or any(asked is not None for asked in (args.boxes, args.video, args.engine)):
        raise InputError("--show draws whole pictures above the table; leave out --json, --boxes, --video and --engine")
    by = show.protocol(os.environ) if sys.stdout.isatty() else None
    if by is None:
        why = "this terminal does not say that it can draw" if sys.stdout.isatty() else "the output is no terminal"
        print(f"rar-recognize: no pictures: {why}; kitty, Ghostty, iTerm2, WezTerm, foot can", file=sys.stderr)
    return by


def _settings(spec: Spec[Any], args: Mapping[str, Any]) -> RankerOptions | None:
    """The settings of a ranker that the command line gives; None if it gives none."""
    given = {flag.name: args[flag.name] for flag in spec.flags if args[flag.name] is not None}
    return spec.options(**given) if given else None


def _expand(names: Sequence[str]) -> Iterator[Path]:
    for name in names:
        try:
            check_local(name)
        except ImageError as error:
            raise InputError(str(error)) from error
        path = Path(name)
        try:
            folder = stat.S_ISDIR(path.stat().st_mode)
        except (OSError, ValueError) as error:
            raise InputError(f"{name}: no such file or folder ({error}); check the path") from error
        if folder:
            found = find(path)
            if found.passed:
                print(f"rar-recognize: {printable(f'{name}: passed over: {found.told()}')}", file=sys.stderr)
            yield from found.images
        else:
            yield path


def to_json(path: Path, result: Result, provider: str, box: Box | None = None) -> str:
    """One result as a line of JSON."""
    line: dict[str, object] = {"path": str(path)}
    if box is not None:
        line["bbox"] = box.bbox
    return json_line(line | record(result, provider))


def to_table(path: Path, result: Result, box: Box | None = None) -> str:
    """One result as lines for a terminal: the answer, then the candidates before and after ranking."""
    head = printable(str(path)) + ("" if box is None else f"  box {', '.join(f'{value:g}' for value in box.bbox)}")
    if result.error is not None:
        return f"{head}\n  error: {printable(str(result.error))}\n"
    stages = "  ".join(f"{stage} {ms:.1f}" for stage, ms in result.timings.items())
    head += "  (cut off: only a part was seen)" if result.truncated else ""
    lines = [head, f"  {told(result)}", f"  ms: {stages}"]
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
    skipped = f" ({_SKIPPED[result.skipped]})" if result.skipped else ""
    if result.ranked_by is None:
        return f"not ranked{skipped}" if skipped else ""
    return f"ranked by {result.ranked_by}{skipped}" + (" (no usable answer)" if result.fallback else "")


if __name__ == "__main__":
    sys.exit(main())
