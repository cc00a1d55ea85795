"""Engines in a bundle: which may be loaded, and why another may not."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rar.runtime import Bundle, BundleError, ProviderError
from rar.runtime.bundle import stage
from rar.runtime.engine_checks import Check, checks, save_checks, worst_cosine
from rar.runtime.engines import (
    EngineKey,
    EngineRecord,
    Parity,
    Profile,
    Target,
    engine_file,
    find,
    graph_sha256,
    info,
    records,
    set_parity,
)

TARGET = Target("tensorrt_rtx", "1.7.1", "sm89")
GRAPH = "clip/visual.onnx"
PROFILE = Profile("batch", {"pixel_values": ((1, 3, 8, 8), (4, 3, 8, 8), (16, 3, 8, 8))})
RUN = Check("batch", {"pixel_values": np.ones((1, 3, 8, 8), np.float32)}, {"image_embeds": np.ones((1, 4), np.float32)})


def write_graph(root: Path, content: bytes = b"graph") -> None:
    with stage(root, "clip") as staging:
        (staging.folder / "visual.onnx").write_bytes(content)
        (staging.folder / "visual.onnx.data").write_bytes(b"weights")


def record(bundle: Bundle, target: Target = TARGET, **changes: Any) -> EngineRecord:
    key = EngineKey(graph_sha256(bundle, "clip", "visual.onnx"), target, "fp16", (PROFILE,), ("memory-1",))
    return replace(EngineRecord(GRAPH, key, conversion=0.99999), **changes)


def write_engine(root: Path, made: EngineRecord) -> None:
    with stage(root, made.key.target.component) as staging:
        (staging.folder / made.file).write_bytes(b"engine")
        save_checks(staging.folder / made.check_file, [RUN])
        staging.info.update(info(made.key.target, [made]))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A bundle with a graph and its engine."""
    write_graph(tmp_path / "bundle")
    write_engine(tmp_path / "bundle", record(Bundle.open(tmp_path / "bundle")))
    return tmp_path / "bundle"


class TestFind:
    def test_what_was_stored_is_found(self, root: Path) -> None:
        bundle = Bundle.open(root)
        found = find(bundle, GRAPH, TARGET)
        assert found == record(bundle)
        assert found.key.sha256 == record(bundle).key.sha256
        assert not found.accepted
        assert engine_file(bundle, found).read_bytes() == b"engine"
        assert engine_file(bundle, found).parent == root / "engines" / "tensorrt_rtx-sm89-1.7.1"

    def test_its_runs_come_back(self, root: Path) -> None:
        bundle = Bundle.open(root)
        (run,) = checks(bundle, find(bundle, GRAPH, TARGET))
        assert run.profile == "batch"
        np.testing.assert_array_equal(run.inputs["pixel_values"], RUN.inputs["pixel_values"])
        np.testing.assert_array_equal(run.outputs["image_embeds"], RUN.outputs["image_embeds"])

    def test_a_graph_that_was_exported_again_makes_it_stale(self, root: Path) -> None:
        write_graph(root, b"another graph")
        with pytest.raises(ProviderError, match=r"stale: the graph was exported again.*rar-export engine .* sm89"):
            find(Bundle.open(root), GRAPH, TARGET)

    def test_weights_count_as_the_graph(self, root: Path) -> None:
        before = graph_sha256(Bundle.open(root), "clip", "visual.onnx")
        with stage(root, "clip") as staging:
            (staging.folder / "visual.onnx").write_bytes(b"graph")
            (staging.folder / "visual.onnx.data").write_bytes(b"WEIGHTS")
        assert graph_sha256(Bundle.open(root), "clip", "visual.onnx") != before

    @pytest.mark.parametrize(
        "device",
        [
            replace(TARGET, arch="sm86"),
            replace(TARGET, version="1.8.0"),
            replace(TARGET, library="tensorrt", version="11.4.0"),
        ],
    )
    def test_one_for_another_device_or_version_is_not_loaded(self, root: Path, device: Target) -> None:
        said = rf"no engine of clip/visual.onnx for {device.arch}.*sm89 by tensorrt_rtx 1\.7\.1.*rar-export engine"
        with pytest.raises(ProviderError, match=said):
            find(Bundle.open(root), GRAPH, device)

    def test_none_for_this_graph(self, root: Path) -> None:
        with pytest.raises(ProviderError, match=r"no engine of clip/text\.onnx.*only of other graphs"):
            find(Bundle.open(root), "clip/text.onnx", TARGET)

    def test_none_at_all(self, tmp_path: Path) -> None:
        write_graph(tmp_path)
        with pytest.raises(ProviderError, match=r"no engine .* for sm89, tensorrt_rtx 1\.7\.1; run `rar-export engine"):
            find(Bundle.open(tmp_path), GRAPH, TARGET)


class TestParity:
    def test_an_accepted_engine_stays(self, root: Path) -> None:
        bundle = Bundle.open(root)
        bundle = set_parity(bundle, find(bundle, GRAPH, TARGET), Parity(0.9999, "NVIDIA L4"))
        found = find(bundle, GRAPH, TARGET)
        assert found.accepted
        assert found.parity == Parity(0.9999, "NVIDIA L4")

    @pytest.mark.parametrize("cosine", [0.5, float("nan"), float("-inf")])
    def test_a_rejected_one_is_never_loaded_again(self, root: Path, cosine: float) -> None:
        bundle = Bundle.open(root)
        bundle = set_parity(bundle, find(bundle, GRAPH, TARGET), Parity(cosine, "NVIDIA L4"))
        json.loads((root / "bundle.json").read_text(), parse_constant=pytest.fail)
        with pytest.raises(ProviderError, match="rejected on NVIDIA L4"):
            find(bundle, GRAPH, TARGET)

    def test_the_manifest_says_that_it_is_pending(self, root: Path) -> None:
        entry = Bundle.open(root).component(TARGET.component).info["engines"][GRAPH]
        assert entry["parity"] == "not yet compared"
        assert entry["conversion"] == 0.99999


class TestBadInput:
    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("precision", "fp64"),
            ("profiles", []),
            ("profiles", [{"name": "batch", "shapes": {"x": [[4], [2], [1]]}}]),
            ("profiles", [{"name": "batch", "shapes": {"x": [[1], [1, 2], [1]]}}]),
            ("profiles", [{"name": "batch", "shapes": {"x": [[-1], [1], [1]]}}]),
            ("profiles", "batch"),
            ("parity", "fine"),
            ("parity", {"cosine": "high", "device": "?"}),
            ("flags", None),
            ("conversion", "little"),
            ("graph_sha256", ...),
        ],
    )
    def test_a_malformed_entry_is_an_error(
        self, root: Path, edit_manifest: Callable[..., None], key: str, value: Any
    ) -> None:
        def change(manifest: dict[str, Any]) -> None:
            entry = manifest["components"][TARGET.component]["info"]["engines"][GRAPH]
            if value is ...:
                del entry[key]
            else:
                entry[key] = value

        edit_manifest(root, change)
        with pytest.raises(BundleError, match="malformed"):
            find(Bundle.open(root), GRAPH, TARGET)

    @pytest.mark.parametrize("graph", ["../../etc/passwd", "clip/../x.onnx", "clip\\visual.onnx", ""])
    def test_a_graph_whose_name_leads_elsewhere_is_refused(
        self, root: Path, edit_manifest: Callable[..., None], graph: str
    ) -> None:
        def change(manifest: dict[str, Any]) -> None:
            engines = manifest["components"][TARGET.component]["info"]["engines"]
            engines[graph] = engines.pop(GRAPH)

        edit_manifest(root, change)
        with pytest.raises(BundleError, match="malformed"):
            records(Bundle.open(root), TARGET)

    @pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x03\x04"])
    def test_runs_that_cannot_be_read(self, root: Path, replace_file: Callable[..., Path], content: bytes) -> None:
        replace_file(root, TARGET.component, "clip-visual.engine.npz", content)
        bundle = Bundle.open(root)
        with pytest.raises(BundleError, match="build the engine again"):
            checks(bundle, find(bundle, GRAPH, TARGET))

    def test_runs_of_another_profile(self, root: Path, replace_file: Callable[..., Path], tmp_path: Path) -> None:
        save_checks(tmp_path / "other.npz", [replace(RUN, profile="decode")])
        replace_file(root, TARGET.component, "clip-visual.engine.npz", (tmp_path / "other.npz").read_bytes())
        bundle = Bundle.open(root)
        with pytest.raises(BundleError, match="lacks runs of batch"):
            checks(bundle, find(bundle, GRAPH, TARGET))

    def test_an_altered_engine_is_not_loaded(self, root: Path) -> None:
        bundle = Bundle.open(root)
        (root / "engines" / "tensorrt_rtx-sm89-1.7.1" / "clip-visual.engine").write_bytes(b"enginE")
        with pytest.raises(BundleError, match="altered"):
            engine_file(bundle, find(bundle, GRAPH, TARGET))


class TestProfile:
    @given(st.lists(st.integers(0, 20), min_size=4, max_size=4))
    def test_it_holds_what_lies_between_its_ends(self, shape: list[int]) -> None:
        fits = 1 <= shape[0] <= 16 and shape[1:] == [3, 8, 8]
        assert PROFILE.holds({"pixel_values": shape}) == fits

    def test_other_inputs_and_ranks_do_not_fit(self) -> None:
        assert not PROFILE.holds({"pixel_values": (1, 3, 8)})
        assert not PROFILE.holds({"input_ids": (1, 3, 8, 8)})
        assert not PROFILE.holds({})

    def test_keys_differ_where_anything_does(self, root: Path) -> None:
        key = record(Bundle.open(root)).key
        wider = Profile("batch", {"pixel_values": ((1, 3, 8, 8), (4, 3, 8, 8), (32, 3, 8, 8))})
        others = [
            replace(key, graph="0" * 64),
            replace(key, target=replace(TARGET, arch="sm86")),
            replace(key, target=replace(TARGET, version="1.7.2")),
            replace(key, target=replace(TARGET, library="tensorrt")),
            replace(key, precision="fp32"),
            replace(key, profiles=(wider,)),
            replace(key, profiles=(PROFILE, PROFILE)),
            replace(key, flags=()),
        ]
        assert len({key.sha256, *(other.sha256 for other in others)}) == 1 + len(others)


class TestWorstCosine:
    @given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(1, 40))
    def test_it_is_the_lowest_of_the_rows(self, seed: int, rows: int, width: int) -> None:
        chance = np.random.default_rng(seed)
        a, b = (chance.standard_normal((rows, width)).astype(np.float32) for _ in range(2))
        wide = [(x.astype(np.float64), y.astype(np.float64)) for x, y in zip(a, b, strict=True)]
        lowest = min(float(x @ y / np.linalg.norm(x) / np.linalg.norm(y)) for x, y in wide)
        assert worst_cosine({"y": a}, {"y": b}) == pytest.approx(lowest, abs=1e-9)

    def test_equal_outputs_are_one_even_where_they_are_zero(self) -> None:
        zeros = {"a": np.zeros((2, 3)), "b": np.ones((1, 2, 2))}
        assert worst_cosine(zeros, zeros) == pytest.approx(1.0)

    def test_zero_is_unlike_anything_else(self) -> None:
        assert worst_cosine({"a": np.zeros((1, 3))}, {"a": np.ones((1, 3))}) == 0.0

    @pytest.mark.parametrize(
        "found",
        [
            {},
            {"a": np.ones((1, 4))},
            {"a": np.array([[1.0, np.nan, 1.0]])},
            {"a": np.array([[1.0, np.inf, 1.0]])},
        ],
    )
    def test_absent_mis_shaped_and_infinite_outputs_pass_no_limit(self, found: dict[str, Any]) -> None:
        assert np.isnan(worst_cosine({"a": np.ones((1, 3))}, found))

    def test_an_output_without_elements_says_nothing(self) -> None:
        assert worst_cosine({"a": np.ones((0, 3))}, {"a": np.ones((0, 3))}) == 1.0
