"""Writes a bundle from `docs/format.md` alone: nothing of this package is used."""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIDE, WIDTH, LENGTH = 16, 12, 8
CONTEXT = 256
CLASSES = ["cat", "dog", "</s>"]


def write_clip(folder: Path) -> dict[str, Any]:
    """A tower that averages colours over a grid, and one that adds up its tokens; both multiply and normalise."""
    chance = np.random.default_rng(0)

    def save(name: str, inputs: list[Any], nodes: list[Any], weights: dict[str, Any], output: str) -> None:
        norm = [
            helper.make_node("ReduceL2", ["raw", "last"], ["length"], keepdims=1),
            helper.make_node("Div", ["raw", "length"], [output]),
        ]
        tensors = [numpy_helper.from_array(np.asarray(value), key) for key, value in weights.items()]
        result = helper.make_tensor_value_info(output, TensorProto.FLOAT, ["n", WIDTH])
        graph = helper.make_graph([*nodes, *norm], name, inputs, [result], tensors)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        onnx.save(model, str(folder / f"{name}.onnx"))

    pixels = helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, ["n", 3, SIDE, SIDE])
    save(
        "visual",
        [pixels],
        [
            helper.make_node("AveragePool", ["pixel_values"], ["pooled"], kernel_shape=[8, 8], strides=[8, 8]),
            helper.make_node("Flatten", ["pooled"], ["flat"]),
            helper.make_node("Gemm", ["flat", "w", "b"], ["raw"]),
        ],
        {
            "w": chance.normal(size=(12, WIDTH)).astype(np.float32),
            "b": np.ones(WIDTH, np.float32),
            "last": np.array([1]),
        },
        "image_embeds",
    )
    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["n", LENGTH])
    save(
        "text",
        [ids],
        [
            helper.make_node("Gather", ["table", "input_ids"], ["rows"]),
            helper.make_node("ReduceSum", ["rows", "middle"], ["raw"], keepdims=0),
        ],
        {
            "table": chance.normal(size=(40, WIDTH)).astype(np.float32),
            "middle": np.array([1]),
            "last": np.array([1]),
        },
        "text_embeds",
    )
    letters = ["[PAD]", "[UNK]", *"abcdefghijklmnopqrstuvwxyz", *"</>"]
    tokenizer = {
        "version": "1.0",
        "truncation": {"direction": "Right", "max_length": LENGTH, "strategy": "LongestFirst", "stride": 0},
        "padding": {
            "strategy": {"Fixed": LENGTH}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0,
            "pad_type_id": 0, "pad_token": "[PAD]",
        },
        "added_tokens": [
            {
                "id": 0, "content": "[PAD]", "single_word": False, "lstrip": False, "rstrip": False,
                "normalized": False, "special": True,
            }
        ],
        "normalizer": {"type": "Lowercase"},
        "pre_tokenizer": {"type": "Split", "pattern": {"Regex": "."}, "behavior": "Isolated", "invert": False},
        "post_processor": None,
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": {piece: i for i, piece in enumerate(letters)}, "unk_token": "[UNK]"},
    }  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    preprocess = {"size": SIDE, "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}
    (folder / "preprocess.json").write_text(json.dumps(preprocess))
    return {"dim": WIDTH, "templates": ["a photo of {}", "{}"], "clean": "none", "precision": "fp32"}


def write_memory(folder: Path, encoder: str) -> dict[str, Any]:
    from usearch.index import Index

    info: dict[str, Any] = {"encoder": encoder, "text_weight": 0.5, "pool": 1, "a key of later": {"is": "passed over"}}
    (folder / "labels.json").write_text(json.dumps(CLASSES))
    (folder / "tags.json").write_text(json.dumps({"animal": ["cat", "dog"]}))
    for number, part in enumerate(("pictures", "texts")):
        place = folder / part
        place.mkdir()
        vectors = np.random.default_rng(number).normal(size=(30, WIDTH)).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        np.save(place / "vectors.npy", vectors.astype(np.float16))
        np.save(place / "entries.npy", np.arange(30, dtype=np.int32) % len(CLASSES))
        sources = [f"{part} {i}".encode() for i in range(30)]
        np.save(place / "sources.npy", np.cumsum([0, *map(len, sources)]).astype(np.int64))
        (place / "sources.utf8").write_bytes(b"".join(sources))
        mean = vectors.mean(0).astype(np.float32)
        keep = {"kept": np.float64(1), "radius": np.float64(0), "scale": np.float64(1)}
        np.savez(place / "reduction.npz", mean=mean, components=np.empty((0, WIDTH), np.float32), **keep)
        index = Index(ndim=WIDTH, metric="l2sq", dtype="f16", connectivity=16, expansion_add=128)
        index.add(np.arange(30), vectors.astype(np.float16).astype(np.float32) - mean)
        index.save(str(place / "index.usearch"))
        info[part] = {
            "index_dtype": "f16", "reducer": "none", "search": "index", "ef": 64, "rescore": 20, "recall": None,
            "shards": 1,
        }  # fmt: skip
    return info


def write_mllm(folder: Path) -> dict[str, Any]:
    """A vision part of four tokens a picture, and a decoder of one layer that attends and counts positions."""
    chance = np.random.default_rng(7)
    letters = ["[UNK]", "<b>", "<e>", *"abcdefghijklmnopqrstuvwxyz", *' ?:,"[]</>']
    attention = ["N", 1, "L", "P + L"]

    def value(name: str, kind: int, shape: list[int | str]) -> Any:
        return helper.make_tensor_value_info(name, kind, shape)

    def save(name: str, nodes: list[Any], inputs: list[Any], outputs: list[Any], weights: dict[str, Any]) -> None:
        tensors = [numpy_helper.from_array(np.asarray(weight), key) for key, weight in weights.items()]
        graph = helper.make_graph(nodes, name, inputs, outputs, tensors)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        onnx.save(model, str(folder / f"{name}.onnx"))

    def normal(*shape: int) -> Any:
        return chance.normal(size=shape).astype(np.float32)

    save(
        "vision",
        [
            helper.make_node("AveragePool", ["pixel_values"], ["pooled"], kernel_shape=[8, 8], strides=[8, 8]),
            helper.make_node("Reshape", ["pooled", "shape"], ["flat"]),
            helper.make_node("Transpose", ["flat"], ["parts"], perm=[0, 2, 1]),
            helper.make_node("MatMul", ["parts", "w"], ["image_embeds"]),
        ],
        [value("pixel_values", TensorProto.FLOAT, ["N", 3, SIDE, SIDE])],
        [value("image_embeds", TensorProto.FLOAT, ["N", 4, WIDTH])],
        {"shape": np.array([0, 3, 4]), "w": normal(3, WIDTH)},
    )
    save(
        "embed",
        [helper.make_node("Gather", ["table", "input_ids"], ["inputs_embeds"])],
        [value("input_ids", TensorProto.INT64, ["N", "L"])],
        [value("inputs_embeds", TensorProto.FLOAT, ["N", "L", WIDTH])],
        {"table": normal(len(letters), WIDTH)},
    )
    cache: list[int | str] = ["N", 1, "P", WIDTH]
    save(
        "decoder",
        [
            helper.make_node("Gather", ["places", "position_ids"], ["place"]),
            helper.make_node("Add", ["inputs_embeds", "place"], ["hidden"]),
            helper.make_node("Unsqueeze", ["hidden", "one"], ["present.0.key"]),
            helper.make_node("Neg", ["present.0.key"], ["present.0.value"]),
            helper.make_node("Concat", ["past_key_values.0.key", "present.0.key"], ["keys"], axis=2),
            helper.make_node("Concat", ["past_key_values.0.value", "present.0.value"], ["values"], axis=2),
            helper.make_node("Transpose", ["keys"], ["turned"], perm=[0, 1, 3, 2]),
            helper.make_node("MatMul", ["present.0.key", "turned"], ["scores"]),
            helper.make_node("Where", ["attention_mask", "scores", "never"], ["seen"]),
            helper.make_node("Softmax", ["seen"], ["shares"], axis=-1),
            helper.make_node("MatMul", ["shares", "values"], ["mixed"]),
            helper.make_node("Squeeze", ["mixed", "one"], ["flat"]),
            helper.make_node("Unsqueeze", ["logit_positions", "last"], ["chosen"]),
            helper.make_node("GatherND", ["flat", "chosen"], ["asked"], batch_dims=1),
            helper.make_node("MatMul", ["asked", "head"], ["logits"]),
        ],
        [
            value("inputs_embeds", TensorProto.FLOAT, ["N", "L", WIDTH]),
            value("attention_mask", TensorProto.BOOL, attention),
            value("position_ids", TensorProto.INT64, ["N", "L"]),
            value("logit_positions", TensorProto.INT64, ["N", "M"]),
            *(value(f"past_key_values.0.{part}", TensorProto.FLOAT, cache) for part in ("key", "value")),
        ],
        [
            value("logits", TensorProto.FLOAT, ["N", "M", len(letters)]),
            *(value(f"present.0.{part}", TensorProto.FLOAT, ["N", 1, "L", WIDTH]) for part in ("key", "value")),
        ],
        {
            "places": 0.1 * normal(CONTEXT, WIDTH),
            "one": np.array([1]),
            "last": np.array([-1]),
            "never": np.float32(-1e9),
            "head": normal(WIDTH, len(letters)),
        },
    )
    tokenizer = {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [
            {
                "id": number, "content": letters[number], "single_word": False, "lstrip": False, "rstrip": False,
                "normalized": False, "special": True,
            }
            for number in (1, 2)
        ],
        "normalizer": {"type": "Lowercase"},
        "pre_tokenizer": {"type": "Split", "pattern": {"Regex": "."}, "behavior": "Isolated", "invert": False},
        "post_processor": None, "decoder": {"type": "Fuse"},
        "model": {"type": "WordLevel", "vocab": {piece: i for i, piece in enumerate(letters)}, "unk_token": "[UNK]"},
    }  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    before: list[Any] = [{"ids": [1]}, "look: "]
    behind: list[Any] = [{"slot": "image"}, " ", {"slot": "question"}, {"ids": [2]}]
    prompt = {
        "template": [*before, *behind], "stop_ids": [2], "letters": {}, "image_tokens": 4, "context": CONTEXT,
        "modes": {"likelihood": {"question": "which of {candidates}?"}},
        "exemplars": {
            "template": [*before, {"slot": "exemplars"}, *behind],
            "each": ["a photo of ", {"slot": "name"}, ": ", {"slot": "image"}, ", "],
        },
    }  # fmt: skip
    (folder / "prompt.json").write_text(json.dumps(prompt))
    preprocess = {"size": SIDE, "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}
    (folder / "preprocess.json").write_text(json.dumps(preprocess))
    return {
        "layers": 1, "kv_heads": 1, "head_dim": WIDTH, "vision_input": "pixel_values",
        "precision": dict.fromkeys(("vision", "embed", "decoder"), "fp32"),
    }  # fmt: skip


def add_mllm(root: Path) -> Path:
    """Adds an MLLM that takes several pictures to a bundle."""
    manifest = json.loads((root / "bundle.json").read_text())
    (root / "mllm").mkdir()
    info = write_mllm(root / "mllm")
    manifest["components"]["mllm"] = {"files": entries(root, "mllm"), "info": info}
    (root / "bundle.json").write_text(json.dumps(manifest))
    return root


def entries(root: Path, component: str) -> dict[str, Any]:
    files = {}
    for path in sorted((root / component).rglob("*")):
        if path.is_file():
            content = path.read_bytes()
            files[path.relative_to(root / component).as_posix()] = {
                "path": path.relative_to(root).as_posix(),
                "bytes": len(content),
                "sha256": hashlib.sha256(content).hexdigest(),
            }
    return files


def fingerprint(files: dict[str, Any]) -> str:
    lines = "".join(f"{name} {entry['sha256']}\n" for name, entry in sorted(files.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def write_log(path: Path, memory: str, contents: list[bytes]) -> None:
    head = b"rar log 1\n" + memory.encode()
    crc = zlib.crc32(head)
    log = head + struct.pack("<I", crc)
    for content in contents:
        start = b"\xabREC" + struct.pack("<II", len(content), crc)
        crc = zlib.crc32(start + content)
        log += start + struct.pack("<I", crc) + content
    path.write_bytes(log)


def write_bundle(root: Path) -> Path:
    """A bundle of an encoder and a memory of three classes, with three changes in its log."""
    components = {}
    (root / "clip").mkdir(parents=True)
    (root / "memory").mkdir()
    info = write_clip(root / "clip")
    components["clip"] = {"files": entries(root, "clip"), "info": info}
    info = write_memory(root / "memory", fingerprint(components["clip"]["files"]))
    components["memory"] = {"files": entries(root, "memory"), "info": info}
    (root / "bundle.json").write_text(json.dumps({"format": 1, "components": components}))
    vector = np.ones(WIDTH, "<f2") / np.sqrt(np.float16(WIDTH))
    added = {"add": {"pictures": {"labels": ["owl"], "sources": ["night.jpg"]}}}
    renamed = {"add": {}, "relabel": "dog", "to": "hound", "forget": False}
    changes = [
        json.dumps(added).encode() + b"\n" + vector.tobytes(),
        json.dumps(renamed).encode() + b"\n",
        json.dumps({"remove": "</s>"}).encode(),
    ]
    write_log(root / "memory.log", fingerprint(components["memory"]["files"]), changes)
    return root
