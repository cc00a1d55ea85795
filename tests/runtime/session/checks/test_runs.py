"""The runs that lie beside a graph: what is written comes back, and what is no such file is said."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rar.runtime import Bundle, BundleError
from rar.runtime.bundle.change import stage
from rar.runtime.session.checks import Run, check_file, has_runs, load_runs, narrowed, sampled, save_runs

CHANCE = np.random.default_rng(0)


def write(root: Path, runs: list[Run]) -> Bundle:
    with stage(root, "clip") as staging:
        (staging.folder / "visual.onnx").write_bytes(b"graph")
        save_runs(staging.folder / check_file("visual.onnx"), runs)
        staging.info["checks"] = {"visual.onnx": {"precision": "fp32"}}
    return Bundle.open(root)


RUN = Run({"x": np.ones((1, 2), np.float32)}, {"y": np.ones((1, 2), np.float32)})


def test_inputs_come_back_bit_for_bit_and_outputs_nearly(tmp_path: Path) -> None:
    inputs = narrowed(
        {
            "x": CHANCE.standard_normal((2, 3, 4)).astype(np.float32),
            "ids": np.arange(6)[None],
            "mask": np.tri(3, dtype=bool)[None, None],
            "past": np.zeros((1, 2, 0, 4), np.float32),
            "large": np.array([[1e6, 1.0]], np.float32),  # more than 16 bits hold
        }
    )
    outputs = {"y": CHANCE.standard_normal((2, 5)).astype(np.float32), "logits": CHANCE.random((1, 2, 9000))}
    runs = load_runs(write(tmp_path, [RUN, sampled(inputs, outputs)]), "clip", "visual.onnx")
    assert len(runs) == 2
    found = runs[1]
    assert found.inputs.keys() == inputs.keys()
    for name, array in inputs.items():
        assert found.inputs[name].dtype == array.dtype
        np.testing.assert_array_equal(found.inputs[name], array)
    np.testing.assert_allclose(found.outputs["y"], outputs["y"], rtol=1e-3)
    assert found.strides == {"logits": 3}
    np.testing.assert_allclose(found.outputs["logits"], outputs["logits"][..., ::3], rtol=1e-3, atol=1e-6)


def test_a_graph_without_runs_is_told_from_one_that_lost_them(tmp_path: Path) -> None:
    with stage(tmp_path / "old", "clip") as staging:
        (staging.folder / "visual.onnx").write_bytes(b"graph")
    assert not has_runs(Bundle.open(tmp_path / "old"), "clip", "visual.onnx")
    assert has_runs(write(tmp_path / "new", [RUN]), "clip", "visual.onnx")
    with stage(tmp_path / "lost", "clip") as staging:
        (staging.folder / "visual.onnx").write_bytes(b"graph")
        staging.info["checks"] = {"visual.onnx": {"precision": "fp32"}}
    with pytest.raises(BundleError, match=r"clip lacks visual\.check\.npz.*export clip again: `rar-export clip`"):
        has_runs(Bundle.open(tmp_path / "lost"), "clip", "visual.onnx")


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x03\x04"])
def test_what_cannot_be_read_is_said_with_the_command(
    tmp_path: Path, replace_file: Callable[..., Path], content: bytes
) -> None:
    write(tmp_path, [RUN])
    replace_file(tmp_path, "clip", "visual.check.npz", content)
    with pytest.raises(BundleError, match=r"visual\.check\.npz: not a file of check inputs .*`rar-export clip`"):
        load_runs(Bundle.open(tmp_path), "clip", "visual.onnx")


@pytest.mark.parametrize(
    "arrays",
    [
        {},
        {"0|in|x": np.ones(1)},
        {"0|out|y": np.ones(1)},
        {"0|inside|x": np.ones(1)},
        {"x": np.ones(1)},
        {"0|in|x": np.ones(1), "0|out|y": np.ones(1), "0|stride|y": np.zeros(1, int)},
        {"0|in|x": np.ones(1), "0|out|y": np.ones(1), "0|stride|y": np.ones(3)},
    ],
)
def test_so_is_what_holds_no_whole_run(
    tmp_path: Path, replace_file: Callable[..., Path], arrays: dict[str, np.ndarray]
) -> None:
    write(tmp_path, [RUN])
    np.savez(tmp_path / "odd.npz", **arrays)
    replace_file(tmp_path, "clip", "visual.check.npz", (tmp_path / "odd.npz").read_bytes())
    with pytest.raises(BundleError, match="not a file of check inputs"):
        load_runs(Bundle.open(tmp_path), "clip", "visual.onnx")


def test_pickled_objects_are_not_loaded(tmp_path: Path, replace_file: Callable[..., Path]) -> None:
    write(tmp_path, [RUN])
    np.savez(tmp_path / "odd.npz", **{"0|in|x": np.array([{}], object), "0|out|y": np.ones(1)})
    replace_file(tmp_path, "clip", "visual.check.npz", (tmp_path / "odd.npz").read_bytes())
    with pytest.raises(BundleError, match="not a file of check inputs"):
        load_runs(Bundle.open(tmp_path), "clip", "visual.onnx")


def test_altered_and_missing_files_are_named(tmp_path: Path) -> None:
    bundle = write(tmp_path, [RUN])
    path = tmp_path / "clip" / "visual.check.npz"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(BundleError, match=r"visual\.check\.npz: altered"):
        load_runs(bundle, "clip", "visual.onnx")
    path.unlink()
    with pytest.raises(BundleError, match=r"visual\.check\.npz: missing"):
        Bundle.open(tmp_path)
