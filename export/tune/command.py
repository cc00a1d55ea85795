"""`rar-export tune`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from ..options import SOURCE, add_device

if TYPE_CHECKING:
    from ..options import Commands


def add_parsers(commands: Commands) -> None:
    """Adds the sub-command to those of `rar-export`."""
    tune = commands.add_parser(
        "tune",
        help="fits texts' weight, ranker, fusion, gate and what is refused on held-out pictures, and stores them",
        description="Fits how much texts count beside pictures in the retrieval, runs every ranker of a bundle on "
        "held-out pictures, fits how much the similarity and the memory's discriminant count beside its scores and "
        "from which margin on it may be left out, and makes the best the bundle's default where it gains. What gains "
        "nothing is not used. Fits too from which probability on a picture is taken to show none of the classes. Works "
        "where PyTorch is not installed.",
    )
    tune.add_argument("bundle", metavar="BUNDLE")
    tune.add_argument("--val", metavar="SRC", required=True, help=f"pictures that are not in the memory: {SOURCE}")
    tune.add_argument("--k", type=int, default=5, help="candidates a picture (default: %(default)s)")
    tune.add_argument(
        "--loss",
        type=float,
        default=0.3,
        metavar="POINTS",
        help="points of top-1 that the gate may cost (default: %(default)s)",
    )
    tune.add_argument(
        "--false-rejections",
        type=float,
        default=5.0,
        metavar="PERCENT",
        help="pictures of the memory's classes that --unknown reject may refuse (default: %(default)s)",
    )
    tune.add_argument("--keep-weight", action="store_true", help="leave the texts' weight as it was set by hand")
    add_device(tune)
    tune.set_defaults(run=_tune)


def _tune(args: argparse.Namespace) -> None:
    from ..pictures import labelled
    from .fit import ranker_name, tune

    images = labelled.read_images(args.val)
    tuned = tune(
        args.bundle,
        images,
        args.k,
        args.loss,
        args.provider,
        args.threads,
        weigh=not args.keep_weight,
        false_rejections=args.false_rejections,
    )
    measured, tuning = tuned.measured, tuned.tuning
    print(
        f"{measured['pictures']} pictures, k={measured['k']}: retrieval {measured['retrieval']:.1f}, "
        f"true class among the candidates {measured['in_k']:.1f}"
    )
    if tuning.first is not None:
        print(f"candidates drawn by the discriminant too: true class among them {measured['drawn_in_k']:.1f}")
    if (weighing := measured.get("weighing")) is not None and weighing["top1"] > weighing["before"]:
        print(
            f"text weight {weighing['text_weight']:g}, {'' if weighing['centred'] else 'not '}centred: "
            f"{weighing['before']:.1f} before"
        )
    for row in measured["rankers"]:
        told = "not used: gains nothing here"
        if row["fusion"] is not None:
            told = f"fused {row['fused_top1']:5.1f} (similarity {row['fusion']:.3g}"
            told += f", discriminant {row['discriminant']:.3g})" if row["discriminant"] else ")"
        print(f"{ranker_name(row):<24} alone {row['top1']:5.1f}   {told}   {row['milliseconds']:.1f} ms a picture")
    gate = measured["gates"][tuning.gate_by]
    stored = tuning.stored()
    print(
        f"best: {' '.join(str(stored[key]) for key in ('rank', 'mode') if key in stored)}; "
        f"gate by {tuning.gate_by} at {gate['margin']:.4g}: {100 * gate['skipped']:.0f} % skip the ranker, "
        f"{gate['top1']:.1f}"
    )
    if (unknown := measured.get("unknown")) is not None and tuning.strangers is not None:
        print(
            f"none of these: refused from {tuning.strangers.limit:.3f}, {unknown['false_rejections']:.1f} % of these "
            f"pictures, and {unknown['refused']:.1f} % where their class is left out (AUROC {unknown['auroc']:.3f})"
        )
    if tuned.default == "none":
        print("no ranker gains anything here, so the bundle goes on with retrieval alone")
