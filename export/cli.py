"""`rar-export`: makes, fills, shows and checks bundles. Each sub-command imports only what it needs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from rar.runtime.cli.arguments import Parser
from rar.runtime.cli.guard import guard

from . import completion
from .encoder import command as encoder
from .engine import command as engine
from .exemplars import command as exemplars
from .finetune import command as finetune
from .grain import command as grain
from .hub import command as hub
from .inspect import command as inspect
from .interchange import command as interchange
from .memory import command as memory
from .mllm import command as mllm
from .starter import command as starter
from .triton import command as triton
from .tune import command as tune

# In the order of `rar-export --help`.
_ROOMS = (
    *(
        starter,
        encoder,
        mllm,
        memory,
        exemplars,
        interchange,
        tune,
        finetune,
        engine,
        grain,
        triton,
        inspect,
        hub,
        completion,
    ),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point. Returns 0, or 2 with one line on stderr if the input cannot be used."""
    args = parser().parse_args(argv)

    def run() -> int:
        args.run(args)
        return 0

    return guard(f"rar-export {args.command}", run, _extras(args))


def _extras(args: argparse.Namespace) -> str:
    """The extras with everything that a command needs."""
    if args.command == "engine":
        return "cpu,tensorrt"
    if args.command in ("clip", "mllm") and args.onnx:  # which needs no PyTorch
        return "cpu,starter"
    return "cpu,export,starter"


def parser() -> Parser:
    """What reads the command line."""
    top = Parser(prog="rar-export", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for room in _ROOMS:
        room.add_parsers(commands)
    return top


if __name__ == "__main__":
    sys.exit(main())
