"""Each graph is exported with runs of fp32, and is itself the first that is held to them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny_mllm
import torch

from rar.export.encoder import openclip
from rar.export.graphs.checks import store_runs
from rar.runtime import Bundle, ExportError
from rar.runtime.machine.cpu import instruction_sets
from rar.runtime.session import OnnxSession
from rar.runtime.session.checks import Run, check_file, load_runs


def test_what_is_stored_is_what_pytorch_gives(tiny_openclip: tuple[Path, Path], openclip_bundle: Path) -> None:
    encoder = openclip.load(*map(str, tiny_openclip))
    bundle = Bundle.open(openclip_bundle)
    for graph, module, name in (
        ("visual.onnx", encoder.visual, "pixel_values"),
        ("text.onnx", encoder.text, "input_ids"),
    ):
        (run,) = load_runs(bundle, "clip", graph)
        assert run.inputs[name].shape[0] == 2
        with torch.inference_mode():
            expected = module(torch.from_numpy(run.inputs[name])).numpy()
        (found,) = run.outputs.values()
        np.testing.assert_allclose(found, expected, atol=1e-3)
        entry = bundle.component("clip").info["checks"][graph]
        assert (entry["precision"], entry["count"]) == ("fp32", 2)
        assert entry["instruction_sets"] == list(instruction_sets())


@pytest.mark.parametrize("name", ["llava", "smolvlm", "qwen25vl", "internvl"])
def test_every_graph_of_every_mllm_has_small_runs(
    exported_mllm: Callable[[str], tiny_mllm.Exported], name: str
) -> None:
    bundle = Bundle.open(exported_mllm(name).bundle)
    mllm = bundle.component("mllm")
    graphs = [file for file in mllm.files if file.endswith(".onnx")]
    assert len(graphs) == 3
    for graph in graphs:
        runs = load_runs(bundle, "mllm", graph)
        assert len(runs) == (2 if graph == "decoder.onnx" else 1)
        assert mllm.info["checks"][graph]["worst"] > 0.9999
    assert sum(mllm.files[check_file(graph)].bytes for graph in graphs) < 500_000


def test_a_graph_that_is_outside_its_own_limits_is_not_exported(tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = Bundle.open(tiny_bundle)
    session = OnnxSession(bundle.graph("clip", "text.onnx"))
    (run,) = load_runs(bundle, "clip", "text.onnx")
    assert store_runs(tmp_path, "text.onnx", [run], session, "fp32")["worst"] > 0.9999
    (tmp_path / check_file("text.onnx")).unlink()
    turned = Run(run.inputs, {name: -array for name, array in run.outputs.items()})
    with pytest.raises(ExportError, match=r"the int8 graph text\.onnx is too far from fp32 .*limits are 0\.9 and 0"):
        store_runs(tmp_path, "text.onnx", [turned], session, "int8")
    assert not list(tmp_path.iterdir())
