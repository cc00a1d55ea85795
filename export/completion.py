"""`rar-export completion`: what makes a shell complete the commands."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .options import Commands

SHELLS = ("bash", "zsh", "tcsh")


def add_parsers(commands: Commands) -> None:
    """Adds the sub-command to those of `rar-export`."""
    completion = commands.add_parser(
        "completion",
        help="what makes bash, zsh or tcsh complete the commands",
        description="Prints a script for a shell. Needs the extra `completion`.",
    )
    completion.add_argument("shell", metavar="SHELL", choices=SHELLS, help=", ".join(SHELLS))
    completion.add_argument(
        "program", metavar="PROGRAM", nargs="?", default="rar-export", choices=("rar-export", "rar-recognize"),
        help="rar-export (the default) or rar-recognize",
    )  # fmt: skip
    completion.set_defaults(run=_completion)


def _completion(args: argparse.Namespace) -> None:
    import shtab

    from rar.runtime.cli import recognize

    from . import cli

    parser = cli.parser() if args.program == "rar-export" else recognize.parser()
    for action in _values(parser):
        action.complete = shtab.FILE  # type: ignore[attr-defined]  # where shtab looks for it
    print(shtab.complete(parser, args.shell))


def _values(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """The arguments that take what is no choice of a few: mostly a file or folder."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                yield from _values(inner)
        elif action.choices is None and action.nargs != 0 and action.type is None:
            yield action
