"""`rar-bench grain-latency`: a GRAIN B/16 picture tower, regions included, beside CLIP's B/16, both at random weights.

Time does not depend on the weights. Each round runs both graphs one after the other, so that the ratio is paired. The
fp32 GRAIN graph is compared with PyTorch at batches of 1, 2 and 5.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from rar.export.grain.config import SIZES
from rar.export.grain.export import dual_encoder
from rar.export.grain.model import Grain
from rar.export.graphs.precisions import Precision, convert
from rar.export.graphs.trace import export_onnx
from rar.runtime.session import OnnxSession

from .. import record

_PRECISIONS: tuple[Precision, ...] = ("fp32", "int8")
_BATCHES = (1, 8)
_PARITY_BATCHES = (1, 2, 5)
_OUTPUTS = ("image_embeds", "region_embeds", "region_boxes")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    parser.add_argument("--size", choices=list(SIZES), default="vit-b16", help="of GRAIN (default: %(default)s)")
    parser.add_argument("--plain", default="ViT-B-16", help="open_clip's name beside it (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=10, help="default: %(default)s")
    parser.add_argument("--threads", type=int, metavar="N", help="default: one a core")
    parser.add_argument("--out", metavar="FILE", help="write the result as JSON")


def run(args: argparse.Namespace) -> int:
    """Exports, compares, measures, prints and writes."""
    import open_clip

    torch.manual_seed(0)
    grain = dual_encoder(Grain(SIZES[args.size]).eval(), args.size).visual
    plain = _Plain(open_clip.create_model(args.plain, pretrained=None, device="cpu").eval()).eval()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        side = SIZES[args.size].image
        export(grain, folder / "grain.onnx", _OUTPUTS, side)
        export(plain, folder / "plain.onnx", _OUTPUTS[:1], side)
        parity = compare(grain, folder / "grain.onnx", side, args.threads)
        for precision in _PRECISIONS:
            sessions = {}
            for name in ("plain", "grain"):
                convert(folder / f"{name}.onnx", folder / f"{name}-{precision}.onnx", precision, [])
                sessions[name] = OnnxSession(folder / f"{name}-{precision}.onnx", "cpu", args.threads)
            for batch in _BATCHES:
                rows.append({"precision": precision, "batch": batch, **time(sessions, batch, side, args.rounds)})
                print(
                    f"{precision}, batch {batch}: plain {rows[-1]['plain']['median']:.1f} ms a picture, "
                    f"GRAIN {rows[-1]['grain']['median']:.1f}, ratio {rows[-1]['ratio']['median']:.3f}"
                )
    print(f"largest difference to PyTorch, batch {_PARITY_BATCHES}: {parity}")
    result = {
        "environment": record.environment(args.threads),
        "size": args.size,
        "plain": args.plain,
        "largest_difference": parity,
        "results": rows,
    }
    record.write(result, args.out)
    return 0


class _Plain(torch.nn.Module):
    """CLIP's picture tower."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: torch.Tensor) -> Any:
        return self.network.encode_image(pixels, normalize=True)  # type: ignore[operator]


def export(module: torch.nn.Module, path: Path, outputs: tuple[str, ...], side: int) -> None:
    """A picture tower as fp32 ONNX."""
    example = torch.randn(2, 3, side, side)
    export_onnx(module, [example], path, inputs=["pixel_values"], outputs=list(outputs), dynamic=[(0,)])


def compare(module: torch.nn.Module, path: Path, side: int, threads: int | None) -> dict[str, float]:
    """The largest difference of an element of each output, over the batches."""
    session = OnnxSession(path, "cpu", threads)
    worst = dict.fromkeys(_OUTPUTS, 0.0)
    for batch in _PARITY_BATCHES:
        pixels = torch.randn(batch, 3, side, side)
        with torch.inference_mode():
            expected = module(pixels)
        outputs = session.run({"pixel_values": pixels.numpy()})
        for name, value in zip(_OUTPUTS, expected, strict=True):
            worst[name] = max(worst[name], float(np.abs(outputs[name] - value.numpy()).max()))
    return worst


def time(sessions: dict[str, OnnxSession], batch: int, side: int, rounds: int) -> dict[str, Any]:
    """Milliseconds a picture of each graph, and their ratio round by round."""
    pixels = {"pixel_values": np.random.default_rng(0).normal(size=(batch, 3, side, side)).astype(np.float32)}
    taken: dict[str, list[float]] = {name: [] for name in sessions}
    for number in tqdm(range(rounds + 2), desc=f"batch {batch}", disable=None):
        for name, session in sessions.items():
            start = perf_counter()
            session.run(pixels)
            if number >= 2:  # the first ones warm up
                taken[name].append(1e3 * (perf_counter() - start) / batch)
    ratios = [ours / theirs for ours, theirs in zip(taken["grain"], taken["plain"], strict=True)]
    return {**{name: record.spread(values) for name, values in taken.items()}, "ratio": record.spread(ratios)}
