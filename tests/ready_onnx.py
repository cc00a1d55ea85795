"""Folders in the layout of transformers.js and optimum: ready-made ONNX graphs beside the JSON files of a model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
import tiny_clip

JSON = ("config.json", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json")


def write_light(folder: Path) -> Path:
    """The tiny CLIP of `tiny_clip`, without PyTorch, its settings as old files have them."""
    (folder / "onnx").mkdir(parents=True)
    pieces = tiny_clip.tokenizer()
    tiny_clip.write_visual(folder / "onnx" / "vision_model.onnx")
    tiny_clip.write_text(
        folder / "onnx" / "text_model.onnx", pieces.get_vocab_size(), pieces.token_to_id(tiny_clip.END)
    )
    for tower in ("vision", "text"):
        whole(folder / "onnx" / f"{tower}_model.onnx")
    pieces.no_truncation()
    pieces.no_padding()
    pieces.save(str(folder / "tokenizer.json"))
    settings = {
        "config.json": {"model_type": "clip", "text_config": {"max_position_embeddings": tiny_clip.LENGTH}},
        "tokenizer_config.json": {"pad_token": {"content": tiny_clip.PAD}},
        "preprocessor_config.json": {
            "do_center_crop": True, "crop_size": tiny_clip.SIDE, "size": tiny_clip.SIDE, "resample": 3,
            "image_mean": [0.48, 0.46, 0.41], "image_std": [0.27, 0.26, 0.28],
        },
    }  # fmt: skip
    for name, value in settings.items():
        (folder / name).write_text(json.dumps(value))
    return folder


def whole(path: Path) -> None:
    """Puts a graph's weights into its file, as hubs have them."""
    model = onnx.load(str(path))
    path.with_name(f"{path.name}.data").unlink()
    onnx.save(model, str(path))


def write_variant(folder: Path, variant: str) -> None:
    """Adds both towers at a variant, made by ONNX Runtime's tools as the hubs' are.

    `int8` has products of int8 weights alone: a CPU has no such convolution.
    """
    for tower in ("vision", "text"):
        full, target = (folder / "onnx" / f"{tower}_model{suffix}.onnx" for suffix in ("", f"_{variant}"))
        convert(full, target, variant)


def convert(full: Path, target: Path, variant: str, left: Sequence[str] = ()) -> None:
    """Writes a graph at a variant, made by ONNX Runtime's tools as the hubs' are.

    Args:
        full: The graph at fp32.
        target: The graph to write.
        variant: A key of `VARIANTS`.
        left: Names of products that four bits leave as they are.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.matmul_bnb4_quantizer import MatMulBnb4Quantizer
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
    from onnxruntime.transformers.float16 import convert_float_to_float16

    if variant in ("quantized", "uint8"):
        quantize_dynamic(full, target, weight_type=QuantType.QUInt8)
        return
    if variant == "int8":
        quantize_dynamic(full, target, op_types_to_quantize=["MatMul", "Gemm"], weight_type=QuantType.QInt8)
        return
    model = onnx.load(str(full))
    if variant == "bnb4":
        bnb4 = MatMulBnb4Quantizer(model, MatMulBnb4Quantizer.NF4, block_size=64, nodes_to_exclude=list(left))
        bnb4.process()
        model = bnb4.model.model
    if variant.startswith("q4"):
        quantizer = MatMulNBitsQuantizer(model, block_size=32, is_symmetric=True, nodes_to_exclude=list(left))
        quantizer.process()
        model = quantizer.model.model
    if variant.endswith("16"):
        model = convert_float_to_float16(model, keep_io_types=True)
    onnx.save(model, str(target))


def write_traced(source: Path, folder: Path) -> Path:
    """A model of transformers with the outputs that such files have: embeddings that are not normalised, and states."""
    import torch
    import transformers

    from rar.export.graphs.trace import export_onnx

    (folder / "onnx").mkdir(parents=True)
    for path in source.glob("*.json"):
        shutil.copy(path, folder)
    network: Any = transformers.AutoModel.from_pretrained(source).eval()
    siglip = network.config.model_type == "siglip"
    side = network.config.vision_config.image_size

    class Tower(torch.nn.Module):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.tower = getattr(network, f"{name}_model")
            self.project = torch.nn.Identity() if siglip else getattr(network, f"{name[:6]}_projection")

        def forward(self, values: torch.Tensor) -> Any:
            outputs = self.tower(values)
            return outputs.last_hidden_state, self.project(outputs.pooler_output)

    towers = {
        "vision": (torch.zeros(2, 3, side, side), "pixel_values", "image_embeds", (0,)),
        "text": (torch.zeros(2, 9, dtype=torch.int64), "input_ids", "text_embeds", (0, 1)),
    }
    if not siglip:
        network.vision_projection = network.visual_projection
    for name, (example, taken, given, free) in towers.items():
        path = folder / "onnx" / f"{name}_model.onnx"
        outputs = ["last_hidden_state", "pooler_output" if siglip else given]
        module = Tower(name).eval()
        export_onnx(module, [example], path, inputs=[taken], outputs=outputs, dynamic=[free])
        if path.with_name(f"{path.name}.data").exists():
            whole(path)
    return folder


def edit(path: Path, change: Any) -> None:
    """Rewrites a graph by a function of it."""
    model = onnx.load(str(path), load_external_data=False)
    change(model)
    onnx.save(model, str(path))
