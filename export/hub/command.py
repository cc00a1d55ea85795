"""`rar-export push` and `pull`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..options import Commands

_NEEDS = "Needs the extra `hub`; which hub and which token, huggingface_hub's variables and `hf auth login` say."


def add_parsers(commands: Commands) -> None:
    """Adds the sub-commands to those of `rar-export`."""
    _push_parser(commands)
    _pull_parser(commands)


def _push_parser(commands: Commands) -> None:
    push = commands.add_parser(
        "push",
        help="puts a bundle into a repository of a model hub",
        description="Verifies a bundle and uploads its manifest and the files that it lists, in one commit; nothing "
        f"else that lies in the folder. {_NEEDS}",
    )
    push.add_argument("bundle", metavar="BUNDLE")
    push.add_argument("repo", metavar="USER/NAME", help="the repository; made if there is none")
    push.add_argument("--private", action="store_true", help="make it private; one that is public is refused")
    push.add_argument("--message", metavar="TEXT", default="A bundle of rar-runtime", help="of the commit")
    push.set_defaults(run=_push)


def _pull_parser(commands: Commands) -> None:
    pull = commands.add_parser(
        "pull",
        help="makes a folder of a bundle in a repository of a model hub",
        description="Fetches a bundle's manifest and the files that it lists, compares each with its hash there, and "
        f"writes a new folder, all of it or nothing. What is in the cache needs no network. {_NEEDS}",
    )
    pull.add_argument("repo", metavar="USER/NAME")
    pull.add_argument("out", metavar="OUT", help="a new folder")
    pull.add_argument("--revision", metavar="REV", help="a commit of 40 hex digits, a branch or a tag (default: main)")
    pull.set_defaults(run=_pull)


def _push(args: argparse.Namespace) -> None:
    from rar.runtime.bundle.hub import check_repo, library
    from rar.runtime.cli.printable import printable

    from ..inspect.bundle import verify
    from .push import check_whole, push

    check_repo(args.repo)  # before minutes of checks
    library()
    check_whole(args.bundle)
    for line in verify(args.bundle):
        print(line)
    commit = printable(push(args.bundle, args.repo, private=args.private, message=args.message))
    print(f"{args.repo}: is commit {commit}; fetch it with: rar-export pull {args.repo} OUT --revision {commit}")


def _pull(args: argparse.Namespace) -> None:
    from rar.runtime.bundle.files import sha256
    from rar.runtime.bundle.manifest import MANIFEST

    from .pull import pull

    bundle, commit = pull(args.repo, args.out, args.revision)
    files = sum(len(component.files) for component in bundle.components.values())
    print(f"{bundle.root}: {args.repo} at commit {commit}, {files} files as listed")
    if any(name.startswith("engines/") for name in bundle.components):
        print("engines: compiled code; name another provider than `auto` and `engine` unless you trust who made them")
    print(f"{MANIFEST}: SHA-256 {sha256(bundle.root / MANIFEST)}")
