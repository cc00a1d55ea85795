"""4-bit weights in blocks of 32, and 8 bits for the most sensitive ones, in at most a fifth of the fp32 size.

A block is `scale * code + offset` with codes 0 ... 15. `MatMulNBits` has no offset but a middle code of 8, so the rest
of the offset is a separate product: the sums of the input's blocks times the offsets, 1/32 of the work. This is the
form of GGUF's Q4_1, whose weights it keeps bit for bit. Integer zero points do not (SmolLM2-135M, five texts:
divergence 0.56 nats against 0.00), and other weights are also approximated better.

LoRA's changes to weights on such a grid are smaller than a step, and rounding would remove them. So `adapter.merge`
keeps them beside the weights as thin products, which are stored at fp16.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..graphs.weights import Floats, Product, Range, Rewriter
from .adapter import THIN

BLOCK = 32
# Limit as a share of the fp32 weights, without the graph itself.
SHARE = 0.195
_ACCURACY = 4  # the input at 8 bits, with a scale per block
# Factors that shrink a block's range; 1 keeps weights on a grid of 16 values unchanged.
_RANGES = (1.0, 0.95, 0.9, 0.85)
_CHUNK = 1 << 22
# Bytes per weight: codes, and fp16 scale and offset.
_BYTES4, _BYTES8 = (4 + 16 / BLOCK * 2) / 8, (8 + 16 / BLOCK) / 8

Codes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class _Blocks:
    """A matrix as blocks of its columns: codes [N, K / 32, 32], float16 scales and offsets [N, K / 32]."""

    codes: Codes
    scales: npt.NDArray[np.float16]
    offsets: npt.NDArray[np.float16]


def quantize(source: Path, target: Path, ranges: Mapping[str, Range]) -> float:
    """Writes a graph with products of 4 and 8 bits.

    Args:
        source: The fp32 graph.
        target: The graph to write.
        ranges: The result of `weights.measure`.

    Returns:
        The share of the weights that have 8 bits.
    """
    rewriter = Rewriter(source)
    products = [product for product in rewriter.products if not _thin(product) and len(product.weight) % BLOCK == 0]
    thin = [product for product in rewriter.products if _thin(product)]
    for product in thin:
        rewriter.replace(product.place)
        narrow = _widened(rewriter, "thin", product.weight.astype(np.float16))
        rewriter.add("MatMul", [product.input, narrow], product.output)
    errors = []
    blocks = []
    for product in products:
        packed_error = _four_bits(product.weight, ranges[product.input].square)
        blocks.append(packed_error[0])
        errors.append(packed_error[1])
    sizes = [product.weight.size for product in products]
    eight = _choose(rewriter.weigh(), 4 * sum(product.weight.size for product in thin), sizes, errors)
    sums: dict[str, str] = {}
    for number, product in enumerate(products):
        rewriter.replace(product.place)
        found_output = "" if product.bias else product.output
        if number in eight:
            result = _multiply_eight(rewriter, product, found_output)
        else:
            result = _multiply_four(rewriter, product, blocks[number], sums, found_output)
        if product.bias:
            rewriter.add("Add", [result, product.bias], product.output)
    rewriter.save(target)
    return sum(sizes[number] for number in eight) / sum(sizes)


def _thin(product: Product) -> bool:
    return not product.bias and min(product.weight.shape) <= THIN


def _choose(total: int, thin: int, sizes: list[int], errors: list[float]) -> set[int]:
    """The products that get 8 bits: those with the largest error per byte that fit into the share.

    Args:
        total: Bytes of all weights at fp32.
        thin: Bytes at fp32 of the weights that become fp16.
        sizes: Number of weights of each product.
        errors: Its error with 4 bits.
    """
    left = SHARE * total - (total - thin // 2 - 4 * sum(sizes)) - _BYTES4 * sum(sizes)
    chosen = set()
    for number in sorted(range(len(sizes)), key=lambda number: -errors[number] / sizes[number]):
        extra = (_BYTES8 - _BYTES4) * sizes[number]
        if errors[number] > 1e-9 and extra <= left:
            chosen.add(number)
            left -= extra
    return chosen


def _four_bits(weight: Floats, square: Floats) -> tuple[_Blocks, float]:
    """Blocks of a matrix, and the share of the output's energy that is lost.

    Args:
        weight: float32 [K, N].
        square: Mean square of the input's channels [K].
    """
    count, columns = weight.shape
    importance = (square + square.mean() * 1e-3 + 1e-12).reshape(-1, BLOCK)
    parts, lost, energy = [], 0.0, 0.0
    step = max(1, _CHUNK // count)
    for start in range(0, columns, step):
        block = np.ascontiguousarray(weight[:, start : start + step].T).reshape(-1, count // BLOCK, BLOCK)
        part, error = _fit(block, importance)
        parts.append(part)
        lost += error
        energy += float((block**2 * importance).sum())
    joined = (np.concatenate([getattr(part, name) for part in parts]) for name in ("codes", "scales", "offsets"))
    return _Blocks(*joined), lost / max(energy, 1e-30)


def _fit(block: Floats, importance: Floats) -> tuple[_Blocks, float]:
    low, high = block.min(-1), block.max(-1)
    best = np.full(low.shape, np.inf, np.float32)
    codes = np.zeros(block.shape, np.uint8)
    scales, offsets = np.zeros(low.shape, np.float16), np.zeros(low.shape, np.float16)
    for share in _RANGES:
        scale = np.maximum((high - low) * (share / 15), 1e-7).astype(np.float16)
        offset = (low + (high - low) * ((1 - share) / 2)).astype(np.float16)
        wide, base = scale.astype(np.float32)[..., None], offset.astype(np.float32)[..., None]
        tried = np.clip(np.rint((block - base) / wide), 0, 15)
        error = ((tried * wide + base - block) ** 2 * importance).sum(-1)
        better = error < best
        best[better], codes[better] = error[better], tried[better].astype(np.uint8)
        scales[better], offsets[better] = scale[better], offset[better]
    return _Blocks(codes, scales, offsets), float(best.sum())


def _multiply_four(rewriter: Rewriter, product: Product, blocks: _Blocks, sums: dict[str, str], output: str) -> str:
    count = len(product.weight)
    packed = blocks.codes[..., 0::2] | np.left_shift(blocks.codes[..., 1::2], 4)
    middle = blocks.offsets.astype(np.float32) + 8 * blocks.scales.astype(np.float32)
    scaled = _nbits(rewriter, product, packed, blocks.scales, 4)
    if product.input not in sums:
        shape = rewriter.constant("blocks", np.array([0, 0, count // BLOCK, BLOCK]))
        parts = rewriter.add("Reshape", [product.input, shape])
        sums[product.input] = rewriter.add("ReduceSum", [parts, rewriter.constant("last", np.array([-1]))], keepdims=0)
    offsets = _widened(rewriter, "offsets", middle.T.astype(np.float16))
    return rewriter.add("Add", [scaled, rewriter.add("MatMul", [sums[product.input], offsets])], output)


def _multiply_eight(rewriter: Rewriter, product: Product, output: str) -> str:
    count = len(product.weight)
    block = np.ascontiguousarray(product.weight.T).reshape(-1, count // BLOCK, BLOCK)
    scales = np.maximum(np.abs(block).max(-1) / 127, 1e-7).astype(np.float16)
    codes = np.clip(np.rint(block / scales.astype(np.float32)[..., None]), -127, 127) + 128
    return _nbits(rewriter, product, codes.astype(np.uint8), scales, 8, output)


def _nbits(
    rewriter: Rewriter, product: Product, packed: Codes, scales: npt.NDArray[np.float16], bits: int, output: str = ""
) -> str:
    count, columns = product.weight.shape
    attributes: dict[str, Any] = {"K": count, "N": columns, "bits": bits, "block_size": BLOCK}
    inputs = [product.input, rewriter.constant("codes", packed), _widened(rewriter, "scales", scales)]
    return rewriter.add("MatMulNBits", inputs, output, domain="com.microsoft", accuracy_level=_ACCURACY, **attributes)


def _widened(rewriter: Rewriter, name: str, value: npt.NDArray[np.float16]) -> str:
    """A constant that is stored at fp16; ONNX Runtime widens it when it opens the graph."""
    return rewriter.add("Cast", [rewriter.constant(name, value)], to=1)
