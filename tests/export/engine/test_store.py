"""The cache of engines: what is built once, what is built again, and what a stopped or a second build leaves."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import numpy_helper

from rar.export.engine import store
from rar.export.engine.profiles import Shapes
from rar.export.engine.store import Options, Outcome, build_engines
from rar.export.engine.target import choose
from rar.runtime import Bundle, BundleError, ExportError, InputError, ProviderError
from rar.runtime.bundle.change import stage
from rar.runtime.session.tensorrt.stored import Target, engine_file, find, records

LIBRARY, TARGET = choose("sm86")
VISUAL, TEXT = "clip/visual.onnx", "clip/text.onnx"


def make(root: Path, target: Target = TARGET, **options: Any) -> dict[str, Outcome]:
    found = build_engines(root, LIBRARY, target, Options(**options))
    return {outcome.record.graph: outcome for outcome in found}


def built(root: Path, **options: Any) -> list[str]:
    return [graph for graph, outcome in make(root, **options).items() if outcome.built]


def change_weights(root: Path, name: str) -> None:
    """Exports a graph again, with one weight changed."""
    with stage(root, "clip") as staging:
        bundle = Bundle.open(root)
        for file in bundle.component("clip").files:
            shutil.copyfile(bundle.file("clip", file), staging.folder / file)
        model = onnx.load(str(staging.folder / name))
        weight = next(tensor for tensor in model.graph.initializer if len(tensor.dims) == 2)
        array = numpy_helper.to_array(weight).copy()
        array.flat[0] += 1e-3  # stays near what fp32 gave of the graph as it was
        weight.CopyFrom(numpy_helper.from_array(array, weight.name))
        for file in (name, f"{name}.data"):
            (staging.folder / file).unlink()
        onnx.save(model, str(staging.folder / name), save_as_external_data=True, location=f"{name}.data")
        staging.info.update(bundle.component("clip").info)


@pytest.fixture(scope="module")
def engines(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with its engines. Shared: copy before writing."""
    root = Path(shutil.copytree(tiny_bundle, tmp_path_factory.mktemp("engines") / "bundle"))
    assert built(root) == [VISUAL, TEXT]
    return root


@pytest.fixture
def own(engines: Path, tmp_path: Path) -> Path:
    """The same, of this test's own."""
    return Path(shutil.copytree(engines, tmp_path / "own"))


def test_a_hubs_cache_is_refused_before_anything_is_built(tiny_bundle: Path, tmp_path: Path) -> None:
    cached = tmp_path / "models--user--bundle" / "snapshots" / ("a" * 40)
    shutil.copytree(tiny_bundle, cached)
    before = sorted(cached.rglob("*"))
    with pytest.raises(BundleError, match="rar-export pull user/bundle FOLDER"):
        make(cached)
    assert sorted(cached.rglob("*")) == before


class TestCache:
    def test_the_second_call_builds_nothing(self, own: Path) -> None:
        bundle = Bundle.open(own)
        before = {graph: engine_file(bundle, record).stat() for graph, record in records(bundle, TARGET).items()}
        assert built(own) == []
        after = {graph: engine_file(bundle, record).stat() for graph, record in records(bundle, TARGET).items()}
        assert after == before

    def test_a_changed_graph_is_built_again_and_the_other_is_not(self, own: Path) -> None:
        change_weights(own, "text.onnx")
        with pytest.raises(ProviderError, match="stale"):
            find(Bundle.open(own), TEXT, TARGET)
        assert built(own) == [TEXT]
        assert find(Bundle.open(own), TEXT, TARGET).key.graph != find(Bundle.open(own), VISUAL, TARGET).key.graph
        assert Bundle.open(own).verify() > 0

    @pytest.mark.parametrize(
        "options",
        [
            {"precision": "fp32"},
            {"shapes": Shapes((1, 2, 4))},
            {"memory": 1 << 30},
        ],
    )
    def test_other_choices_are_built_again(self, own: Path, options: dict[str, Any]) -> None:
        assert built(own, **options) == [VISUAL, TEXT]
        assert built(own, **options) == []
        assert len(records(Bundle.open(own), TARGET)) == 2

    def test_other_pictures_to_calibrate_on_are_built_again(
        self, own: Path, photos: list[Path], tmp_path: Path
    ) -> None:
        (tmp_path / "photos").mkdir()
        for photo in photos[:2]:
            shutil.copy(photo, tmp_path / "photos")
        library, target = choose("sm89")
        found = [
            [outcome.built for outcome in build_engines(own, library, target, Options(precision="fp8", images=images))]
            for images in (None, None, str(tmp_path / "photos"))
        ]
        assert found == [[True, True], [False, False], [True, True]]

    def test_targets_stand_beside_each_other(self, own: Path) -> None:
        library, other = choose("sm89")
        assert all(outcome.built for outcome in build_engines(own, library, other, Options()))
        assert built(own) == []
        assert len(os.listdir(own / "engines")) == 2
        with pytest.raises(ProviderError, match=r"sm86 by tensorrt_rtx.*sm89 by tensorrt_rtx"):
            find(Bundle.open(own), VISUAL, replace(TARGET, arch="sm120"))

    def test_engines_of_another_version_are_not_taken(self, own: Path) -> None:
        with pytest.raises(ProviderError, match=rf"sm86 by tensorrt_rtx {TARGET.version}"):
            find(Bundle.open(own), VISUAL, replace(TARGET, version="1.6.0"))

    def test_a_bundle_without_check_inputs_is_refused_before_anything_is_built(
        self, own: Path, edit_manifest: Callable[..., None]
    ) -> None:
        def strip(manifest: dict[str, Any]) -> None:
            clip = manifest["components"]["clip"]
            del clip["info"]["checks"], clip["files"]["visual.check.npz"], clip["files"]["text.check.npz"]

        edit_manifest(own, strip)
        before = sorted(own.rglob("*"))
        with pytest.raises(BundleError, match=r"clip was exported without inputs to check.*`rar-export clip`"):
            built(own, precision="fp32")
        assert sorted(own.rglob("*")) == before

    def test_entries_that_cannot_be_read_are_replaced(
        self, own: Path, edit_manifest: Callable[..., None], caplog: pytest.LogCaptureFixture
    ) -> None:
        edit_manifest(own, lambda manifest: manifest["components"][TARGET.component]["info"].clear())
        assert built(own) == [VISUAL, TEXT]
        assert "malformed" in caplog.text
        assert find(Bundle.open(own), VISUAL, TARGET).key.target == TARGET

    def test_other_components_are_untouched(self, own: Path, tiny_bundle: Path) -> None:
        for file, stored in Bundle.open(tiny_bundle).component("clip").files.items():
            assert Bundle.open(own).component("clip").files[file] == stored


class TestStopped:
    def test_what_was_finished_stays(self, tiny_bundle: Path, writable: Callable[[Path], Path]) -> None:
        root = writable(tiny_bundle)
        first = next(iter(build_engines(root, LIBRARY, TARGET, Options())))
        assert first.built
        assert list(records(Bundle.open(root), TARGET)) == [VISUAL]
        assert built(root) == [TEXT]

    def test_ctrl_c_leaves_nothing_half_done(
        self, tiny_bundle: Path, writable: Callable[[Path], Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        root = writable(tiny_bundle)
        (root / "engines.lock").touch()
        before = sorted(root.rglob("*"))

        def stop(*_: Any) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(store, "build", stop)
        with pytest.raises(KeyboardInterrupt):
            make(root)
        assert sorted(root.rglob("*")) == before

    @pytest.mark.parametrize("moment", ["build", "info"])
    def test_a_killed_build_leaves_the_bundle_as_it_was(
        self, tiny_bundle: Path, writable: Callable[[Path], Path], moment: str
    ) -> None:
        root = writable(tiny_bundle)
        program = (
            "import os, signal, sys\n"
            "from rar.export.engine import store\n"
            "from rar.export.engine.target import choose\n"
            f"store.{moment} = lambda *a: os.kill(os.getpid(), signal.SIGKILL)\n"
            "list(store.build_engines(sys.argv[1], *choose('sm86'), store.Options()))\n"
        )
        killed = subprocess.run([sys.executable, "-c", program, str(root)], check=False, capture_output=True)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        bundle = Bundle.open(root)
        assert list(bundle.components) == ["clip"]
        assert bundle.verify() > 0
        assert list(root.glob(".engines-*"))
        assert built(root) == [VISUAL, TEXT]
        assert not list(root.glob(".*"))
        assert len(os.listdir(root / "engines")) == 1

    def test_a_full_disk_is_said(
        self, tiny_bundle: Path, writable: Callable[[Path], Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        root = writable(tiny_bundle)

        def full(*_: Any) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(store, "info", full)
        with pytest.raises(ExportError, match=r"cannot be written .No space left"):
            make(root)
        assert list(Bundle.open(root).components) == ["clip"]


def test_of_two_processes_one_builds_and_one_waits(tiny_bundle: Path, writable: Callable[[Path], Path]) -> None:
    root = writable(tiny_bundle)
    command = [sys.executable, "-m", "rar.export.cli", "engine", str(root), "--target", "sm86"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    running = [subprocess.Popen(command, **pipes) for _ in range(2)]  # type: ignore[call-overload]
    found = [process.communicate() for process in running]
    assert [process.returncode for process in running] == [0, 0], found
    said = [out for out, _ in found]
    assert sorted((text.count(": built"), text.count(": was there")) for text in said) == [(0, 2), (2, 0)]
    waited = found[0 if ": built" in said[1] else 1][1]
    assert "another process builds engines for it; waiting" in waited
    assert Bundle.open(root).verify() > 0


class TestRefused:
    def test_no_bundle(self, tmp_path: Path) -> None:
        with pytest.raises(BundleError, match="no bundle there"):
            make(tmp_path)

    def test_a_bundle_without_graphs(self, tmp_path: Path) -> None:
        with stage(tmp_path, "memory") as staging:
            (staging.folder / "x").write_bytes(b"x")
        with pytest.raises(BundleError, match="neither an encoder nor an MLLM"):
            make(tmp_path)

    @pytest.mark.parametrize(
        ("arch", "precision", "least"), [("sm75", "fp32", 80), ("sm75", "int8", 80), ("sm86", "fp8", 89)]
    )
    def test_a_precision_that_the_card_has_not(self, tiny_bundle: Path, arch: str, precision: Any, least: int) -> None:
        library, target = choose(arch)
        with pytest.raises(ExportError, match=f"{precision} from sm{least} on, not"):
            list(build_engines(tiny_bundle, library, target, Options(precision=precision)))

    def test_a_folder_that_cannot_be_written(self, tiny_bundle: Path, writable: Callable[[Path], Path]) -> None:
        root = writable(tiny_bundle)
        (root / "engines.lock").mkdir()
        with pytest.raises(BundleError, match=r"cannot be written .*engines\.lock"):
            make(root)

    def test_a_refused_build_lets_go_of_the_bundle(
        self, tiny_bundle: Path, writable: Callable[[Path], Path], tmp_path: Path
    ) -> None:
        root = writable(tiny_bundle)
        options = Options(precision="fp8", images=str(tmp_path / "none"))
        with pytest.raises(InputError, match="none"):  # no pictures to calibrate on
            list(build_engines(root, *choose("sm89"), options))
        assert built(root) == [VISUAL, TEXT]


@pytest.mark.parametrize("kind", ["lock", "folder"])
def test_a_stranger_s_links_are_not_written_through(
    tiny_bundle: Path, writable: Callable[[Path], Path], tmp_path: Path, kind: str
) -> None:
    root = writable(tiny_bundle)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("precious")
    link, target = ("engines.lock", outside / "file") if kind == "lock" else ("engines", outside)
    (root / link).symlink_to(target)
    if kind == "lock":
        with pytest.raises(BundleError, match="link"):
            make(root)
    else:  # what no manifest names is swept
        make(root)
        assert not (root / "engines").is_symlink()
    assert [(path.name, path.read_text()) for path in outside.iterdir()] == [("file", "precious")]
