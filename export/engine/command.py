"""`rar-export engine`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rar.export.options import Commands


def add_parsers(commands: Commands) -> None:
    """Adds the sub-command to those of `rar-export`."""
    parser = commands.add_parser(
        "engine",
        help="TensorRT engines for a GPU, also on a machine without one",
        description="Builds an engine of each graph of a bundle and stores it there; what is there already is kept. "
        "TensorRT-RTX builds for RTX cards on any machine (extra tensorrt), TensorRT for the GPU of this one (part of "
        "JetPack; elsewhere from NVIDIA's package index). An engine is compared with fp32 when it is first "
        "opened on its target. Bundles that were quantised for ONNX Runtime (int8, int4) cannot be built from.",
        epilog="Examples: rar-export engine BUNDLE --target sm89; rar-export engine BUNDLE --precision int8",
    )
    parser.add_argument("bundle", metavar="BUNDLE")
    parser.add_argument("--target", metavar="ARCH", help="compute capability, such as sm89 (default: this GPU's)")
    parser.add_argument(
        "--library",
        choices=["tensorrt", "tensorrt_rtx"],
        help="default: tensorrt_rtx for sm75, sm80, sm86, sm89, sm120 and sm121, tensorrt for others",
    )
    parser.add_argument(
        "--precision",
        choices=["fp32", "fp16", "int8", "fp8"],
        default="fp16",
        help="int8 and fp8 are for matrix products; convolutions and token tables stay fp16 (default: %(default)s)",
    )
    parser.add_argument(
        "--batch",
        type=int,
        nargs=3,
        default=[1, 8, 32],
        metavar=("MIN", "BEST", "MAX"),
        help="a larger batch is split (default: 1 8 32)",
    )
    parser.add_argument(
        "--tokens",
        type=int,
        metavar="N",
        help="new tokens a call of the MLLM takes (default: a picture's and 256, at least 512)",
    )
    parser.add_argument("--memory", type=int, metavar="MB", help="scratch memory that an engine may take on the device")
    parser.add_argument(
        "--images", metavar="DIR", help="pictures to calibrate activations on (default: photos that packages ship)"
    )
    parser.set_defaults(run=_engine)


def _engine(args: argparse.Namespace) -> None:
    from rar.runtime.bundle.manifest import Bundle
    from rar.runtime.errors import InputError
    from rar.runtime.session.checks import outcomes
    from rar.runtime.session.tensorrt.stored import engine_file

    from .profiles import Shapes
    from .store import Options, build_engines
    from .target import choose

    if args.memory is not None and args.memory < 1:
        raise InputError(f"--memory {args.memory}: give 1 MB or more")
    options = Options(
        precision=args.precision,
        shapes=Shapes(tuple(args.batch), args.tokens),
        memory=None if args.memory is None else args.memory * 2**20,
        images=args.images,
    )
    Bundle.open(args.bundle)
    library, target = choose(args.target, args.library)
    compared = {one.place.settings for one in outcomes(Bundle.open(args.bundle))}
    pending = False
    for outcome in build_engines(args.bundle, library, target, options):
        record = outcome.record
        size = engine_file(Bundle.open(args.bundle), record).stat().st_size
        flags = "".join(f", {flag}" for flag in record.key.flags)
        print(
            f"{record.graph}: {'built' if outcome.built else 'was there'}, {target}, {record.key.precision}{flags}, "
            f"{size / 1e6:.1f} MB"
        )
        pending |= record.key.sha256 not in compared
    if pending:
        print("not yet compared: the first `rar-recognize` or `Recognizer.open` on the target does it")
