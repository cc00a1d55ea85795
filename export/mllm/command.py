"""`rar-export mllm`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from rar.runtime.errors import ExportError

from ..graphs.variants import VARIANTS
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
        "adds them to a bundle only if they agree. Needs the extra export. Ready-made ONNX graphs (--onnx) need no "
        "PyTorch.",
        epilog="Examples: rar-export mllm BUNDLE --model HuggingFaceTB/SmolVLM-256M-Instruct --precision int8; "
        "rar-export mllm BUNDLE --model ./qwen2.5-vl-3b --adapter ./finetuned --precision int4; "
        "rar-export mllm BUNDLE --onnx ./SmolVLM-256M-Instruct --variant vision=q4,embed=fp16,decoder=q4",
    )
    mllm.add_argument("out", metavar="OUT", help="a new folder, or a bundle without an MLLM")
    origin = mllm.add_mutually_exclusive_group(required=True)
    origin.add_argument("--model", metavar="DIR_OR_HUB", help="a Hugging Face folder or a hub name")
    origin.add_argument(
        "--onnx",
        metavar="DIR",
        help="a folder with onnx/vision_encoder.onnx, onnx/embed_tokens.onnx and onnx/decoder_model_merged.onnx, as "
        "transformers.js and optimum have them: SmolVLM, Idefics3, FastVLM, LLaVA-OneVision",
    )
    mllm.add_argument(
        "--variant",
        metavar="NAME",
        help="which of the folder's graphs --onnx takes, by the suffix of their names: one for all, or one a graph, as "
        f"vision=q4,embed=fp16,decoder=q4; {', '.join(VARIANTS)} (default: fp32, without a suffix)",
    )
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
    if args.onnx:
        _ready(args)
        return
    if args.variant:
        raise ExportError("--variant chooses among the graphs of a folder; give it with --onnx DIR")
    from . import export, source

    info = export.export_mllm(source.load(args.model, args.tiles), args.out, args.precision, args.adapter)
    logits = info["parity"]["logits"]
    figures = ", ".join(f"{key} {value:.3g}" for key, value in logits.items() if key != "count")
    print(f"{args.out}: {info['source']}, {args.precision}, against transformers: {figures}")


def _ready(args: argparse.Namespace) -> None:
    from .ready import export_ready

    if args.precision != "fp32" or args.adapter or args.tiles:
        raise ExportError(
            "--onnx takes graphs as they are; leave --precision, --adapter and --tiles out, and choose by --variant"
        )
    info = export_ready(args.onnx, args.out, args.variant)
    kinds = ", ".join(f"{name} {kind}" for name, kind in info["precision"].items())
    fewer = set(info["precision"].values()) != {"fp32"}
    told = "there are no fp32 graphs beside them to compare with" if fewer else "taken as they are"
    if (logits := info["parity"]["logits"]) is not None:
        figures = ", ".join(f"{key} {value:.3g}" for key, value in logits.items() if key != "count")
        told = f"against {', '.join(dict.fromkeys(info['held_to'].values()))}: {figures}"
    print(f"{args.out}: {info['source']}, {kinds}, {told}")
