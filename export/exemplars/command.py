"""`rar-export exemplars`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from ..options import SOURCE, add_device

if TYPE_CHECKING:
    from ..options import Commands


def add_parsers(commands: Commands) -> None:
    """Adds the sub-command to those of `rar-export`."""
    exemplars = commands.add_parser(
        "exemplars",
        help="pictures of classes that the MLLM sees beside the candidates' names",
        description="Chooses pictures of each class that stand best for the others, and keeps in the bundle what its "
        "MLLM sees of them, for `rar-recognize --rank mllm --exemplars 1`. The MLLM must take several pictures. What "
        "was kept before is replaced. Works where PyTorch is not installed.",
    )
    exemplars.add_argument("bundle", metavar="BUNDLE")
    exemplars.add_argument("--images", metavar="SRC", required=True, help=f"as for memory: {SOURCE}")
    exemplars.add_argument(
        "--per-class",
        type=int,
        default=1,
        metavar="N",
        help="how many are kept, of which the nearest to the picture is shown (default: %(default)s)",
    )
    add_device(exemplars)
    exemplars.set_defaults(run=_exemplars)


def _exemplars(args: argparse.Namespace) -> None:
    from rar.runtime.bundle.manifest import Bundle

    from ..pictures import labelled
    from .build import build_exemplars

    images = labelled.read_images(args.images)
    info = build_exemplars(Bundle.open(args.bundle), images, args.per_class, args.provider, args.threads)
    size = 2 * info["image_tokens"] * info["dim"]
    print(
        f"{args.bundle}: {info['pictures']} exemplars of {info['classes']} classes, {info['image_tokens']} tokens of "
        f"{info['dim']} numbers each: {size / 1024:.1f} KiB a picture, {info['pictures'] * size / 2**20:.1f} MiB in all"
    )
