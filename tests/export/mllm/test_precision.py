"""fp16, int8 and int4: they load, run, stay close, and are as small as they should be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from rar.export import graph
from rar.export.mllm import int4, int8
from rar.export.mllm.export import export_mllm
from rar.export.mllm.parity import LIMITS, Graphs, divergence
from rar.export.mllm.weights import Rewriter, measure


@pytest.mark.parametrize("precision", ["fp16", "int8", "int4"])
def test_a_quantised_bundle_runs_and_stays_close(
    precision: Any, llava: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The fp32 graphs are there already.
    monkeypatch.setattr(
        "rar.export.mllm.export.export_graph", lambda _, name, path: copy_graph(llava.bundle, name, path)
    )
    info = export_mllm(llava.mllm, tmp_path / "bundle", precision)
    least, most = LIMITS[precision]
    assert info["parity"]["logits"]["top1"] >= least
    assert 0 < info["parity"]["logits"]["kl"] <= most
    scheme = {"fp16": "fp16", "int8": "int8 rows and columns", "int4": "int4 blocks"}[precision]
    assert info["precision"]["decoder"] == scheme
    graphs, row = Graphs(tmp_path / "bundle" / "mllm", llava.mllm, fp16=True), llava.ids()
    positions, _ = llava.prompt.positions.count(row.tolist(), 0)
    whole, _ = graphs.run(graphs.embeds(row, llava.pictures(1)), positions)
    assert np.isfinite(whole).all()
    assert divergence(llava.graphs.run(llava.graphs.embeds(row, llava.pictures(1)), positions)[0], whole).mean() < most


def copy_graph(bundle: Path, name: str, path: Path) -> None:
    """A bundle's fp32 graph as if it had just been exported."""
    for suffix in ("", ".data"):
        path.with_name(f"{name}.onnx{suffix}").write_bytes((bundle / "mllm" / f"{name}.onnx{suffix}").read_bytes())


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A graph of two products of 256 by 512 with a bias, large enough for shares of its size to mean something."""
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(256, 512), torch.nn.Tanh(), torch.nn.Linear(512, 256, bias=False))
    path = tmp_path_factory.mktemp("product") / "product.onnx"
    graph.export_onnx(module.eval(), [torch.zeros(2, 3, 256)], path, inputs=["x"], outputs=["y"], dynamic=[(0, 1)])
    return path


def run(path: Path, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.asarray(onnxruntime.InferenceSession(str(path)).run(None, {"x": x})[0])


@pytest.fixture(scope="module")
def uneven() -> np.ndarray[Any, np.dtype[np.float32]]:
    """One token and one channel a hundred times larger than the others, as language models have them."""
    x = np.random.default_rng(0).standard_normal((1, 40, 256), np.float32)
    x[:, 0] *= 100
    x[..., 7] *= 30
    return x


def test_int8_keeps_small_tokens_beside_a_large_one(
    product: Path, uneven: np.ndarray[Any, Any], tmp_path: Path
) -> None:
    int8.quantize(product, tmp_path / "q.onnx", measure(product, [{"x": uneven}]))
    full, found = run(product, uneven), run(tmp_path / "q.onnx", uneven)
    errors = np.linalg.norm(full - found, axis=-1) / np.linalg.norm(full, axis=-1)
    assert errors.max() < 0.06
    # A row is quantised by itself: what stands beside it changes nothing.
    np.testing.assert_allclose(run(tmp_path / "q.onnx", uneven[:, 5:6])[0, 0], found[0, 5], atol=1e-5)
    share = (
        sum(path.stat().st_size for path in tmp_path.iterdir()) / product.with_name("product.onnx.data").stat().st_size
    )
    assert share <= 0.3


def test_int4_takes_a_fifth_and_gives_eight_bits_where_it_helps(
    product: Path, uneven: np.ndarray[Any, Any], tmp_path: Path
) -> None:
    share = int4.quantize(product, tmp_path / "q.onnx", measure(product, [{"x": uneven}]))
    full, found = run(product, uneven), run(tmp_path / "q.onnx", uneven)
    assert np.linalg.norm(full - found) / np.linalg.norm(full) < 0.15
    size = (tmp_path / "q.onnx.data").stat().st_size
    assert size <= 0.2 * product.with_name("product.onnx.data").stat().st_size
    assert 0 <= share < 1


def test_int4_keeps_weights_on_a_grid_of_sixteen_values(tmp_path: Path) -> None:
    chance = np.random.default_rng(0)
    codes = chance.integers(0, 16, (64, 4, 32))
    codes[..., 0], codes[..., 1] = 0, 15
    scale, offset = chance.uniform(0.01, 0.1, (2, 64, 4, 1)).astype(np.float16).astype(np.float32)
    module = torch.nn.Linear(128, 64, bias=False)
    module.weight.data = torch.from_numpy((codes * scale - offset).astype(np.float32).reshape(64, 128))
    path = tmp_path / "grid.onnx"
    graph.export_onnx(module.eval(), [torch.zeros(2, 3, 128)], path, inputs=["x"], outputs=["y"], dynamic=[(0, 1)])
    x = chance.standard_normal((1, 5, 128), np.float32)
    share = int4.quantize(path, tmp_path / "q.onnx", measure(path, [{"x": x}]))
    assert share == 0
    full, found = run(path, x), run(tmp_path / "q.onnx", x)
    # What is left is the rounding of the input to 8 bits.
    assert np.abs(full - found).max() < 0.02 * np.abs(full).max()


def test_measured_ranges_are_those_of_the_inputs(product: Path, uneven: np.ndarray[Any, Any]) -> None:
    ranges = measure(product, [{"x": uneven}, {"x": uneven * 2}])
    first = ranges[Rewriter(product).products[0].input]
    np.testing.assert_allclose(first.largest, np.abs(uneven * 2).max((0, 1)), rtol=1e-5)
    np.testing.assert_allclose(first.square, 2.5 * (uneven**2).mean((0, 1)), rtol=1e-4)
