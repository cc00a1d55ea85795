"""8-bit products are exact on every processor: x86 without VNNI would cut their sums off at 16 bits."""

from __future__ import annotations

import ast
import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static

import rar.benchmarks
import rar.export
import rar.runtime
from rar.runtime import Bundle
from rar.runtime.machine.cpu import instruction_sets
from rar.runtime.session import OnnxSession, session_options
from rar.runtime.session.onnxruntime import graph

ENTRY = "session.x64quantprecision"
# What `make edge` has unpacked, or one that is installed; of release 10 or later, 7.2 stops inside ONNX Runtime.
UNPACKED = Path(__file__).parents[4] / "build/edge/qemu/usr/bin"
QEMU = shutil.which("qemu-x86_64", path=f"{UNPACKED}{os.pathsep}{os.environ['PATH']}")

# Prints of each graph the cosine of what our session gives, and of what one without our options gives, to what the
# graph in float32 gives.
_SCRIPT = """
import json
from pathlib import Path
import numpy as np, onnxruntime as ort
from rar.runtime.session import OnnxSession

def cosine(a, b):
    return float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))

found = {}
for name, full in (("dynamic", "matmul"), ("QDQ", "conv"), ("QOperator", "conv")):
    x = {"x": np.load(f"{full}.npy")}
    expected = OnnxSession(Path(f"{full}.onnx")).run(x)["y"]
    plain = ort.InferenceSession(f"{name}.onnx", providers=["CPUExecutionProvider"]).run(None, x)[0]
    found[name] = cosine(OnnxSession(Path(f"{name}.onnx")).run(x)["y"], expected), cosine(plain, expected)
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Graphs as quantizers write them, whose sums of two products go far past 16 bits."""
    folder = tmp_path_factory.mktemp("exact")
    rng = np.random.default_rng(0)
    # Weights and activations are large; of neighbours with one sign the products are cut off, others are not.
    rows = rng.uniform(0.5, 1, (8, 512)).astype(np.float32)
    pictures = rng.uniform(0.5, 1, (2, 32, 12, 12)).astype(np.float32)
    for name, kind, shape, given in (
        ("matmul", "MatMul", (512, 32), rows),
        ("conv", "Conv", (16, 32, 3, 3), pictures),
    ):
        _write(folder / f"{name}.onnx", kind, rng.choice([-1, 1], shape) * rng.uniform(0.7, 1, shape), given)
    quantize_dynamic(folder / "matmul.onnx", folder / "dynamic.onnx", per_channel=True, weight_type=QuantType.QInt8)

    class Once(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime ships no types
        def __init__(self) -> None:
            self.left = iter([{"x": pictures}])

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.left, None)

    for form in QuantFormat:
        quantize_static(
            folder / "conv.onnx",
            folder / f"{form.name}.onnx",
            Once(),
            quant_format=form,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
    return folder


def _write(path: Path, kind: str, weights: np.ndarray, given: np.ndarray) -> None:
    np.save(path.with_suffix(".npy"), given)
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * given.ndim) for name in "xy")
    held = numpy_helper.from_array(weights.astype(np.float32), "w")
    graph = helper.make_graph([helper.make_node(kind, ["x", "w"], ["y"])], path.stem, [x], [y], [held])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), path)


def _cosines(graphs: Path, *emulator: str) -> dict[str, tuple[float, float]]:
    command = [*emulator, sys.executable, "-c", _SCRIPT]
    done = subprocess.run(command, cwd=graphs, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


def test_on_this_processor(graphs: Path) -> None:
    for name, (ours, _) in _cosines(graphs).items():
        assert ours > 0.999, name


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the emulator runs this machine's own Python")
def test_on_a_processor_without_vnni(graphs: Path) -> None:
    if QEMU is None:
        pytest.skip("no qemu-x86_64: run `make edge`, or install qemu-user 10 or later")
    for name, (ours, plain) in _cosines(graphs, QEMU, "-cpu", "Haswell").items():
        print(f"{name}: {ours:.5f}, without the entry {plain:.5f}")
        assert ours > 0.999, name
        assert plain < 0.995, f"{name}: nothing was cut off, so this shows nothing"


def test_with_vnni_the_option_is_left_out_for_it_costs_half_the_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    for names, told in (((), True), (("avx2", "avx512f"), True), (("avx_vnni",), False), (("avx512_vnni",), False)):
        monkeypatch.setattr(graph, "instruction_sets", lambda names=names: names)
        try:
            assert session_options().get_session_config_entry(ENTRY) == "1"
        except RuntimeError:  # there is no such entry
            assert not told, names
        else:
            assert told, names


@pytest.mark.skipif(not {"avx_vnni", "avx512_vnni"} & set(instruction_sets()), reason="a processor without VNNI")
def test_with_vnni_the_option_changes_no_bit(graphs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, full in (("dynamic", "matmul"), ("QDQ", "conv"), ("QOperator", "conv")):
        x = {"x": np.load(graphs / f"{full}.npy")}
        with monkeypatch.context() as patch:
            found = OnnxSession(graphs / f"{name}.onnx").run(x)["y"]
            patch.setattr(graph, "instruction_sets", tuple)
            np.testing.assert_array_equal(OnnxSession(graphs / f"{name}.onnx").run(x)["y"], found)


def test_every_session_is_told(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph, "instruction_sets", tuple)
    assert session_options().get_session_config_entry(ENTRY) == "1"
    visual = Bundle.open(tiny_bundle).graph("clip", "visual.onnx")
    made = onnxruntime.InferenceSession
    told = []

    def spy(path: str, settings: onnxruntime.SessionOptions, **rest: object) -> onnxruntime.InferenceSession:
        told.append(settings.get_session_config_entry(ENTRY))
        return made(path, settings, **rest)

    monkeypatch.setattr(onnxruntime, "InferenceSession", spy)
    pixels = np.zeros((1, 3, 32, 32), np.float32)
    for fp16 in (False, True):
        OnnxSession(visual, fp16=fp16).run({"pixel_values": pixels})
    assert told == ["1", "1"]


def test_options_are_made_in_one_place() -> None:
    makers = []
    for package in (rar.runtime, rar.export, rar.benchmarks):
        for folder in package.__path__:
            for path in sorted(Path(folder).rglob("*.py")):
                for node in ast.walk(ast.parse(path.read_text())):
                    if isinstance(node, ast.Attribute | ast.Name):
                        called = node.attr if isinstance(node, ast.Attribute) else node.id
                        if called == "SessionOptions":
                            makers.append("/".join(path.parts[-3:]))
    # A session without these options may give other answers on other processors.
    assert makers == ["session/onnxruntime/graph.py"]
