"""`rar-recognize --boxes`: names what the boxes of an annotation file show."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..bundle.files import write_json
from ..detection.annotations import Box, match_labels, read_annotations
from ..detection.confidence import FUSION
from ..detection.dataset import Detected, detect
from ..detection.frames import BLUR, GROW
from ..errors import InputError
from ..picture.boxes import Blur, Growth
from ..recognizer import Recognizer
from ..result import Result
from .printable import printable

# How many unknown names a message lists at most.
_NAMED = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of boxes."""
    boxes = parser.add_argument_group("boxes, in place of IMAGE")
    boxes.add_argument("--boxes", metavar="FILE", help="annotations as COCO, LVIS or V3Det have them (.json)")
    boxes.add_argument("--proposals", metavar="FILE", help="a detector's COCO results: these boxes instead")
    boxes.add_argument("--images", dest="folder", metavar="DIR", help="the pictures (default: beside the annotations)")
    boxes.add_argument(
        "--grow", metavar="F", help="region's sides to the box's: 1.5, or by the root of its area 32:2,96:1.5,inf:1.2"
    )
    boxes.add_argument("--blur", metavar="R", help="of what is outside, as a share of the longer side; or none")
    boxes.add_argument(
        "--fusion",
        type=float,
        default=FUSION,
        metavar="A",
        help="score = proposal^A * p^(1 - A) (default: %(default)s)",
    )
    boxes.add_argument("--out", metavar="FILE", help="write COCO results (.json) instead of a table")


def check(args: argparse.Namespace) -> None:
    """Checks that the options go together.

    Raises:
        InputError: None or more than one of pictures, boxes and a video is given; or an option of one with another.
    """
    if [bool(args.images), args.boxes is not None, args.video is not None].count(True) != 1:
        raise InputError("give pictures, or --boxes with an annotation file, or --video, and only one of them")
    of_boxes = {"--proposals": args.proposals, "--images": args.folder, "--grow": args.grow, "--blur": args.blur}
    if args.engine is None:
        of_boxes["--out"] = args.out
    wrong = of_boxes if args.boxes is None else {"--deadline-ms": args.deadline_ms, "--engine": args.engine}
    for option, value in wrong.items():
        if value is not None:
            raise InputError(
                f"{option} goes {'only' if args.boxes is None else 'not'} with --boxes; see `rar-recognize --help`"
            )


def run(args: argparse.Namespace, recognizer: Recognizer, show: Callable[[Path, Result, Box], str]) -> int:
    """Recognises the boxes and writes results, or prints what `show` makes of each.

    Returns:
        0, or 2 if a picture could not be read or a box lies outside its picture.

    Raises:
        InputError: A file, folder or setting cannot be used.
    """
    annotations = read_annotations(args.boxes, args.proposals)
    folder = Path(args.boxes).parent if args.folder is None else Path(args.folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder of pictures; name it with --images")
    if args.out is not None and not Path(args.out).parent.is_dir():
        raise InputError(f"{args.out}: its folder is not there; make it first")
    detected = detect(
        recognizer,
        annotations,
        folder,
        args.k,
        args.rank,
        fusion=args.fusion,
        grow=parse_grow(args.grow),
        blur=parse_blur(args.blur),
        gate=args.gate,
        unknown=args.unknown,
    )
    _, unknown = match_labels(annotations.categories, recognizer.memory.labels)
    if unknown:
        more = ", ..." if len(unknown) > _NAMED else ""
        named = ", ".join(map(repr, unknown[:_NAMED]))
        _tell(f"{len(unknown)} of {len(annotations.categories)} categories are no class of the memory: {named}{more}")
    if args.out is None:
        failed = _print(detected, show)
    else:
        failed = _write(Path(args.out), detected, sum(1 for boxes in annotations.boxes.values() if boxes))
    if annotations.skipped:
        counts = ", ".join(f"{count} {reason}" for reason, count in sorted(annotations.skipped.items()))
        _tell(f"passed over: {counts}")
    return 2 if failed else 0


def parse_grow(text: str | None) -> Growth:
    """Parses `1.5` or `32:2,96:1.5,inf:1.2`; None for the default.

    Raises:
        InputError: The text has neither form.
    """
    if text is None:
        return GROW
    try:
        if ":" not in text:
            return float(text)
        pairs = [part.split(":") for part in text.split(",")]
        return [(float(limit), float(factor)) for limit, factor in pairs]
    except ValueError as error:
        raise InputError(f"--grow {text}: give a factor, or limits and factors such as 32:2,96:1.5,inf:1.2") from error


def parse_blur(text: str | None) -> Blur | float | None:
    """Parses `0.1` or `none`; None for the default.

    Raises:
        InputError: The text has neither form.
    """
    if text is None:
        return BLUR
    try:
        return None if text == "none" else float(text)
    except ValueError as error:
        raise InputError(f"--blur {text}: give a share of the box's longer side, or none") from error


def _print(detected: Iterator[Detected], show: Callable[[Path, Result, Box], str]) -> int:
    failed = 0
    for one in detected:
        for box, result in zip(one.boxes, one.results, strict=True):
            print(show(one.path, result, box), flush=True)
            failed += result.error is not None
    return failed


def _write(out: Path, detected: Iterator[Detected], pictures: int) -> int:
    """Writes COCO results; when stopped, the results of the finished pictures, under a name that says so."""
    rows: list[dict[str, Any]] = []
    done = failed = 0
    try:
        for one in tqdm(detected, total=pictures, desc="pictures", disable=None):
            rows += one.to_coco()
            errors = [result.error for result in one.results if result.error is not None]
            for message in sorted({str(error) for error in errors}):
                _tell(f"picture {one.picture}: {message}")
            done, failed = done + 1, failed + len(errors)
    except BaseException:
        if done:
            partial = out.with_name(f"{out.name}.partial")
            write_json(partial, rows)
            _tell(f"{done} of {pictures} pictures are in {partial}")
        raise
    write_json(out, rows)
    _tell(f"{out}: {len(rows)} boxes of {done} pictures; {failed} boxes without an answer")
    return failed


def _tell(text: str) -> None:
    tqdm.write(f"rar-recognize: {printable(text)}", file=sys.stderr)
