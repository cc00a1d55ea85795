"""fp16, int8 and int4: they load, run, stay close, and are as small as they should be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from rar.export.graphs import int8, trace
from rar.export.graphs.weights import Rewriter, measure
from rar.export.mllm import int4
from rar.export.mllm.compare import LIMITS, Graphs, divergence
from rar.export.mllm.export import export_mllm
from rar.runtime import Bundle, Candidate
from rar.runtime.encoder.clip import Clip
from rar.runtime.picture.load import load_image
from rar.runtime.rank.mllm.model import Mllm
from rar.runtime.rank.mllm.ranker import MllmRanker
from rar.runtime.rank.protocol import Query
from rar.runtime.session import session_options


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
    graphs, row = Graphs.open(tmp_path / "bundle" / "mllm", llava.mllm.form, fp16=True), llava.ids()
    positions, _ = llava.prompt.positions.count(row.tolist(), 0)
    whole, _ = graphs.run(graphs.embeds(row, llava.pictures(1)), positions)
    assert np.isfinite(whole).all()
    assert divergence(llava.graphs.run(llava.graphs.embeds(row, llava.pictures(1)), positions)[0], whole).mean() < most


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_every_family_ranks_at_eight_and_four_bits(
    precision: Any,
    model: Any,
    photos: list[Path],
    tiny_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        "rar.export.mllm.export.export_graph", lambda _, name, path: copy_graph(model.bundle, name, path)
    )
    export_mllm(model.mllm, tmp_path / "bundle", precision)
    names = ["apple", "apple pie", "a black cat", "烤鸭"]
    query = Query(load_image(photos[0]), np.zeros(1, np.float32), [Candidate(name, 0.5) for name in names])
    clip, found = Clip(Bundle.open(tiny_bundle), "cpu", 1), []
    for bundle in (model.bundle, tmp_path / "bundle"):
        ranker = MllmRanker(Mllm(Bundle.open(bundle), clip, 1))
        (ranking,) = ranker.rank([query])
        assert not ranking.fallback
        found.append(np.asarray(ranking.scores))
    # Log-probabilities over the candidates, not far from those at fp32.
    np.testing.assert_allclose(np.exp(found[1]).sum(), 1, rtol=1e-4)
    assert 0 < np.abs(found[0] - found[1]).max() < 2


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
    trace.export_onnx(module.eval(), [torch.zeros(2, 3, 256)], path, inputs=["x"], outputs=["y"], dynamic=[(0, 1)])
    return path


def run(path: Path, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    # As the runtime opens it: without VNNI products of 8 bits would saturate.
    return np.asarray(onnxruntime.InferenceSession(str(path), session_options()).run(None, {"x": x})[0])


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
    trace.export_onnx(module.eval(), [torch.zeros(2, 3, 128)], path, inputs=["x"], outputs=["y"], dynamic=[(0, 1)])
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
