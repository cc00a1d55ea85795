"""`rar-export clip`."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import TYPE_CHECKING

from rar.runtime.errors import ExportError

from ..options import add_precision

if TYPE_CHECKING:
    from ..options import Commands


def add_parsers(commands: Commands) -> None:
    """Adds the sub-command to those of `rar-export`."""
    clip = commands.add_parser(
        "clip",
        help="an encoder from open_clip or Hugging Face",
        description="Exports both towers to ONNX, compares them with PyTorch on real pictures and texts, and writes "
        "a new bundle only if they agree. Needs the extra export.",
        epilog="Examples: rar-export clip OUT --model ViT-B-32 --pretrained laion2b_s34b_b79k --precision int8; "
        "rar-export clip OUT --model my_config.json --pretrained my_checkpoint.pt; rar-export clip OUT --hf ./siglip",
    )
    clip.add_argument("out", metavar="OUT", help="folder of the new bundle")
    origin = clip.add_mutually_exclusive_group(required=True)
    origin.add_argument("--model", help="an open_clip name, a folder with open_clip_config.json, or a config .json")
    origin.add_argument(
        "--hf",
        metavar="DIR",
        help="a Hugging Face folder or hub name: CLIP, MetaCLIP 2, SigLIP (2), DINOv2, DINOv3",
    )
    clip.add_argument("--pretrained", metavar="TAG_OR_FILE", help="open_clip's weights: a tag or a checkpoint file")
    clip.add_argument(
        "--images",
        metavar="DIR",
        help="pictures to calibrate on and compare with (default: photos that packages ship)",
    )
    clip.add_argument(
        "--template",
        action="append",
        metavar="TEXT",
        help="how class names are written, with {} for the name; more than one are averaged, and `imagenet` is the 80 "
        "of CLIP's authors (default: a photo of a {}.)",
    )
    add_precision(clip, "fp32")
    clip.set_defaults(run=_clip)


def _clip(args: argparse.Namespace) -> None:
    from . import huggingface, openclip
    from .export import export_clip
    from .templates import read_templates

    templates = read_templates(args.template or ())
    encoder = huggingface.load(args.hf) if args.hf else openclip.load(args.model, args.pretrained)
    if templates and encoder.text is None:
        raise ExportError(f"{encoder.source}: sees pictures only, so --template has nothing to write; leave it out")
    if templates:
        encoder = replace(encoder, templates=templates)
    info = export_clip(encoder, args.out, args.precision, args.images)
    cosine = info["parity"]["visual"]["min"]
    print(f"{args.out}: {info['source']}, {info['dim']}-d, {args.precision}, cosine to PyTorch at least {cosine:.5f}")
    print(f"now fill its memory: rar-export memory {args.out} --images FOLDER")
    if encoder.text is None:
        print("it has no text tower: classes are known by their pictures only")
