"""Ready-made ONNX graphs at several precisions, as model hubs hold them for transformers.js."""

from __future__ import annotations

from collections.abc import Mapping

# Variant, which is the suffix of a file's name (none for fp32) -> the limits that it is held to: a key of `LIMITS`.
VARIANTS: Mapping[str, str] = {
    "fp32": "fp32",
    "fp16": "fp16",
    "int8": "int8",
    "uint8": "int8",
    "quantized": "int8",
    "q4": "int4",
    "q4f16": "int4",
    "bnb4": "int4",
}
