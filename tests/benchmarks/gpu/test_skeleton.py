"""Bundles that travel without their weights."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from rar.benchmarks.gpu import skeleton
from rar.export.graphs import files, half
from rar.runtime.bundle.change import stage
from rar.runtime.bundle.manifest import Bundle
from rar.runtime.errors import InputError
from rar.runtime.session import OnnxSession

SIDE = 160  # a square of it is more than a tensor that travels as it is


def make_bundle(folder: Path, precision: str) -> Path:
    """A bundle of one graph: a product with random weights, and a mask with infinities."""
    chance = np.random.default_rng(0)
    weight = chance.standard_normal((SIDE, SIDE), np.float32) * np.float32(0.02)
    mask = np.where(np.arange(SIDE) % 2, 0, -np.inf).astype(np.float32)[None].repeat(8, 0)
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node("MatMul", ["x", "weight"], ["y"]), helper.make_node("Max", ["y", "mask"], ["z"])],
            "tiny",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [8, SIDE])],
            [helper.make_tensor_value_info("z", TensorProto.FLOAT, [8, SIDE])],
            [numpy_helper.from_array(weight, "weight"), numpy_helper.from_array(mask, "mask")],
        ),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=10,
    )
    with stage(folder, "clip") as staging:
        full = staging.folder / "full.onnx"
        files.save(model, full)
        if precision == "fp16":
            half.to_half(full, staging.folder / "visual.onnx")
        else:
            files.save(onnx.load(full), staging.folder / "visual.onnx")
        for path in staging.folder.glob("full.onnx*"):
            path.unlink()
    return folder


def answer(bundle: Path) -> np.ndarray:
    x = np.random.default_rng(1).standard_normal((8, SIDE), np.float32)
    path = Bundle.open(bundle).graph("clip", "visual.onnx")
    return np.asarray(OnnxSession(path, "cpu").run({"x": x})["z"])


@pytest.fixture(params=["fp32", "fp16"])
def filled(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Path]:
    full = make_bundle(tmp_path / "full", request.param)
    skeleton.strip(full, tmp_path / "stripped")
    skeleton.fill(tmp_path / "stripped", tmp_path / "filled")
    return full, tmp_path / "filled"


def test_a_stripped_bundle_has_no_weights_and_a_filled_one_verifies(filled: tuple[Path, Path], tmp_path: Path) -> None:
    assert not list((tmp_path / "stripped").rglob("*.data"))
    assert Bundle.open(filled[1]).verify() == Bundle.open(filled[0]).verify()


def test_weights_are_drawn_with_the_mean_and_deviation_that_they_had(filled: tuple[Path, Path]) -> None:
    full, other = (answer(path) for path in filled)
    assert not np.array_equal(full, other)
    assert np.isclose(full[np.isfinite(full)].std(), other[np.isfinite(other)].std(), rtol=0.15)


def test_small_tensors_travel_as_they_are(filled: tuple[Path, Path]) -> None:
    # The mask: columns without one keep a product of either sign, the others what the product gives or more.
    full, other = (answer(path) for path in filled)
    assert (full[:, 1::2] >= 0).all()
    assert (other[:, 1::2] >= 0).all()
    assert (other[:, ::2] < 0).any()


def test_one_name_has_one_weight_at_every_precision(tmp_path: Path) -> None:
    for precision in ("fp32", "fp16"):
        skeleton.strip(make_bundle(tmp_path / precision, precision), tmp_path / f"{precision}-stripped")
        skeleton.fill(tmp_path / f"{precision}-stripped", tmp_path / f"{precision}-filled")
    wide, narrow = (answer(tmp_path / f"{precision}-filled") for precision in ("fp32", "fp16"))
    assert np.allclose(wide, narrow, atol=2e-3)


def test_a_folder_without_models_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--prepare"):
        skeleton.fill(tmp_path, tmp_path / "out")
