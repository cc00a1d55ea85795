"""A tiny CLIP of seeded random weights as a bundle: two transformers of two layers, written without PyTorch."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tiny_mllm import byte_level
from tokenizers import processors

from rar.export.encoder.model import TEMPLATES
from rar.export.graphs import checks, files
from rar.export.pictures.photos import checked_photos
from rar.runtime.bundle.change import stage
from rar.runtime.bundle.files import write_json
from rar.runtime.encoder.tokenizer import Tokenizer
from rar.runtime.picture.load import load_image
from rar.runtime.picture.preprocess import Preprocess
from rar.runtime.session import OnnxSession
from rar.runtime.session.checks import narrowed, sampled

SIDE, PATCH, WIDTH, HEADS, LAYERS, DIM, LENGTH = 32, 8, 32, 2, 2, 32, 77
PAD, START, END = "<pad>", "<start>", "<end>"


class Graph:
    """Nodes and seeded weights, one after the other; each method returns the name of its output."""

    def __init__(self, seed: int) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self._chance = np.random.default_rng(seed)

    def node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        name = f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    def weight(self, values: Any) -> str:
        name = f"weight_{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def random(self, *shape: int, scale: float | None = None) -> str:
        """Normal values; a product with them keeps the size of what comes in."""
        values = self._chance.standard_normal(shape, np.float32)
        return self.weight(values * np.float32(shape[0] ** -0.5 if scale is None else scale))

    def linear(self, rows: str, inputs: int, outputs: int) -> str:
        return self.node(
            "Add", self.node("MatMul", rows, self.random(inputs, outputs)), self.random(outputs, scale=0.1)
        )

    def norm(self, rows: str) -> str:
        one, zero = self.weight(np.ones(WIDTH, np.float32)), self.weight(np.zeros(WIDTH, np.float32))
        return self.node("LayerNormalization", rows, one, zero, axis=-1)

    def layer(self, rows: str, mask: str | None = None) -> str:
        """Attention and two products with a residual each: float32 [N, L, WIDTH]."""
        normed, parts = self.norm(rows), []
        for _ in "qkv":
            part = self.node("Reshape", self.linear(normed, WIDTH, WIDTH), self.weight([0, 0, HEADS, WIDTH // HEADS]))
            parts.append(self.node("Transpose", part, perm=[0, 2, 1, 3]))
        q, k, v = parts
        scores = self.node("MatMul", q, self.node("Transpose", k, perm=[0, 1, 3, 2]))
        scores = self.node("Mul", scores, self.weight(np.float32((WIDTH // HEADS) ** -0.5)))
        if mask is not None:
            scores = self.node("Add", scores, mask)
        seen = self.node("Transpose", self.node("MatMul", self.node("Softmax", scores, axis=-1), v), perm=[0, 2, 1, 3])
        seen = self.linear(self.node("Reshape", seen, self.weight([0, 0, WIDTH])), WIDTH, WIDTH)
        rows = self.node("Add", rows, seen)
        wide = self.linear(self.norm(rows), WIDTH, 2 * WIDTH)
        wide = self.node("Mul", wide, self.node("Sigmoid", wide))
        return self.node("Add", rows, self.linear(wide, 2 * WIDTH, WIDTH))

    def save(self, path: Path, takes: onnx.ValueInfoProto, pooled: str, output: str) -> None:
        """Projects float32 [N, WIDTH], normalises, and writes the graph with its weights beside it."""
        raw = self.node("MatMul", self.norm(pooled), self.random(WIDTH, DIM))
        length = self.node("ReduceL2", raw, self.weight([1]), keepdims=1)
        self.nodes.append(helper.make_node("Div", [raw, length], [output]))
        gives = helper.make_tensor_value_info(output, TensorProto.FLOAT, ["N", DIM])
        graph = helper.make_graph(self.nodes, path.stem, [takes], [gives], self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
        onnx.checker.check_model(model, full_check=True)
        files.save(model, path)


def write_visual(path: Path) -> None:
    """float32 [N, 3, SIDE, SIDE] -> float32 [N, DIM]; the mean of all patches is projected."""
    graph, patches = Graph(0), (SIDE // PATCH) ** 2
    cut = graph.node(
        "Conv", "pixel_values", graph.random(WIDTH, 3, PATCH, PATCH, scale=(3 * PATCH**2) ** -0.5), strides=[PATCH] * 2
    )
    rows = graph.node("Transpose", graph.node("Reshape", cut, graph.weight([0, WIDTH, patches])), perm=[0, 2, 1])
    rows = graph.node("Add", rows, graph.random(patches, WIDTH, scale=0.1))
    for _ in range(LAYERS):
        rows = graph.layer(rows)
    pooled = graph.node("ReduceMean", rows, graph.weight([1]), keepdims=0)
    takes = helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, ["N", 3, SIDE, SIDE])
    graph.save(path, takes, pooled, "image_embeds")


def write_text(path: Path, vocabulary: int, end: int) -> None:
    """int64 [N, LENGTH] -> float32 [N, DIM]; no token sees a later one, and the row of the first `end` is projected."""
    graph = Graph(1)
    rows = graph.node("Gather", graph.random(vocabulary, WIDTH, scale=1), "input_ids")
    rows = graph.node("Add", rows, graph.random(LENGTH, WIDTH, scale=0.1))
    mask = graph.weight(np.triu(np.full((LENGTH, LENGTH), -1e9, np.float32), 1))
    for _ in range(LAYERS):
        rows = graph.layer(rows, mask)
    ends = graph.node("Cast", graph.node("Equal", "input_ids", graph.weight(np.int64(end))), to=TensorProto.FLOAT)
    row = graph.node("MatMul", graph.node("Unsqueeze", ends, graph.weight([1])), rows)
    takes = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["N", LENGTH])
    graph.save(path, takes, graph.node("Squeeze", row, graph.weight([1])), "text_embeds")


def tokenizer() -> Any:
    """A `tokenizers` BPE over bytes that begins, ends, cuts and pads as CLIP's does."""
    made = byte_level([PAD, START, END])
    ends = [(piece, made.token_to_id(piece)) for piece in (START, END)]
    made.post_processor = processors.TemplateProcessing(single=f"{START} $A {END}", special_tokens=ends)
    made.enable_truncation(LENGTH)
    made.enable_padding(pad_id=made.token_to_id(PAD), pad_token=PAD, length=LENGTH)
    return made


def write_tiny(out: Path) -> None:
    """A bundle with this encoder at fp32, held to its own outputs."""
    pieces = tokenizer()
    preprocess = Preprocess(size=SIDE, mean=(0.48, 0.46, 0.41), std=(0.27, 0.26, 0.28), filter="bicubic", fit="crop")
    typical = {
        "visual": narrowed({"pixel_values": preprocess([load_image(path) for path in checked_photos()])}),
        "text": {"input_ids": Tokenizer(pieces, "lower")(checks.TEXTS)},
    }
    with stage(out, "clip") as staging:
        write_visual(staging.folder / "visual.onnx")
        write_text(staging.folder / "text.onnx", pieces.get_vocab_size(), pieces.token_to_id(END))
        held = {}
        for name, output in (("visual", "image_embeds"), ("text", "text_embeds")):
            session = OnnxSession(staging.folder / f"{name}.onnx", "cpu")
            run = sampled(typical[name], {output: session.run(typical[name], [output])[output]})
            held[f"{name}.onnx"] = checks.store_runs(staging.folder, f"{name}.onnx", [run], session, "fp32")
        pieces.save(str(staging.folder / "tokenizer.json"))
        write_json(staging.folder / "preprocess.json", preprocess.to_dict())
        staging.info.update(
            source="tests/tiny_clip.py",
            precision="fp32",
            scheme={"visual": "fp32", "text": "fp32"},
            dim=DIM,
            clean="lower",
            templates=list(TEMPLATES),
            parity={},
            checks=held,
            made_with={name: version(name) for name in ("onnx", "onnxruntime", "rar-runtime")},
        )
