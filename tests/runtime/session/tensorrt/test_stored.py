"""Engines in a bundle: which may be loaded, and why another may not."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rar.runtime import Bundle, BundleError, ProviderError
from rar.runtime.bundle.change import stage
from rar.runtime.session.tensorrt.stored import (
    EngineKey,
    EngineRecord,
    Profile,
    Target,
    engine_file,
    find,
    graph_sha256,
    info,
    records,
)

TARGET = Target("tensorrt_rtx", "1.7.1", "sm89")
GRAPH = "clip/visual.onnx"
PROFILE = Profile("batch", {"pixel_values": ((1, 3, 8, 8), (4, 3, 8, 8), (16, 3, 8, 8))})


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
        assert engine_file(bundle, found).read_bytes() == b"engine"
        assert engine_file(bundle, found).parent == root / "engines" / "tensorrt_rtx-sm89-1.7.1"

    def test_a_graph_that_was_exported_again_makes_it_stale(self, root: Path) -> None:
        write_graph(root, b"another graph")
        with pytest.raises(ProviderError, match=r"stale: the graph was exported again.*rar-export engine .* sm89"):
            find(Bundle.open(root), GRAPH, TARGET)

    def test_one_without_weights_of_an_earlier_release_is_not_loaded(self, root: Path) -> None:
        made = record(Bundle.open(root))
        write_engine(root, replace(made, key=replace(made.key, flags=("weight-stripped",))))
        with pytest.raises(ProviderError, match=r"built without its weights.*run `rar-export engine .* --target sm89`"):
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


def test_what_earlier_releases_noted_of_a_comparison_is_passed_over(
    root: Path, edit_manifest: Callable[..., None]
) -> None:
    bundle = Bundle.open(root)
    edit_manifest(
        root,
        lambda manifest: manifest["components"][TARGET.component]["info"]["engines"][GRAPH].update(
            parity={"cosine": 0.2, "device": "NVIDIA L4"}
        ),
    )
    assert find(Bundle.open(root), GRAPH, TARGET) == record(bundle)


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
