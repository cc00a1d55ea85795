"""Arguments that several commands of `rar-export` have in common."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from rar.runtime.session import CHOICES

if TYPE_CHECKING:
    from rar.runtime.cli.arguments import Parser

    Commands = argparse._SubParsersAction[Parser]


SOURCE = "a folder with a sub-folder a class, or a .csv/.jsonl with `path` (relative to the file) and `label`"


def add_device(parser: argparse.ArgumentParser) -> None:
    """What runs the models, and on how many threads."""
    parser.add_argument("--provider", default="auto", choices=CHOICES)
    parser.add_argument("--threads", type=int, metavar="N", help="default: one a core")


def add_precision(
    parser: argparse.ArgumentParser, default: str, *more: str, note: str = "int8 is for CPUs, fp16 for GPUs"
) -> None:
    """At which precision the graphs are written."""
    parser.add_argument(
        "--precision",
        choices=["fp32", "fp16", "int8", *more],
        default=default,
        help=f"{note} (default: %(default)s)",
    )
