"""Every graph becomes an engine for every card, with a batch of any size, on a machine without a GPU."""

import logging
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from rar.export.engine import callbacks
from rar.export.engine.build import build
from rar.export.engine.store import Options, build_engines
from rar.export.engine.target import choose
from rar.runtime import Bundle, ExportError
from rar.runtime.session.checks import LIMITS, load_runs
from rar.runtime.session.tensorrt.library import Library
from rar.runtime.session.tensorrt.stored import Profile, engine_file, find

from .conftest import make_model

BATCH = Profile("batch", {"x": ((1, 8), (4, 8), (16, 8))})


def make_graph(path: Path, *nodes: onnx.NodeProto, **weights: np.ndarray) -> Path:
    """A graph from `x` [N, 8] to `y`, on disk."""
    onnx.save(make_model(*nodes, **weights), str(path))
    return path


@pytest.mark.parametrize(
    "arch", ["sm89", *(pytest.param(arch, marks=pytest.mark.matrix) for arch in ("sm86", "sm120"))]
)
def test_every_graph_of_a_bundle_builds_with_a_dynamic_batch(whole: Path, arch: str) -> None:
    library, target = choose(arch)
    outcomes = list(build_engines(whole, library, target, Options()))
    bundle = Bundle.open(whole)
    graphs = [f"{part}/{name}" for part in ("clip", "mllm") if part in bundle.components
              for name in bundle.component(part).files if name.endswith(".onnx")]  # fmt: skip
    assert sorted(outcome.record.graph for outcome in outcomes) == sorted(graphs)
    for graph in graphs:
        record = find(bundle, graph, target)
        assert record.key.precision == "fp16"
        assert record.conversion is not None
        assert record.conversion >= LIMITS["fp16"].worst
        assert engine_file(bundle, record).stat().st_size > 10_000
        runs = load_runs(bundle, *graph.split("/"))
        assert len(runs) == len(record.key.profiles)
        for run, profile in zip(runs, record.key.profiles, strict=True):
            assert profile.holds({name: value.shape for name, value in run.inputs.items()})
            first = next(iter(profile.shapes.values()))
            assert first[0] != first[2]
        assert sum(array.nbytes for run in runs for array in (*run.inputs.values(), *run.outputs.values())) < 8e6
    assert bundle.verify() > len(graphs)


@pytest.mark.parametrize("arch", ["sm75", "sm80", "sm121"])
def test_the_other_cards_are_known_too(llava: Path, tmp_path: Path, arch: str) -> None:
    root = Path(shutil.copytree(llava, tmp_path / "own"))
    library, target = choose(arch)
    assert len(list(build_engines(root, library, target, Options()))) == 3
    assert find(Bundle.open(root), "mllm/decoder.onnx", target).key.target.arch == arch


@pytest.mark.parametrize("precision", ["fp32", "int8", "fp8"])
def test_a_language_model_at_every_precision(llava: Path, tmp_path: Path, precision: Any) -> None:
    root = Path(shutil.copytree(llava, tmp_path / "own"))
    library, target = choose("sm89")
    keys = {
        outcome.record.graph: (outcome.record.key.precision, "weights-only" in outcome.record.key.flags)
        for outcome in build_engines(root, library, target, Options(precision=precision))
    }
    assert keys == {
        "mllm/vision.onnx": (precision, precision == "int8"),
        "mllm/embed.onnx": ("fp32" if precision == "fp32" else "fp16", False),
        "mllm/decoder.onnx": (precision, precision != "fp32"),
    }


def test_convolutions_stay_fp16_where_products_become_int8(
    tensorrt_rtx: None, starter_encoder: Path, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(starter_encoder, tmp_path / "own"))
    library, target = choose("sm86")
    outcomes = build_engines(root, library, target, Options(precision="int8"))
    assert [outcome.record.key.precision for outcome in outcomes] == ["fp16", "int8"]


class TestBuild:
    def test_the_precision_in_the_graph_is_that_of_the_engine(self, rtx: Library, tmp_path: Path) -> None:
        sizes = []
        for kind in (np.float32, np.float16):
            cast = [helper.make_node("Cast", ["x"], ["h"], to=helper.np_dtype_to_tensor_dtype(np.dtype(kind)))]
            product = helper.make_node("MatMul", ["h", "w"], ["y"])
            weight = np.random.default_rng(0).standard_normal((8, 1 << 16)).astype(kind)
            path = make_graph(tmp_path / "g.onnx", *cast, product, w=weight)
            model = onnx.load(str(path))
            model.graph.output[0].type.tensor_type.elem_type = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
            onnx.save(model, str(path))
            sizes.append(len(build(rtx, "sm89", path, [BATCH]).engine))
        assert sizes[0] - sizes[1] > (1 << 19) * 1.5  # of the 2 ** 19 weights most are two bytes shorter

    def test_an_operator_that_the_parser_does_not_know_is_named_with_its_node(
        self, rtx: Library, tmp_path: Path
    ) -> None:
        odd = helper.make_node("GroupQueryAttention", ["x"], ["y"], name="layers.3/attention", domain="com.microsoft")
        path = make_graph(tmp_path / "g.onnx", odd)
        with pytest.raises(ExportError, match=r"parser refuses it: .*GroupQueryAttention.*layers\.3/attention"):
            build(rtx, "sm89", path, [BATCH])

    def test_what_the_builder_says_reaches_the_user(self, rtx: Library, tmp_path: Path) -> None:
        product = helper.make_node("MatMul", ["x", "w"], ["y"], name="the_product")
        path = make_graph(tmp_path / "g.onnx", product, w=np.ones((8, 8), np.float32))
        with pytest.raises(ExportError, match=r"cannot build it for sm75: .*the_product.*FP32 GEMM"):
            build(rtx, "sm75", path, [BATCH])

    def test_inputs_that_the_profile_does_not_know(self, rtx: Library, tmp_path: Path) -> None:
        path = make_graph(tmp_path / "g.onnx", helper.make_node("Relu", ["x"], ["y"]))
        with pytest.raises(ExportError, match="takes x, which is not what this package exports"):
            build(rtx, "sm89", path, [Profile("batch", {"z": BATCH.shapes["x"]})])

    def test_a_memory_limit_is_taken(self, rtx: Library, tmp_path: Path) -> None:
        path = make_graph(tmp_path / "g.onnx", helper.make_node("Relu", ["x"], ["y"]))
        assert len(build(rtx, "sm89", path, [BATCH], memory=64 << 20).engine) > 0

    def test_ctrl_c_into_the_library_stops_the_build(
        self, rtx: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        product = helper.make_node("MatMul", ["x", "w"], ["y"])
        path = make_graph(tmp_path / "g.onnx", product, w=np.ones((8, 8), np.float32))

        def interrupted(**_: Any) -> None:
            signal.raise_signal(signal.SIGINT)

        monkeypatch.setattr(callbacks, "tqdm", interrupted)
        with pytest.raises(KeyboardInterrupt):
            build(rtx, "sm89", path, [BATCH])

    def test_phases_are_shown(self, rtx: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        shown: list[str] = []
        real = callbacks.tqdm

        def note(**settings: Any) -> Any:
            shown.append(settings["desc"])
            return real(**{**settings, "disable": True})

        monkeypatch.setattr(callbacks, "tqdm", note)
        product = helper.make_node("MatMul", ["x", "w"], ["y"])
        build(rtx, "sm89", make_graph(tmp_path / "g.onnx", product, w=np.ones((8, 8), np.float32)), [BATCH])
        assert shown
        assert all(name.startswith("g.onnx: ") for name in shown)

    def test_its_chatter_goes_to_the_log(
        self, rtx: Library, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
    ) -> None:
        path = make_graph(tmp_path / "g.onnx", helper.make_node("Relu", ["x"], ["y"]))
        with caplog.at_level(logging.DEBUG, logger="rar.export.engine"):
            build(rtx, "sm89", path, [BATCH])
        assert caplog.records
        assert capfd.readouterr() == ("", "")
