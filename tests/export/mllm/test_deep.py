"""Models of several layers of a kind, which are traced once a kind, against transformers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest

from rar.benchmarks.families.models import WRITERS, Shape, gemma, lfm2vl, qwen
from rar.export.mllm.export import export_mllm
from rar.export.mllm.source import load

LAYERS = {
    "gemma3": ["sliding_attention", "sliding_attention", "full_attention"] * 3,
    "lfm2vl": ["conv", "full_attention"] * 5,
}


def deep(shape: Shape, vision: Mapping[str, Any], kinds: Sequence[str] = ()) -> Shape:
    text = {"layer_types": list(kinds), "num_hidden_layers": len(kinds)} if kinds else {"num_hidden_layers": 5}
    return replace(shape, text={**shape.text, **text}, vision={**shape.vision, **vision})


# More than one kind of layer: local and global attention, convolutions, features of three layers on the way.
SHAPES = {
    "gemma3": deep(gemma.TINY, {"num_hidden_layers": 5}, LAYERS["gemma3"]),
    "lfm2vl": deep(lfm2vl.TINY, {"num_hidden_layers": 5}, LAYERS["lfm2vl"]),
    "qwen3vl": deep(qwen.TINY3, {"depth": 6, "deepstack_visual_indexes": [0, 1, 3]}),
}


@pytest.mark.parametrize("family", SHAPES)
def test_a_deep_model_is_that_of_transformers(family: str, tmp_path: Path) -> None:
    WRITERS[family](tmp_path / "model", SHAPES[family])
    mllm = load(str(tmp_path / "model"))
    info = export_mllm(mllm, tmp_path / "bundle")
    logits = info["parity"]["logits"]
    assert logits["max_logit_difference"] < 1e-3
    assert logits["greedy_equal"] == logits["greedy_count"] > 0
    for name in ("vision", "decoder"):
        graph = onnx.load(str(tmp_path / f"bundle/mllm/{name}.onnx"), load_external_data=False)
        assert not graph.functions
        assert all(node.domain in ("", "com.microsoft") for node in graph.graph.node)
