"""`rar-export clip`."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rar.runtime.errors import ExportError

from ..graphs.variants import VARIANTS
from ..options import add_precision

if TYPE_CHECKING:
    from ..options import Commands


def add_parsers(commands: Commands) -> None:
    """Adds the sub-command to those of `rar-export`."""
    clip = commands.add_parser(
        "clip",
        help="an encoder from open_clip or Hugging Face",
        description="Exports both towers to ONNX, compares them with PyTorch on real pictures and texts, and writes "
        "a new bundle only if they agree. Needs the extra export. Ready-made ONNX graphs (--onnx) need no PyTorch.",
        epilog="Examples: rar-export clip OUT --model ViT-B-32 --pretrained laion2b_s34b_b79k --precision int8; "
        "rar-export clip OUT --model my_config.json --pretrained my_checkpoint.pt; rar-export clip OUT --hf ./siglip; "
        "rar-export clip OUT --onnx ./clip-vit-base-patch32 --variant quantized",
    )
    clip.add_argument("out", metavar="OUT", help="folder of the new bundle")
    origin = clip.add_mutually_exclusive_group(required=True)
    origin.add_argument("--model", help="an open_clip name, a folder with open_clip_config.json, or a config .json")
    origin.add_argument(
        "--hf",
        metavar="DIR",
        help="a Hugging Face folder or hub name: CLIP, MetaCLIP 2, SigLIP (2), DINOv2, DINOv3",
    )
    origin.add_argument(
        "--onnx",
        metavar="DIR",
        help="a folder with onnx/vision_model.onnx and onnx/text_model.onnx, as transformers.js and optimum have them: "
        "CLIP, MetaCLIP 2, SigLIP (2)",
    )
    clip.add_argument(
        "--variant",
        choices=list(VARIANTS),
        help="which of the folder's graphs --onnx takes, by the suffix of their names (default: fp32, without one)",
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
    from .templates import read_templates

    templates = read_templates(args.template or ())
    if args.variant and not args.onnx:
        raise ExportError("--variant chooses among the graphs of a folder; give it with --onnx DIR")
    info = _ready(args, templates) if args.onnx else _traced(args, templates)
    print(f"now fill its memory: rar-export memory {args.out} --images FOLDER")
    if not info["templates"]:
        print("it has no text tower: classes are known by their pictures only")


def _traced(args: argparse.Namespace, templates: tuple[str, ...]) -> dict[str, Any]:
    from . import huggingface, openclip
    from .export import export_clip

    encoder = huggingface.load(args.hf) if args.hf else openclip.load(args.model, args.pretrained)
    if templates and encoder.text is None:
        raise ExportError(f"{encoder.source}: sees pictures only, so --template has nothing to write; leave it out")
    if templates:
        encoder = replace(encoder, templates=templates)
    info = export_clip(encoder, args.out, args.precision, args.images)
    cosine = info["parity"]["visual"]["min"]
    print(f"{args.out}: {info['source']}, {info['dim']}-d, {args.precision}, cosine to PyTorch at least {cosine:.5f}")
    return info


def _ready(args: argparse.Namespace, templates: tuple[str, ...]) -> dict[str, Any]:
    from .ready import export_ready

    info = export_ready(args.onnx, args.out, args.variant or "fp32", args.precision, args.images, templates)
    told = "no fp32 graphs beside them to compare with" if args.variant not in (None, "fp32") else "taken as they are"
    if compared := info["parity"]:
        least = min(tower["min"] for tower in compared.values())
        told = f"cosine to the fp32 graphs at least {least:.5f}"
        if len(compared) < len(info["scheme"]):
            told += f" ({', '.join(compared)} only: there is no other fp32 graph)"
    print(f"{args.out}: {info['source']}, {info['dim']}-d, {info['scheme']['visual']}, {told}")
    return info
