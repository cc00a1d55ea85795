"""`rar-export finetune`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from rar.runtime.errors import InputError

from ..options import SOURCE
from .options import FinetuneOptions

if TYPE_CHECKING:
    from ..options import Commands


def add_parsers(commands: Commands) -> None:
    """Adds the sub-command to those of `rar-export`."""
    finetune = commands.add_parser(
        "finetune",
        help="teaches an MLLM to rank what retrieval finds, by LoRA",
        description="RAR's ranking fine-tune: lists of candidates from disjoint halves of labelled pictures, and LoRA "
        "(with the projector, for the starter) trained to put the true class first. A run that was cut off goes on "
        "where it stood. The result is for `rar-export mllm --adapter`. Needs the extra export.",
    )
    finetune.add_argument("out", metavar="OUT", help="folder of the adapter, its training set and its log")
    finetune.add_argument("--bundle", metavar="BUNDLE", required=True, help="the encoder that will retrieve")
    finetune.add_argument("--images", metavar="SRC", required=True, action="append", help=f"{SOURCE}; may be repeated")
    finetune.add_argument("--val", metavar="SRC", help="held-out pictures, for the log")
    finetune.add_argument("--model", default="starter", help="as for mllm (default: %(default)s)")
    finetune.add_argument(
        "--objective",
        nargs="+",
        choices=["likelihood", "choice", "generate"],
        default=["likelihood"],
        help="what is trained, a batch of each in turn (default: likelihood; the paper's is generate)",
    )
    finetune.add_argument(
        "--exemplars", action="store_true", help="show each candidate's nearest picture too, for ranking with exemplars"
    )
    finetune.add_argument("--prompts", metavar="FILE", help="JSON of {mode: {instruction, question, answer}}")
    for flag, kind, text in (
        ("--k", int, "candidates a list"),
        ("--neighbours", int, "ranking that the lists are windows of"),
        ("--epochs", float, "passes over the lists"),
        ("--batch", int, "lists a step"),
        ("--lr", float, "peak learning rate of the LoRA"),
        ("--rank", int, "LoRA's r"),
        ("--seed", int, "of everything random"),
    ):
        default = getattr(FinetuneOptions, flag[2:])
        finetune.add_argument(flag, type=kind, default=default, metavar="N", help=f"{text} (default: {default:g})")
    finetune.set_defaults(run=_finetune)


def _finetune(args: argparse.Namespace) -> None:
    import json

    from rar.runtime.bundle.manifest import Bundle
    from rar.runtime.encoder.clip import Clip

    from ..mllm import source
    from ..pictures import labelled
    from ..pictures.rows import read_text
    from .train import finetune

    texts = read_text(Path(args.prompts)) if args.prompts else "null"
    try:
        modes = json.loads(texts)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{args.prompts}: not JSON ({error}); write {{mode: {{part: text}}}}") from error
    options = FinetuneOptions(
        objectives=tuple(args.objective),
        modes=modes,
        k=args.k,
        neighbours=args.neighbours,
        epochs=args.epochs,
        batch=args.batch,
        lr=args.lr,
        rank=args.rank,
        exemplars=args.exemplars,
        seed=args.seed,
    )
    sources = [labelled.read_images(images) for images in args.images]
    held_out = labelled.read_images(args.val) if args.val else []
    clip = Clip(Bundle.open(args.bundle))
    folder = finetune(source.load(args.model), clip, sources, args.out, options, held_out)
    print(f"{folder}: done; use it with: rar-export mllm BUNDLE --model {args.model} --adapter {folder}")
