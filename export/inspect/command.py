"""`rar-export inspect` and `verify`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from rar.runtime.errors import InputError
from rar.runtime.session import CHOICES

if TYPE_CHECKING:
    from ..options import Commands


def add_parsers(commands: Commands) -> None:
    """Adds the sub-commands to those of `rar-export`."""
    _inspect_parser(commands)
    _verify_parser(commands)


def _inspect_parser(commands: Commands) -> None:
    inspect = commands.add_parser(
        "inspect",
        help="what a bundle holds: parts, sizes, precision, parity, memory",
        description="Shows a bundle's manifest as a table; with --html writes a page with pictures of each class and "
        "the classes that it is nearest to. The page holds its pictures and loads nothing.",
    )
    inspect.add_argument("bundle", metavar="BUNDLE")
    inspect.add_argument("--html", metavar="OUT.html", help="write the page instead of printing the table")
    inspect.add_argument(
        "--pictures",
        metavar="DIR",
        help="with --html: show pictures that lie in this folder only (default: the current folder)",
    )
    inspect.set_defaults(run=_inspect)


def _verify_parser(commands: Commands) -> None:
    verify = commands.add_parser(
        "verify",
        help="whether a bundle is whole and works",
        description="Checks every file's hash, loads every part, and has the memory find its own entries.",
    )
    verify.add_argument("bundle", metavar="BUNDLE")
    verify.add_argument(
        "--provider",
        default="auto",
        choices=CHOICES,
        help="compare the graphs with fp32 on this one (default: on all that auto takes and that run here)",
    )
    verify.set_defaults(run=_verify)


def _inspect(args: argparse.Namespace) -> None:
    from rar.runtime.bundle.files import atomic_file
    from rar.runtime.bundle.manifest import Bundle

    from .bundle import describe

    if args.pictures is not None and args.html is None:
        raise InputError("--pictures goes with --html; add --html OUT.html")
    bundle = Bundle.open(args.bundle)
    if args.html is None:
        print(describe(bundle))
        return
    from .page import page

    folder = Path(args.pictures or ".")
    if not folder.is_dir():
        raise InputError(f"--pictures {folder}: no such folder; name the one that the memory's pictures lie in")
    out = Path(args.html)
    if out.is_dir() or not out.absolute().parent.is_dir():
        raise InputError(f"--html {out}: is a folder or lies in none that is there; name a file in one that is")
    html = page(bundle, folder)
    with atomic_file(out) as file:
        file.write(html.encode(errors="backslashreplace"))
    print(f"{args.html}: {len(html) / 1e3:.0f} kB; open it in a browser")


def _verify(args: argparse.Namespace) -> None:
    from .bundle import verify

    for line in verify(args.bundle, args.provider):
        print(line)
