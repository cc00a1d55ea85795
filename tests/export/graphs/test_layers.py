"""A deep model whose kinds of layers were traced once each computes what PyTorch does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from rar.export.graphs.past import Past
from rar.export.graphs.trace import export_onnx
from rar.runtime.errors import ExportError
from rar.runtime.session import OnnxSession

WIDTH, HEADS = 8, 2
entered: list[int] = []


class Block(torch.nn.Module):
    """Attends, by a cache, to what was before; a factor, a table and its number are the layer's own."""

    def __init__(self, number: int, factor: float) -> None:
        super().__init__()
        self.layer_idx, self.factor = number, factor
        self.norm = torch.nn.LayerNorm(WIDTH)
        self.all, self.out = torch.nn.Linear(WIDTH, 3 * WIDTH), torch.nn.Linear(WIDTH, WIDTH, bias=False)
        self.register_buffer("table", torch.randn(WIDTH), persistent=False)

    def forward(self, hidden: Any, mask: Any = None, *, cache: Any = None) -> tuple[Any, None]:
        entered.append(self.layer_idx)
        shape = (*hidden.shape[:2], 3, HEADS, WIDTH // HEADS)
        query, key, value = self.all(self.norm(hidden)).reshape(shape).permute(2, 0, 3, 1, 4)
        key, value = cache.update(key, value, self.layer_idx)
        seen = (query @ key.transpose(2, 3) * self.factor).masked_fill(~mask, -100.0).softmax(-1) @ value
        return hidden + self.out(seen.transpose(1, 2).flatten(2)) + self.table * torch.tensor([0.5] * WIDTH), None


class Deep(torch.nn.Module):
    """Layers with a cache; the factors tell two kinds."""

    def __init__(self, factors: list[float]) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList([Block(number, factor) for number, factor in enumerate(factors)])

    def forward(self, hidden: Any, mask: Any, *past: Any) -> tuple[Any, ...]:
        cache = Past(past)
        for layer in self.layers:
            hidden, _ = layer(hidden, mask, cache=cache)
        return hidden, *cache.new


def inputs(batch: int, length: int, before: int, layers: int) -> dict[str, Any]:
    rng = np.random.default_rng(length)
    mask = np.tril(np.ones((batch, 1, length, before + length), bool), before)
    past = rng.standard_normal((2 * layers, batch, HEADS, before, WIDTH // HEADS)).astype(np.float32)
    hidden = rng.standard_normal((batch, length, WIDTH)).astype(np.float32)
    return {"hidden": hidden, "mask": mask, **{f"past.{i}": part for i, part in enumerate(past)}}


def export(model: Any, path: Path) -> Path:
    layers = len(model.layers)
    example = [torch.from_numpy(value) for value in inputs(2, 5, 3, layers).values()]
    names = [f"past.{i}" for i in range(2 * layers)]
    new = [f"new.{i}" for i in range(2 * layers)]
    dynamic = [(0, 1), (0, 2, 3), [(0, 2)] * (2 * layers)]
    export_onnx(model, example, path, inputs=["hidden", "mask", *names], outputs=["after", *new], dynamic=dynamic)
    return path


def deep(factors: list[float]) -> Any:
    torch.manual_seed(1)
    return Deep(factors).eval()


@pytest.fixture(scope="module", params=[[0.5] * 5, [0.5, 0.1] * 5, [0.5, 0.5, 0.1, 0.5, 0.5, 0.2, 0.5]], ids=str)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A model and its graph."""
    model = deep(request.param)
    return model, export(model, tmp_path_factory.mktemp("deep") / "deep.onnx")


@pytest.mark.parametrize("sizes", [(2, 5, 3), (1, 7, 0), (3, 1, 6)], ids=str)
def test_each_layer_has_its_own_weights_and_cache(exported: tuple[Any, Path], sizes: tuple[int, int, int]) -> None:
    model, path = exported
    session, given = OnnxSession(path, "cpu"), inputs(*sizes, len(model.layers))
    with torch.inference_mode():
        expected = model(*map(torch.from_numpy, given.values()))
    for name, value in zip(session.outputs, expected, strict=True):
        np.testing.assert_allclose(session.run(given)[name], value.numpy(), atol=2e-6, err_msg=name)


def test_a_deeper_model_takes_no_more_traces_of_its_layers(tmp_path: Path) -> None:
    often = []
    for count in (5, 7):
        entered.clear()
        export(deep([0.5] * count), tmp_path / f"{count}.onnx")
        assert set(entered) == {0}, "only the first of a kind is traced"
        often.append(len(entered))
    assert often[0] == often[1]


def test_a_few_layers_are_traced_in_the_model_itself(tmp_path: Path) -> None:
    entered.clear()
    export(deep([0.5] * 4), tmp_path / "few.onnx")
    assert set(entered) == {0, 1, 2, 3}


class Pooled(torch.nn.Module):
    """Gives rows of all pictures, of which no input has as many; or a number besides."""

    def __init__(self, plain: bool) -> None:
        super().__init__()
        self.inner, self.plain = torch.nn.Linear(WIDTH, 3), plain

    def forward(self, hidden: Any) -> Any:
        rows = self.inner(hidden).reshape(-1, 3)
        return rows if self.plain else (rows, 7)


class Branches(torch.nn.Module):
    """What Qwen3-VL does with the features of some layers."""

    def __init__(self, plain: bool) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList([Pooled(plain) for _ in range(5)])

    def forward(self, hidden: Any) -> Any:
        given = [layer(hidden) for layer in self.layers]
        return torch.cat([one if isinstance(one, torch.Tensor) else one[0] for one in given], -1)


@pytest.mark.parametrize("plain", [True, False])
def test_layers_whose_results_their_inputs_do_not_size_are_traced_in_the_model(plain: bool, tmp_path: Path) -> None:
    torch.manual_seed(2)
    model, path = Branches(plain).eval(), tmp_path / "branches.onnx"
    export_onnx(model, [torch.zeros(2, 5, WIDTH)], path, inputs=["hidden"], outputs=["rows"], dynamic=[(0, 1)])
    given = np.random.default_rng(0).standard_normal((3, 4, WIDTH)).astype(np.float32)
    rows = OnnxSession(path, "cpu").run({"hidden": given})["rows"]
    np.testing.assert_allclose(rows, model(torch.from_numpy(given)).detach().numpy(), atol=1e-6)


def test_layers_with_settings_of_their_own_are_no_kind(tmp_path: Path) -> None:
    model = deep([0.5] * 5)
    for number, layer in enumerate(model.layers):
        layer._scale = [torch.full((1,), float(number))]
    entered.clear()
    export(model, tmp_path / "own.onnx")
    assert set(entered) == {0, 1, 2, 3, 4}


def test_a_graph_names_no_functions_and_no_domain_of_ours(exported: tuple[Any, Path]) -> None:
    model, path = exported
    graph = onnx.load(str(path), load_external_data=False)
    assert not graph.functions
    assert {entry.domain for entry in graph.opset_import} == {""}
    names = [initializer.name for initializer in graph.graph.initializer]
    assert len(names) == len(set(names))
    assert {f"layers.{i}.all.bias" for i in range(len(model.layers))} <= set(names)


def test_layers_that_share_a_weight_share_it_in_the_graph(tmp_path: Path) -> None:
    model = deep([0.5] * 5)
    for layer in model.layers:
        layer.norm = model.layers[0].norm
    graph = onnx.load(str(export(model, tmp_path / "deep.onnx")), load_external_data=False).graph
    assert sum("norm.weight" in initializer.name for initializer in graph.initializer) == 1


def test_the_model_is_as_it_was_after_an_export_and_after_one_that_failed(tmp_path: Path) -> None:
    model = deep([0.5] * 5)
    given = [torch.from_numpy(value) for value in inputs(2, 5, 3, 5).values()]
    before = model(*given)[0]
    export(model, tmp_path / "deep.onnx")
    with pytest.raises(ExportError, match="PyTorch cannot export Deep"):
        export_onnx(
            model, given[:3], tmp_path / "no.onnx", inputs=["a", "b", "c"], outputs=["d"], dynamic=[(), (), [()]]
        )
    assert all("forward" not in vars(layer) for layer in model.layers)
    assert torch.equal(model(*given)[0], before)
