"""`rar-export triton`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..options import Commands


def add_parsers(commands: Commands) -> None:
    """Adds the sub-command to those of `rar-export`."""
    parser = commands.add_parser(
        "triton",
        help="a bundle as a model of NVIDIA's Triton server",
        description="Writes a model into a Triton model repository: the Python backend runs the bundle where it lies, "
        "and the server makes batches of what comes together. The server's Python needs rar-runtime.",
    )
    parser.add_argument("bundle", metavar="BUNDLE")
    parser.add_argument("repository", metavar="REPO", help="the model repository; made where it is not there")
    parser.add_argument("--name", default="rar", help="of the model (default: %(default)s)")
    parser.add_argument("--k", type=int, help="candidates a picture (default: 5, or all classes of fewer)")
    parser.add_argument("--rank", help="what orders the candidates (default: the bundle's own choice)")
    parser.add_argument("--provider", default="auto", help="what runs the models (default: the best there is)")
    parser.add_argument("--batch", type=int, default=16, metavar="N", help="pictures at once (default: %(default)s)")
    parser.add_argument(
        "--delay-us", type=int, default=0, metavar="US", help="a batch waits so long for more (default: %(default)s)"
    )
    parser.add_argument(
        "--instances", type=int, default=1, metavar="N", help="processes, on a GPU server of each GPU (default: 1)"
    )
    parser.add_argument("--device", choices=["cpu", "gpu"], default="cpu", help="of the instances (default: cpu)")
    parser.add_argument("--threads", type=int, metavar="N", help="of each instance (default: one a core, shared)")
    parser.set_defaults(run=_triton)


def _triton(args: argparse.Namespace) -> None:
    from .repository import Model, write_model

    model = Model(
        args.bundle,
        k=args.k,
        rank=args.rank,
        provider=args.provider,
        batch=args.batch,
        delay_us=args.delay_us,
        instances=args.instances,
        device=args.device,
        threads=args.threads,
    )
    print(write_model(args.repository, args.name, model))
