"""`rar-export mllm`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from ..options import add_precision

if TYPE_CHECKING:
    from ..options import Commands


def add_parsers(commands: Commands) -> None:
    """Adds the sub-command to those of `rar-export`."""
    mllm = commands.add_parser(
        "mllm",
        help="a multimodal LLM that ranks what retrieval found",
        description="Exports a LLaVA-1.5, LLaVA-OneVision, FastVLM, SmolVLM, SmolVLM2, Idefics3, Qwen2.5-VL, Qwen3-VL, "
        "Gemma 3, InternVL (3 and 3.5) or LFM2-VL model to three ONNX graphs, compares them with transformers, and "
        "adds them to a bundle only if they agree. Needs the extra export.",
        epilog="Examples: rar-export mllm BUNDLE --model HuggingFaceTB/SmolVLM-256M-Instruct --precision int8; "
        "rar-export mllm BUNDLE --model ./qwen2.5-vl-3b --adapter ./finetuned --precision int4",
    )
    mllm.add_argument("out", metavar="OUT", help="a new folder, or a bundle without an MLLM")
    mllm.add_argument("--model", required=True, metavar="DIR_OR_HUB", help="a Hugging Face folder or a hub name")
    add_precision(mllm, "fp32", "int4", note="int8 and int4 are for CPUs, int4 where memory rules, fp16 for GPUs")
    mllm.add_argument("--adapter", metavar="DIR", help="what `rar-export finetune` wrote; merged first")
    mllm.add_argument(
        "--tiles",
        type=int,
        metavar="N",
        help="cut each picture into N by N tiles and a thumbnail, where the model has tiles (default: one tile)",
    )
    mllm.set_defaults(run=_mllm)


def _mllm(args: argparse.Namespace) -> None:
    from . import export, source

    info = export.export_mllm(source.load(args.model, args.tiles), args.out, args.precision, args.adapter)
    logits = info["parity"]["logits"]
    figures = ", ".join(f"{key} {value:.3g}" for key, value in logits.items() if key != "count")
    print(f"{args.out}: {info['source']}, {args.precision}, against transformers: {figures}")
