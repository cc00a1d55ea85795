"""`rar-export grain`: trains a GRAIN, makes its annotations, and turns a checkpoint into a bundle."""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any, get_args

from rar.runtime.errors import InputError

from .config import SIZES
from .options import Autocast, TrainOptions

if TYPE_CHECKING:
    from rar.export.options import Commands


def add_parsers(commands: Commands) -> None:
    """Adds `grain` and its three sub-commands."""
    grain = commands.add_parser(
        "grain",
        help="GRAIN: a CLIP whose regions are aligned with descriptions (train, annotate, export)",
        description="GRAIN (arXiv 2412.04429), from annotated pictures to a bundle that ranks by regions.",
    )
    actions = grain.add_subparsers(dest="action", required=True, metavar="ACTION")
    _add_train(actions)
    _add_annotate(actions)
    _add_export(actions)


def _add_train(actions: Commands) -> None:
    train = actions.add_parser(
        "train",
        help="trains a network from annotated pictures",
        description="Caption contrast, box regression after Hungarian matching, and region-description contrast. "
        "A run that was cut off goes on where it stood. Several GPUs: torchrun -m rar.export.cli grain train ...",
        epilog='A line of FILE: {"path": "a.jpg", "caption": "...", "boxes": [{"box": [x0, y0, x1, y1], '
        '"description": "...", "score": 0.5}]}; `rar-export grain annotate` writes such.',
    )
    train.add_argument("out", metavar="OUT", help="folder of the checkpoint and the log")
    train.add_argument("--annotations", metavar="FILE", required=True, help="JSONL of pictures, captions and boxes")
    train.add_argument("--val", metavar="FILE", help="held-out annotations, for the log")
    train.add_argument("--size", choices=list(SIZES), default="vit-s16", help="of the network (default: %(default)s)")
    train.add_argument("--queries", type=int, metavar="N", default=5, help="region queries (default: %(default)s)")
    train.add_argument("--threads", type=int, metavar="N", help="of picture preparation (default: one a core)")
    train.add_argument("--autocast", choices=get_args(Autocast), default="fp32", help="(default: %(default)s)")
    for flag, kind, text in (
        ("--epochs", float, "passes over the pictures"),
        ("--batch", int, "pictures a step and process"),
        ("--lr", float, "peak learning rate"),
        ("--seed", int, "of everything random"),
    ):
        default = getattr(TrainOptions, flag[2:])
        train.add_argument(flag, type=kind, default=default, metavar="N", help=f"{text} (default: {default:g})")
    train.set_defaults(run=_train)


def _add_annotate(actions: Commands) -> None:
    annotate = actions.add_parser(
        "annotate",
        help="makes annotations from folders of pictures",
        description="Asks an MLLM for a caption and descriptions of each picture, and OWLv2 for their boxes. "
        "A run that was cut off goes on where it stood.",
    )
    annotate.add_argument("out", metavar="OUT", help="the .jsonl; picture paths in it are relative to its folder")
    annotate.add_argument("--images", metavar="DIR", required=True, action="append", help="may be repeated")
    annotate.add_argument("--mllm", metavar="DIR_OR_HUB", required=True, help="as for `rar-export mllm --model`")
    annotate.add_argument(
        "--detector",
        metavar="DIR_OR_HUB",
        default="google/owlv2-base-patch16-ensemble",
        help="an OWLv2 model (default: %(default)s)",
    )
    annotate.add_argument("--threshold", type=float, default=0.3, help="least score of a box (default: %(default)s)")
    annotate.add_argument("--top", type=int, default=5, metavar="N", help="boxes a picture (default: %(default)s)")
    annotate.set_defaults(run=_annotate)


def _add_export(actions: Commands) -> None:
    export = actions.add_parser(
        "export",
        help="turns a checkpoint into a bundle",
        description="Exports a checkpoint of `grain train`, or one in the released layout, compares it with PyTorch, "
        "and writes a new bundle: an encoder whose regions `--rank grain` uses.",
    )
    export.add_argument("checkpoint", metavar="CKPT")
    export.add_argument("out", metavar="OUT", help="folder of the new bundle")
    export.add_argument("--size", choices=list(SIZES), help="of the network (default: as the weights tell)")
    export.add_argument("--images", metavar="DIR", help="pictures to compare with (default: photos that packages ship)")
    export.add_argument(
        "--precision", choices=["fp32", "fp16", "int8"], default="fp32", help="int8 is for CPUs (default: %(default)s)"
    )
    export.set_defaults(run=_export)


def _train(args: argparse.Namespace) -> None:
    from .annotations import describe, read_annotations
    from .data import AnnotatedPictures
    from .train import train

    if args.queries < 1:
        raise InputError(f"queries={args.queries}; give 1 or more")
    options = TrainOptions(epochs=args.epochs, batch=args.batch, lr=args.lr, autocast=args.autocast, seed=args.seed)
    config = replace(SIZES[args.size], queries=args.queries)
    sets: list[Any] = []
    for file in (args.annotations, args.val):
        annotations = read_annotations(file) if file else None
        if annotations and annotations.left_out:
            _say(f"{file}: {len(annotations.lines)} pictures; {describe(annotations.left_out)}")
        sets.append(AnnotatedPictures(annotations.lines, args.queries) if annotations else None)
    path = train(sets[0], args.out, config, options, sets[1], args.threads)
    if flaws := sets[0].left_out:
        _say(f"{args.annotations}: met {describe(flaws)}")
    _say(f"{path}: done; make it a bundle with: rar-export grain export {path} BUNDLE")


def _annotate(args: argparse.Namespace) -> None:
    from pathlib import Path

    import torch

    from rar.runtime.picture.folder import find_images

    from ..mllm import source
    from .annotate import annotate
    from .describe import Describer
    from .detect import Detector

    pictures = [path for folder in args.images for path in find_images(Path(folder))]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    detector = Detector(args.detector, device)
    describer = Describer(source.load(args.mllm), device)
    outcome = annotate(pictures, args.out, describer, detector, args.threshold, args.top)
    if outcome.broken:
        print(f"{len(outcome.broken)} pictures cannot be read, as {outcome.broken[0]}")
    print(f"{args.out}: {outcome.lines} pictures; train with: rar-export grain train OUT --annotations {args.out}")


def _export(args: argparse.Namespace) -> None:
    from pathlib import Path

    from ..encoder.export import export_clip
    from .export import load_encoder

    info = export_clip(load_encoder(Path(args.checkpoint), args.size), args.out, args.precision, args.images)
    worst = ", ".join(f"{part} {info['parity'][part]['max_difference']:.2g}" for part in ("visual", "regions", "boxes"))
    print(f"{args.out}: {info['source']}, {info['dim']}-d, {args.precision}, largest difference to PyTorch: {worst}")
    print(f"now fill its memory: rar-export memory {args.out} --classes FILE --descriptions FILE --rank grain")


def _say(text: str) -> None:
    """Prints in only one of several processes."""
    if os.environ.get("RANK", "0") == "0":
        print(text)
