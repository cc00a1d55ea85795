"""The form of a graph: which a TensorRT takes, and how far a conversion may be off."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from rar.export.cli import main
from rar.export.engine.form import graph_precision, plan_precision, prepare
from rar.export.engine.store import Options, build_engines
from rar.export.engine.target import choose
from rar.export.graphs.files import save
from rar.runtime import ExportError
from rar.runtime.session import OnnxSession
from rar.runtime.session.checks import Run

from .conftest import make_model


def write(folder: Path, *nodes: onnx.NodeProto, **weights: np.ndarray) -> tuple[Path, Run]:
    """A graph on disk and a run of it."""
    path = folder / "source.onnx"
    save(make_model(*nodes, **weights), path)
    inputs = {"x": np.random.default_rng(0).standard_normal((4, 8), np.float32)}
    return path, Run(inputs, OnnxSession(path, "cpu").run(inputs))


PRODUCT = helper.make_node("MatMul", ["x", "w"], ["y"])
WEIGHT = np.random.default_rng(1).standard_normal((8, 64)).astype(np.float32)


class TestGraphPrecision:
    def test_fp32_and_fp16(self) -> None:
        assert graph_precision(make_model(PRODUCT, w=WEIGHT), "clip/visual.onnx") == "fp32"
        assert graph_precision(make_model(PRODUCT, w=WEIGHT.astype(np.float16)), "clip/visual.onnx") == "fp16"

    @pytest.mark.parametrize("kind", ["MatMulInteger", "ConvInteger", "DynamicQuantizeLinear", "QuantizeLinear"])
    def test_what_was_quantised_for_onnx_runtime_is_refused(self, kind: str) -> None:
        model = make_model(helper.make_node(kind, ["x"], ["y"]))
        said = rf"mllm/decoder\.onnx: was quantised for ONNX Runtime \(1 {kind}\).*--precision fp16"
        with pytest.raises(ExportError, match=said):
            graph_precision(model, "mllm/decoder.onnx")

    def test_so_are_contrib_operators(self) -> None:
        model = make_model(helper.make_node("MatMulNBits", ["x"], ["y"], domain="com.microsoft"))
        with pytest.raises(ExportError, match="MatMulNBits"):
            graph_precision(model, "mllm/decoder.onnx")

    def test_a_whole_int8_bundle_is_refused_before_anything_is_written(
        self, tiny_openclip: tuple[Path, Path], tmp_path: Path
    ) -> None:
        config, checkpoint = tiny_openclip
        out = tmp_path / "bundle"
        model = ["--model", str(config), "--pretrained", str(checkpoint), "--precision", "int8"]
        assert main(["clip", str(out), *model]) == 0
        before = sorted(out.rglob("*"))
        with pytest.raises(ExportError, match=r"clip/visual\.onnx: was quantised .*--precision fp16"):
            list(build_engines(out, *choose("sm89"), Options()))
        assert sorted(path for path in out.rglob("*") if path.name != "engines.lock") == before


def test_a_bundle_at_fp16_is_built_as_it_is(tiny_openclip: tuple[Path, Path], tmp_path: Path) -> None:
    config, checkpoint = tiny_openclip
    out = tmp_path / "bundle"
    assert main(["clip", str(out), "--model", str(config), "--pretrained", str(checkpoint), "--precision", "fp16"]) == 0
    outcomes = list(build_engines(out, *choose("sm89"), Options()))
    assert [(outcome.record.key.precision, outcome.record.conversion) for outcome in outcomes] == [("fp16", None)] * 2
    with pytest.raises(ExportError, match=r"is fp16; for engines at fp32 export the bundle with --precision fp32"):
        list(build_engines(out, *choose("sm89"), Options(precision="fp32")))


class TestPlan:
    @pytest.mark.parametrize(
        ("graph", "library", "asked", "given", "flags"),
        [
            ("clip/visual.onnx", "tensorrt_rtx", "fp16", "fp16", ()),
            ("clip/visual.onnx", "tensorrt_rtx", "int8", "int8", ("weights-only",)),
            ("clip/visual.onnx", "tensorrt_rtx", "fp8", "fp8", ()),
            ("clip/visual.onnx", "tensorrt", "int8", "int8", ()),
            ("mllm/decoder.onnx", "tensorrt_rtx", "int8", "int8", ("weights-only",)),
            ("mllm/decoder.onnx", "tensorrt_rtx", "fp8", "fp8", ("weights-only",)),
            ("mllm/decoder.onnx", "tensorrt", "int8", "fp16", ()),
            ("mllm/embed.onnx", "tensorrt_rtx", "int8", "fp16", ()),
            ("mllm/embed.onnx", "tensorrt_rtx", "fp32", "fp32", ()),
        ],
    )
    def test_what_is_quantised_is_what_the_library_takes(
        self, graph: str, library: str, asked: Any, given: str, flags: tuple[str, ...]
    ) -> None:
        assert plan_precision(make_model(PRODUCT, w=WEIGHT), graph, library, asked) == (given, flags)


class TestPrepare:
    @pytest.mark.parametrize(
        ("precision", "weights_only", "least"),
        [
            ("fp16", False, 0.99999),
            ("int8", True, 0.9995),
            ("int8", False, 0.999),
            ("fp8", True, 0.99),
            ("fp8", False, 0.99),
        ],
    )
    def test_a_conversion_is_close(self, tmp_path: Path, precision: Any, weights_only: bool, least: float) -> None:
        (tmp_path / "out").mkdir()
        source, run = write(tmp_path, PRODUCT, w=WEIGHT)
        form = prepare(source, tmp_path / "out", "fp32", precision, weights_only, [run], lambda: [run.inputs])
        assert form.path != source
        assert form.cosine is not None
        assert form.cosine > least
        kinds = [node.op_type for node in onnx.load(str(form.path)).graph.node]
        assert kinds.count("QuantizeLinear") == (precision != "fp16" and not weights_only)
        assert kinds.count("DequantizeLinear") == (precision != "fp16") * (1 if weights_only else 2)

    def test_what_is_there_already_is_taken(self, tmp_path: Path) -> None:
        source, run = write(tmp_path, PRODUCT, w=WEIGHT)
        form = prepare(source, tmp_path, "fp32", "fp32", False, [run], list)
        assert (form.path, form.cosine) == (source, None)

    def test_one_that_fp16_cannot_hold_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "out").mkdir()
        weight = np.array([[1e6, 1e5]] * 8, np.float32)
        source, run = write(tmp_path, PRODUCT, w=weight)
        with pytest.raises(ExportError, match=r"at fp16 it is too far from fp32: cosine min 0\.7"):
            prepare(source, tmp_path / "out", "fp32", "fp16", False, [run], list)

    def test_one_that_loses_too_much_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "out").mkdir()
        # A column of an input that is ten thousand times as large takes all the steps of its scale.
        weight = WEIGHT.copy()
        weight[0] = 0
        source, run = write(tmp_path, PRODUCT, w=weight)
        inputs = {"x": run.inputs["x"] * np.where(np.arange(8) == 0, 1e4, 1).astype(np.float32)}
        run = Run(inputs, OnnxSession(source, "cpu").run(inputs))
        with pytest.raises(ExportError, match=r"at int8 it is too far.*choose a higher --precision"):
            prepare(source, tmp_path / "out", "fp32", "int8", False, [run], lambda: [inputs])

    def test_nothing_to_quantise(self, tmp_path: Path) -> None:
        (tmp_path / "out").mkdir()
        source, run = write(tmp_path, helper.make_node("Relu", ["x"], ["y"]))
        with pytest.raises(ExportError, match="no matrix products to quantise"):
            prepare(source, tmp_path / "out", "fp32", "int8", True, [run], list)
