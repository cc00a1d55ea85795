"""`rar-recognize --engine ray`: the options of a job that a cluster answers; `rar.serving` runs it."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from ..errors import InputError
from ..loop import Asked


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of a job."""
    job = parser.add_argument_group("many pictures on many machines; IMAGE is then a folder, a glob or Parquet")
    job.add_argument("--engine", choices=["ray"], help="answer on a Ray cluster, into the folder --out (extra `ray`)")
    job.add_argument("--address", metavar="A", help="of the cluster, such as auto (default: one for this job, here)")
    job.add_argument("--resume", action="store_true", help="go on where a job into the same folder was stopped")
    job.add_argument("--id", metavar="COLUMN", help="what tells rows of Parquet apart (default: path)")


def check(args: argparse.Namespace) -> None:
    """Checks that the options go together.

    Raises:
        InputError: One of a job is given without one, or a job with what it has not.
    """
    if args.engine is None:
        given = {"--address": args.address, "--resume": args.resume or None, "--id": args.id}
        wrong = [option for option, value in given.items() if value is not None]
        if wrong:
            raise InputError(f"{wrong[0]} goes only with --engine")
    elif args.out is None or not args.images:
        raise InputError("--engine needs pictures and --out with a folder for the answers")
    elif args.json:
        raise InputError("--engine writes Parquet files; leave --json out")


def run(args: argparse.Namespace, asked: Asked, opened: Mapping[str, Any]) -> int:
    """Runs the job.

    Returns:
        0, or 2 if a picture has no answer.

    Raises:
        RarError: See `rar.serving.ray.job.run`.
    """
    # The one place where the runtime reaches for what is built on it, and only where a user asks.
    from rar.serving.ray import job

    settings = {"threads": args.threads} if args.threads is not None else {}
    identity = {"identity": args.id} if args.id is not None else {}
    what = job.Job(args.bundle, args.images, args.out, asked, opened, resume=args.resume, **settings, **identity)
    return job.run(what, args.address)
