"""OpenVINO answers as ONNX Runtime does, at the precision of the graph; what it cannot run is named."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from rar.runtime import Bundle, BundleError, InputError, ProviderError, Recognizer
from rar.runtime.encoder.clip import Clip
from rar.runtime.machine.cpu import instruction_sets
from rar.runtime.session import ORDER, Host, OnnxSession, OpenVinoSession, Sessions
from rar.runtime.session.checks import compare, load_runs, measure, outcomes
from rar.runtime.session.openvino import graph as openvino_graph
from rar.runtime.session.tensors import of_array, to_array

openvino = pytest.importorskip("openvino", reason="needs OpenVINO: the extra `openvino`")

BF16 = {"INFERENCE_PRECISION_HINT": "bf16"}
# OpenVINO computes in bf16 from AVX-512 on, slowly where the processor has no products of it.
HAS_BF16 = "avx512f" in instruction_sets()


@pytest.fixture(scope="module")
def graph(tiny_bundle: Path) -> Path:
    return Bundle.open(tiny_bundle).graph("clip", "visual.onnx")


@pytest.fixture(scope="module")
def session(graph: Path) -> OpenVinoSession:
    return OpenVinoSession(graph, 1)


def pixels(batch: int, seed: int = 0) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(seed).standard_normal((batch, 3, 32, 32), np.float32)


def ones(*shape: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.ones(shape, np.float32)


def cosine(a: Any, b: Any) -> float:
    return float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))


def write(path: Path, nodes: list[onnx.NodeProto], *dims: int | None, **constants: Any) -> Path:
    """A graph from x, float32 of these dimensions, to y."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, dims)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    held = [numpy_helper.from_array(np.asarray(values), name) for name, values in constants.items()]
    made = helper.make_graph(nodes, "graph", [x], [y], held)
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(made, opset_imports=opsets, ir_version=10), path)
    return path


class TestAnswers:
    @pytest.mark.parametrize("name", ["visual.onnx", "text.onnx"])
    def test_those_of_onnx_runtime(self, tiny_bundle: Path, name: str) -> None:
        path = Bundle.open(tiny_bundle).graph("clip", name)
        session, other = OpenVinoSession(path, 1), OnnxSession(path, "cpu", 1)
        assert (session.provider, list(session.outputs)) == ("openvino", list(other.outputs))
        runs = load_runs(Bundle.open(tiny_bundle), "clip", name)
        assert measure(session, runs).worst > 0.999999
        for run in runs:
            expected, found = other.run(run.inputs), session.run(run.inputs)
            assert {n: (a.shape, a.dtype) for n, a in found.items()} == {
                n: (a.shape, a.dtype) for n, a in expected.items()
            }
            assert all(cosine(expected[output], found[output]) > 0.999999 for output in expected)

    @pytest.mark.parametrize("batch", [1, 3, 0, 2])
    def test_any_batch(self, session: OpenVinoSession, graph: Path, batch: int) -> None:
        found = session.run({"pixel_values": pixels(batch)})["image_embeds"]
        assert found.shape == (batch, 32)
        expected = OnnxSession(graph, "cpu", 1).run({"pixel_values": pixels(batch)})["image_embeds"]
        np.testing.assert_allclose(found, expected, atol=1e-5)

    def test_arrays_of_any_layout(self, session: OpenVinoSession) -> None:
        given = pixels(2)
        expected = session.run({"pixel_values": given})["image_embeds"]
        given.flags.writeable = False
        turned = np.asfortranarray(given)
        same = np.broadcast_to(given[:1], given.shape)
        assert np.array_equal(session.run({"pixel_values": given})["image_embeds"], expected)
        assert np.array_equal(session.run({"pixel_values": turned})["image_embeds"], expected)
        np.testing.assert_allclose(session.run({"pixel_values": same})["image_embeds"][1], expected[0], atol=1e-6)

    def test_copies_of_several_inputs_live_until_they_are_read(self, tmp_path: Path) -> None:
        names = ("a", "b", "c")
        inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N"]) for name in names]
        outputs = [helper.make_tensor_value_info("abc", TensorProto.FLOAT, ["M"])]
        node = helper.make_node("Concat", names, ["abc"], axis=0)
        graph = helper.make_graph([node], "concat", inputs, outputs)
        onnx.save(
            helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), tmp_path / "c.onnx"
        )
        session = OpenVinoSession(tmp_path / "c.onnx", 1)
        for size in (2, 100_000):
            given = {name: np.broadcast_to(np.float32(value), size) for value, name in enumerate(names, 1)}
            assert np.array_equal(session.run(given)["abc"], np.concatenate(list(given.values())))

    def test_what_was_answered_stays(self, session: OpenVinoSession) -> None:
        first = session.run({"pixel_values": pixels(2)})["image_embeds"]
        before = first.copy()
        session.run({"pixel_values": pixels(2, seed=1)})
        assert np.array_equal(first, before)

    def test_threads_do_not_change_them(self, session: OpenVinoSession, graph: Path) -> None:
        expected = session.run({"pixel_values": pixels(2)})["image_embeds"]
        for threads in (None, 2):
            found = OpenVinoSession(graph, threads).run({"pixel_values": pixels(2)})["image_embeds"]
            np.testing.assert_allclose(found, expected, atol=1e-5)

    def test_several_threads_at_once_each_get_their_own(self, session: OpenVinoSession) -> None:
        given = [pixels(1 + seed % 3, seed) for seed in range(24)]
        expected = [session.run({"pixel_values": one})["image_embeds"] for one in given]
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda one: session.run({"pixel_values": one})["image_embeds"], given))
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-6)

    def test_outputs_are_written_where_the_caller_says(self, session: OpenVinoSession) -> None:
        expected = session.run({"pixel_values": pixels(3)})["image_embeds"]
        target = Host().zeros((5, 32), np.float32)
        assert session.run({"pixel_values": of_array(pixels(3))}, into={"image_embeds": target.rows(1, 4)}) == {}
        assert np.array_equal(to_array(target)[1:4], expected)
        assert not to_array(target)[[0, 4]].any()

    def test_a_path_that_is_no_utf_8(self, graph: Path, tmp_path: Path) -> None:
        folder = Path(os.fsdecode(bytes(tmp_path) + b"/\xff"))
        folder.mkdir()
        for file in graph.parent.glob("visual.onnx*"):
            (folder / file.name).write_bytes(file.read_bytes())
        assert OpenVinoSession(folder / graph.name, 1).run({"pixel_values": pixels(1)})["image_embeds"].shape == (1, 32)


class TestPrecision:
    def test_that_of_the_graph_unless_another_is_asked_for(self, session: OpenVinoSession) -> None:
        told = session._compiled.get_property
        assert told("INFERENCE_PRECISION_HINT").to_string() == told("KV_CACHE_PRECISION").to_string() == "f32"
        assert told("DYNAMIC_QUANTIZATION_GROUP_SIZE") == 0
        assert told("EXECUTION_MODE_HINT").name == "ACCURACY"
        assert told("INFERENCE_NUM_THREADS") == 1
        assert not told("ENABLE_CPU_PINNING")

    def test_bf16_where_the_processor_has_it_and_else_nothing(self, graph: Path) -> None:
        if not HAS_BF16:
            with pytest.raises(ProviderError, match=r"computes in f32 .*, not in bf16; leave out the option INFER"):
                OpenVinoSession(graph, 1, options=BF16)
            return
        expected = OnnxSession(graph, "cpu", 1).run({"pixel_values": pixels(2)})["image_embeds"]
        found = OpenVinoSession(graph, 1, options=BF16).run({"pixel_values": pixels(2)})["image_embeds"]
        assert 0.99 < cosine(expected, found) < 1 - 1e-7

    @pytest.mark.parametrize("options", [{"NO_SUCH": "1"}, {"DYNAMIC_QUANTIZATION_GROUP_SIZE": "many"}])
    def test_an_option_that_openvino_does_not_take(self, graph: Path, options: dict[str, str]) -> None:
        with pytest.raises(ProviderError, match=rf"visual\.onnx: OpenVINO cannot load it \(.*{next(iter(options))}"):
            OpenVinoSession(graph, 1, options=options)

    def test_8_bit_products_are_not_cut_off(self, tmp_path: Path) -> None:
        # Large weights and activations: sums of two products go far past 16 bits.
        weights = np.random.default_rng(0).integers(90, 127, (32, 32, 1, 1)).astype(np.int8)
        given = np.random.default_rng(1).uniform(0.7, 1, (2, 32, 8, 8)).astype(np.float32)
        nodes = [
            helper.make_node("QuantizeLinear", ["x", "a", "zero"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "a", "zero"], ["d"]),
            helper.make_node("DequantizeLinear", ["w", "b"], ["e"]),
            helper.make_node("Conv", ["d", "e"], ["y"]),
        ]
        constants = {"a": np.float32(1 / 255), "b": np.float32(0.01), "zero": np.uint8(0), "w": weights}
        path = write(tmp_path / "conv.onnx", nodes, None, 32, 8, 8, **constants)
        expected = np.einsum("nchw,oc->nohw", np.rint(given * 255) / 255, weights[:, :, 0, 0] * 0.01)
        np.testing.assert_allclose(OpenVinoSession(path, 1).run({"x": given})["y"], expected, rtol=0.01)

    # YES is the default with VNNI.
    @pytest.mark.parametrize("options", [{}, {"LP_TRANSFORMS_MODE": "YES"}])
    @pytest.mark.parametrize("kind", ["ReduceMean", "ReduceSum", "ReduceMax", "ReduceL2"])
    def test_each_row_of_a_quantised_batch_is_reduced(self, tmp_path: Path, kind: str, options: dict[str, str]) -> None:
        nodes = [
            helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["d"]),
            helper.make_node(kind, ["d", "axes"], ["y"], keepdims=0),
        ]
        path = write(
            tmp_path / "a.onnx", nodes, None, 9, 32, scale=np.float32(1 / 255), zero=np.uint8(0), axes=np.array([1])
        )
        given = {"x": np.random.default_rng(0).random((3, 9, 32), np.float32)}
        found = OpenVinoSession(path, 1, options=options).run(given)["y"]
        np.testing.assert_allclose(found, OnnxSession(path, "cpu", 1).run(given)["y"], rtol=2e-3)


class TestRefused:
    @pytest.mark.parametrize(
        ("inputs", "said"),
        [
            ({}, "takes pixel_values, and pixel_values is missing"),
            ({"pixel_values": pixels(1), "mask": pixels(1)}, "takes pixel_values, and mask is given"),
            ({"pixel_values": pixels(1).astype(np.float64)}, r"takes float32 \[-1, 3, .*, not float64"),
            ({"pixel_values": pixels(1)[0]}, r"takes float32 \[-1, 3, .*, not float32 \[3, 32, 32\]"),
            ({"pixel_values": pixels(1)[:, :2]}, r"takes float32 \[-1, 3, .*, not float32 \[1, 2, 32, 32\]"),
        ],
    )
    def test_inputs_that_are_not_the_graph_s(self, session: OpenVinoSession, inputs: Any, said: str) -> None:
        with pytest.raises(BundleError, match=rf"visual\.onnx: the graph {said}"):
            session.run(inputs)

    def test_outputs_that_are_not_the_graph_s(self, session: OpenVinoSession) -> None:
        with pytest.raises(BundleError, match=r"visual\.onnx: the graph has no output image_features"):
            session.run({"pixel_values": pixels(1)}, ["image_features"])
        with pytest.raises(BundleError, match=r"image_embeds is float32 \[3, 32\], not float32 \[2, 32\]"):
            session.run({"pixel_values": pixels(3)}, into={"image_embeds": Host().empty((2, 32), np.float32)})

    def test_a_graph_that_fails_on_its_inputs(self, tmp_path: Path) -> None:
        nodes = [helper.make_node("Reshape", ["x", "w"], ["y"])]
        session = OpenVinoSession(write(tmp_path / "a.onnx", nodes, None, None, w=np.array([-1, 4])), 1)
        with pytest.raises(BundleError, match=r"a\.onnx: OpenVINO cannot run it \(.*; export it again"):
            session.run({"x": ones(2, 5)})
        assert session.run({"x": ones(1, 8)})["y"].tolist() == [[1] * 4] * 2

    def test_a_batch_that_memory_does_not_hold(self, tmp_path: Path) -> None:
        # A row of the output takes 4 MB.
        path = write(tmp_path / "a.onnx", [helper.make_node("MatMul", ["x", "w"], ["y"])], None, 1, w=ones(1, 10**6))
        script = """
import logging, resource, sys
from pathlib import Path
import numpy as np
from rar.runtime.errors import OutOfMemoryError
from rar.runtime.session import OpenVinoSession
logging.basicConfig(format="%(message)s", stream=sys.stdout)
session = OpenVinoSession(Path(sys.argv[1]), 1)
session.run({"x": np.ones((1, 1), np.float32)})
held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, [held + 200 * 2**20] * 2)
try:
    session.run({"x": np.ones((128, 1), np.float32)})
except OutOfMemoryError as error:
    print("OutOfMemoryError:", error)
"""
        command = [sys.executable, "-c", script, str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stderr
        said = r"for a batch of 128 .*; running it in halves OutOfMemoryError: .* neither a batch of 128 nor one of 64"
        assert re.search(said, " ".join(done.stdout.split())), done.stdout

    def test_an_operator_that_openvino_lacks_is_named(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.onnx", [helper.make_node("Fused", ["x"], ["y"], domain="com.microsoft")], 2, 4)
        with pytest.raises(ProviderError, match=r"a\.onnx: OpenVINO cannot load it \(.*com\.microsoft\.Fused"):
            OpenVinoSession(path)

    @pytest.mark.parametrize("content", [b"", b"garbage", b"<net/>", b"\x08\x01", bytes(1000), None])
    def test_what_is_no_graph(self, tmp_path: Path, content: bytes | None) -> None:
        if content is not None:
            (tmp_path / "a.onnx").write_bytes(content)
        with pytest.raises(BundleError, match=r"a\.onnx: OpenVINO (cannot read it|finds no graph)"):
            OpenVinoSession(tmp_path / "a.onnx")

    def test_a_closed_session(self, graph: Path) -> None:
        session = OpenVinoSession(graph, 1)
        session.close()
        session.close()
        with pytest.raises(InputError, match="its session is closed"):
            session.run({"pixel_values": pixels(1)})

    def test_a_fork_of_its_process(self, graph: Path) -> None:
        script = """
import os, sys
from pathlib import Path
import numpy as np
from rar.runtime import InputError
from rar.runtime.session import OpenVinoSession
path, given = Path(sys.argv[1]), {"pixel_values": np.ones((2, 3, 32, 32), np.float32)}
session = OpenVinoSession(path, 2)
expected = session.run(given)["image_embeds"]
assert "openvino_telemetry" not in sys.modules  # it would report to others that this process began
child = os.fork()
if not child:
    try:
        session.run(given)
        raise SystemExit("it was not refused")
    except InputError as error:
        assert "does not work in a fork" in str(error), error
    session.close()
    np.testing.assert_allclose(OpenVinoSession(path, 2).run(given)["image_embeds"], expected, atol=1e-6)
    sys.exit(0)
code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
np.testing.assert_array_equal(session.run(given)["image_embeds"], expected)
sys.exit(code)
"""
        done = subprocess.run(
            [sys.executable, "-c", script, str(graph)], capture_output=True, text=True, check=False, timeout=120
        )
        assert (done.returncode, done.stderr) == (0, "")


class TestProvider:
    def test_a_bundle_answers_as_on_the_cpu(self, pictures_bundle: Path, class_pictures: list[Path]) -> None:
        with Recognizer.open(pictures_bundle, "cpu", threads=1) as other:
            expected = [one.label for one in other.recognize(class_pictures, k=3)]
        with Recognizer.open(pictures_bundle, "openvino", threads=1) as rec:
            assert [one.label for one in rec.recognize(class_pictures, k=3)] == expected
            assert rec.provider == "openvino"
            assert set(rec.clip.sessions.running.values()) == {"openvino"}

    def test_it_is_held_to_fp32_once(self, tiny_bundle: Path, writable: Callable[[Path], Path]) -> None:
        root = writable(tiny_bundle)
        Clip(Bundle.open(root), "openvino")
        (found,) = [one for one in outcomes(Bundle.open(root)) if one.place.provider == "openvino"]
        assert found.place.library == f"openvino {openvino.__version__}"
        assert all(name in found.place.processor for name in instruction_sets())
        assert found.measured.worst > 0.9999

    def test_wrong_answers_are_refused(
        self, tiny_bundle: Path, writable: Callable[[Path], Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        root = writable(tiny_bundle)
        right = OpenVinoSession._run

        def wrong(self: OpenVinoSession, *arguments: Any) -> Any:
            # As its means of uint8 were: only the first row of a batch is right.
            return {
                name: np.where(np.arange(len(a))[:, None] < 1, a, -a) for name, a in right(self, *arguments).items()
            }

        monkeypatch.setattr(OpenVinoSession, "_run", wrong)
        with pytest.raises(
            ProviderError, match=r"visual\.onnx on openvino \(.* too far from fp32 .*--provider openvino"
        ):
            Clip(Bundle.open(root), "openvino")
        assert Clip(Bundle.open(root), "cpu").visual.provider == "cpu"

    def test_auto_never_takes_it(self, tiny_bundle: Path, caplog: pytest.LogCaptureFixture) -> None:
        assert "openvino" not in ORDER
        with caplog.at_level(logging.INFO, "rar"):
            Sessions(Bundle.open(tiny_bundle)).open("clip", "visual.onnx")
        assert "openvino" not in caplog.text

    def test_verify_compares_on_it_by_name(self, tiny_bundle: Path) -> None:
        (found,) = Sessions(Bundle.open(tiny_bundle), "openvino").check("clip", "visual.onnx")
        assert found.passed
        assert found.key.place.provider == "openvino"

    def test_options_reach_it_and_bf16_has_limits_of_its_own(self, tiny_bundle: Path) -> None:
        sessions = Sessions(Bundle.open(tiny_bundle), "openvino", 1, {"openvino": {"KV_CACHE_PRECISION": "u8"}})
        session = sessions.open("clip", "visual.onnx")
        assert isinstance(session, OpenVinoSession)
        assert session._compiled.get_property("KV_CACHE_PRECISION").to_string() == "u8"
        if HAS_BF16:
            (found,) = Sessions(Bundle.open(tiny_bundle), "openvino", 1, {"openvino": BF16}).check(
                "clip", "visual.onnx"
            )
            assert (found.key.limit.worst, found.passed) == (0.99, True)
            assert "bf16" in found.key.place.settings

    def test_where_it_is_not_installed_its_extra_is_named(
        self, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "openvino", None)
        with pytest.raises(ProviderError, match=r"OpenVINO is not installed .*rar-runtime\[openvino\]"):
            Clip(Bundle.open(tiny_bundle), "openvino")


@pytest.mark.usefixtures("pytorch")  # not for PyTorch: these compile for seconds
class TestRealModels:
    @pytest.mark.parametrize("name", ["clip/visual.onnx", "clip/text.onnx", "mllm/vision.onnx", "mllm/embed.onnx"])
    def test_the_starter_at_int8(self, starter: Path, name: str) -> None:
        (found,) = Sessions(Bundle.open(starter), "openvino", 1).check(*name.split("/"))
        assert found.passed, found.measured
        assert found.measured.worst > 0.95

    def test_the_starter_s_encoder_at_fp32(self, tmp_path: Path) -> None:
        from rar.export.starter import packages, skeletons

        path = tmp_path / "visual.onnx"
        skeletons.fill("visual", packages.Tensors(), path)
        runs = skeletons.runs("visual")
        session, other = OpenVinoSession(path, 1), OnnxSession(path, "cpu", 1)
        assert measure(session, runs).worst > 0.99999
        expected = other.run(runs[0].inputs)
        found = session.run(runs[0].inputs)
        assert all(cosine(found[name], expected[name]) > 0.999999 for name in expected)

    @pytest.mark.parametrize("name", ["smolvlm", "llava"])
    def test_a_language_model_and_its_cache(self, exported_mllm: Callable[[str], Any], name: str) -> None:
        bundle = Bundle.open(exported_mllm(name).bundle)
        for graph in ("vision.onnx", "embed.onnx", "decoder.onnx"):
            runs = load_runs(bundle, "mllm", graph)
            session, other = (make(bundle.graph("mllm", graph)) for make in (OpenVinoSession, OnnxSession))
            assert measure(session, runs).worst > 0.9999
            assert compare((run, session.run(run.inputs, list(run.outputs))) for run in runs).worst > 0.9999
            assert {*session.outputs} == {*other.outputs}
            # Keys and values are written in place, as the ranker has them written.
            expected = other.run(runs[0].inputs)
            kept = {n: Host().zeros(a.shape, a.dtype) for n, a in expected.items() if n.startswith("present")}
            rest = session.run(runs[0].inputs, into=kept)
            assert {*rest} == {*expected} - {*kept}
            for output, target in kept.items():
                np.testing.assert_allclose(to_array(target), expected[output], atol=1e-4)


def test_with_vnni_and_elsewhere_8_bit_products_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for machine, names, off in (
        ("x86_64", ("avx2", "avx512f"), True),
        ("x86_64", ("avx2", "avx_vnni"), False),
        ("x86_64", ("avx512f", "avx512_vnni"), False),
        ("aarch64", ("neon",), False),
    ):
        monkeypatch.setattr(openvino_graph.platform, "machine", lambda machine=machine: machine)
        monkeypatch.setattr(openvino_graph, "instruction_sets", lambda names=names: names)
        assert openvino_graph._exact() == ({"LP_TRANSFORMS_MODE": "NO"} if off else {})
