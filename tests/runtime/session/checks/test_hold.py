"""A graph is held to fp32 before it answers: once for each thing that runs it, and never where it is too far off."""

from __future__ import annotations

import ctypes
import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import tiny_mllm
from onnx import numpy_helper

from rar.runtime import Bundle, BundleError, ProviderError
from rar.runtime.bundle.manifest import signature
from rar.runtime.encoder.clip import Clip
from rar.runtime.machine.cpu import instruction_sets
from rar.runtime.session import OnnxSession, Sessions
from rar.runtime.session.checks import Key, Place, Run, check_file, hold, key_of, load_runs, outcomes, recall, save_runs

Replace = Callable[[Path, str, str, bytes], Path]
GRAPHS = ("visual.onnx", "text.onnx")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's cache folder, empty."""
    monkeypatch.setenv("RAR_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def own(tiny_bundle: Path, writable: Callable[[Path], Path]) -> Path:
    """An encoder that nothing was opened of."""
    root = writable(tiny_bundle)
    shutil.rmtree(root / "checks", ignore_errors=True)
    return root


def alter_outputs(root: Path, component: str, graph: str, replace_file: Replace) -> None:
    """Puts others in place of what fp32 gave, as if what runs the graph gave something else."""
    runs = load_runs(Bundle.open(root), component, graph)
    chance = np.random.default_rng(0)
    others = [
        Run(run.inputs, {n: chance.standard_normal(a.shape) for n, a in run.outputs.items()}, run.strides)
        for run in runs
    ]
    path = root.parent / "others.npz"
    save_runs(path, others)
    replace_file(root, component, check_file(graph), path.read_bytes())


def alter_graph(root: Path, component: str, name: str, replace_file: Replace) -> None:
    """Scrambles one weight of a graph, as a kernel that is wrong scrambles a product."""
    path = Bundle.open(root).file(component, name)
    model = onnx.load(str(path))
    weight = max(
        (tensor for tensor in model.graph.initializer if len(tensor.dims) == 2), key=lambda t: int(np.prod(t.dims))
    )
    array = numpy_helper.to_array(weight)
    weight.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array[::-1]), weight.name))
    scratch = root.parent / "altered"
    scratch.mkdir()
    onnx.save(model, str(scratch / name), save_as_external_data=True, location=f"{name}.data", size_threshold=1024)
    for file in (name, f"{name}.data"):
        replace_file(root, component, file, (scratch / file).read_bytes())


def stored(root: Path) -> list[Path]:
    return sorted((root / "checks").glob("*")) if (root / "checks").is_dir() else []


class Counting:
    """A real session that counts its runs."""

    def __init__(self, session: OnnxSession) -> None:
        self.session, self.runs = session, 0

    def run(self, *arguments: Any) -> Any:
        self.runs += 1
        return self.session.run(*arguments)


def place(**changes: Any) -> Place:
    return replace(Place("cpu", "onnxruntime 1.0", "x86_64 with avx2"), **changes)


class TestFirstOpening:
    def test_each_graph_is_checked_when_it_is_first_used(self, own: Path) -> None:
        clip = Clip(Bundle.open(own), "cpu")
        assert [one.graph for one in outcomes(Bundle.open(own))] == ["clip/visual.onnx"]
        clip.embed_texts(["a cat"])
        visual, text = sorted(outcomes(Bundle.open(own)), key=lambda one: one.graph, reverse=True)
        assert (visual.graph, text.graph) == ("clip/visual.onnx", "clip/text.onnx")
        assert visual.place.provider == "cpu"
        assert visual.place.library == f"onnxruntime {onnxruntime.__version__}"
        assert all(name in visual.place.processor for name in instruction_sets())
        assert visual.measured.worst > 0.9999
        assert visual.measured.count == 2

    def test_the_manifest_and_verify_know_nothing_of_it(self, own: Path) -> None:
        before, count = (own / "bundle.json").read_bytes(), Bundle.open(own).verify()
        fingerprint = Bundle.open(own).component("clip").fingerprint
        Clip(Bundle.open(own), "cpu")
        assert stored(own)
        assert (own / "bundle.json").read_bytes() == before
        assert Bundle.open(own).verify() == count
        assert Bundle.open(own).component("clip").fingerprint == fingerprint

    def test_the_second_opening_reads_one_small_file_and_runs_nothing(self, own: Path) -> None:
        Clip(Bundle.open(own), "cpu")
        (path,) = stored(own)
        assert path.stat().st_size < 2000
        before = signature(path)  # not when it was read, which a stat has too
        # Damage that only a comparison would meet: the size stays.
        runs = own / "clip" / "visual.check.npz"
        content = runs.read_bytes()
        runs.write_bytes(bytes(len(content)))
        Clip(Bundle.open(own), "cpu")
        assert signature(path) == before
        path.unlink()
        with pytest.raises(BundleError, match=r"visual\.check\.npz: altered"):
            Clip(Bundle.open(own), "cpu")

    @pytest.mark.parametrize("precision", ["fp16", "int8"])
    def test_quantised_graphs_are_held_to_fp32_too(
        self, tiny_openclip: tuple[Path, Path], tmp_path: Path, precision: str
    ) -> None:
        from rar.export.cli import main

        config, checkpoint = tiny_openclip
        out = tmp_path / "quantised"
        arguments = ["--model", str(config), "--pretrained", str(checkpoint), "--precision", precision]
        assert main(["clip", str(out), *arguments]) == 0
        Clip(Bundle.open(out), "cpu").embed_texts(["a cat"])
        found = list(outcomes(Bundle.open(out)))
        assert len(found) == 2
        assert all(one.measured.worst < 1 - 1e-7 for one in found)
        entry = Bundle.open(out).component("clip").info["checks"]["visual.onnx"]
        assert entry["precision"] == precision
        assert entry["instruction_sets"] == list(instruction_sets())

    def test_the_three_graphs_of_an_mllm(
        self, exported_mllm: Callable[[str], tiny_mllm.Exported], writable: Callable[[Path], Path]
    ) -> None:
        root = writable(exported_mllm("qwen25vl").bundle)
        sessions = Sessions(Bundle.open(root), "cpu")
        for name in ("vision", "embed", "decoder"):
            sessions.open("mllm", f"{name}.onnx")
        assert {one.graph for one in outcomes(Bundle.open(root))} == {
            "mllm/vision.onnx", "mllm/embed.onnx", "mllm/decoder.onnx",
        }  # fmt: skip
        prefill, step = load_runs(Bundle.open(root), "mllm", "decoder.onnx")
        assert prefill.inputs["past_key_values.0.key"].shape[2] == 0
        assert step.inputs["past_key_values.0.key"].shape[2] > 0
        assert step.inputs["inputs_embeds"].shape[1] == 1


class TestTooFar:
    @pytest.mark.parametrize("alter", [alter_outputs, alter_graph])
    def test_nothing_is_answered_and_the_error_says_what_on_what_and_what_to_do(
        self, own: Path, replace_file: Replace, alter: Callable[..., None]
    ) -> None:
        alter(own, "clip", "visual.onnx", replace_file)
        said = (
            r"clip/visual\.onnx on cpu \(onnxruntime .*; .*\) is too far from fp32 .*cosine min .*image_embeds.*over "
            r"2 rows; the limits are 0\.9999 and 0\.9999\. Nothing is answered.*--provider.*--precision.*rar-export v"
        )
        for _ in range(2):  # and it stays so
            with pytest.raises(ProviderError, match=said):
                Clip(Bundle.open(own), "cpu")
        assert stored(own) == []

    def test_with_auto_the_next_provider_is_tried_until_none_is_left(self, own: Path, replace_file: Replace) -> None:
        alter_outputs(own, "clip", "visual.onnx", replace_file)
        with pytest.raises(ProviderError, match=r"nothing runs clip/visual\.onnx; passed over: .*cpu \(.*too far from"):
            Clip(Bundle.open(own), "auto")

    def test_one_graph_of_several_fails_where_it_is_used(self, own: Path, replace_file: Replace) -> None:
        alter_outputs(own, "clip", "text.onnx", replace_file)
        clip = Clip(Bundle.open(own), "cpu")
        pixels = clip.preprocess([np.zeros((40, 40, 3), np.uint8)])
        assert clip.embed_pixels(pixels).shape == (1, clip.dim)
        with pytest.raises(ProviderError, match=r"clip/text\.onnx on cpu .*text_embeds"):
            clip.embed_texts(["a cat"])
        assert [one.graph for one in outcomes(Bundle.open(own))] == ["clip/visual.onnx"]

    def test_one_graph_of_an_mllm_fails_alone(
        self,
        exported_mllm: Callable[[str], tiny_mllm.Exported],
        writable: Callable[[Path], Path],
        replace_file: Replace,
    ) -> None:
        root = writable(exported_mllm("llava").bundle)
        alter_outputs(root, "mllm", "decoder.onnx", replace_file)
        sessions = Sessions(Bundle.open(root), "cpu")
        sessions.open("mllm", "vision.onnx")
        sessions.open("mllm", "embed.onnx")
        with pytest.raises(ProviderError, match=r"mllm/decoder\.onnx on cpu"):
            sessions.open("mllm", "decoder.onnx")

    def test_a_recognizer_answers_nothing(
        self, pictures_bundle: Path, tmp_path: Path, replace_file: Replace, edit_manifest: Callable[..., None]
    ) -> None:
        root = Path(shutil.copytree(pictures_bundle, tmp_path / "whole"))
        alter_outputs(root, "clip", "visual.onnx", replace_file)
        encoder = Bundle.open(root).component("clip").fingerprint
        edit_manifest(root, lambda manifest: manifest["components"]["memory"]["info"].update(encoder=encoder))
        run = subprocess.run(
            [
                sys.executable,
                "-m",
                "rar.runtime.cli.recognize",
                str(root),
                str(root / "bundle.json"),
                "--provider",
                "cpu",
            ],
            check=False,
            capture_output=True,
            text=True,
        )
        assert (run.returncode, run.stdout) == (2, "")
        assert "too far from fp32" in run.stderr

    def test_an_engine_is_held_to_the_limit_of_its_own_precision(self, own: Path, cache: Path) -> None:
        bundle = Bundle.open(own)
        session = OnnxSession(bundle.graph("clip", "visual.onnx"))
        engine = place(provider="engine", library="tensorrt_rtx 1.7", processor="sm89", settings="engine's key")
        key = key_of(bundle, "clip", "visual.onnx", engine, "fp16")
        assert key.limit.worst == 0.999
        assert key_of(bundle, "clip", "visual.onnx", engine).limit.worst == 0.9999
        assert hold(bundle, session, key, cache).worst > 0.9999
        (found,) = outcomes(bundle)
        assert found.place == engine


class TestRemembered:
    def held(self, root: Path, cache: Path, key: Key) -> int:
        """How many runs it took."""
        bundle = Bundle.open(root)
        session = Counting(OnnxSession(bundle.graph("clip", "visual.onnx")))
        hold(bundle, session, key, cache)
        return session.runs

    def key(self, root: Path, **changes: Any) -> Key:
        return key_of(Bundle.open(root), "clip", "visual.onnx", place(**changes))

    def test_once_for_each_provider_version_processor_and_settings(self, own: Path, cache: Path) -> None:
        others: list[dict[str, Any]] = [
            {},
            {"provider": "cuda"},
            {"library": "onnxruntime 1.1"},
            {"processor": "x86_64 with avx2, avx512_vnni"},
            {"settings": "use_tf32 1"},
        ]
        for changes in others:
            assert self.held(own, cache, self.key(own, **changes)) == 1
        assert all(self.held(own, cache, self.key(own, **changes)) == 0 for changes in others)
        assert len(stored(own)) == len(others)

    def test_a_graph_or_inputs_that_changed_are_checked_again(
        self, own: Path, cache: Path, replace_file: Replace
    ) -> None:
        assert self.held(own, cache, self.key(own)) == 1
        runs = load_runs(Bundle.open(own), "clip", "visual.onnx")
        save_runs(own.parent / "same.npz", [*runs, *runs])
        replace_file(own, "clip", "visual.check.npz", (own.parent / "same.npz").read_bytes())
        assert self.held(own, cache, self.key(own)) == 2

    def test_a_copy_of_the_bundle_takes_it_along(self, own: Path, cache: Path, tmp_path: Path) -> None:
        assert self.held(own, cache, self.key(own)) == 1
        copied = Path(shutil.copytree(own, tmp_path / "image"))
        assert self.held(copied, cache, self.key(copied)) == 0

    @pytest.mark.parametrize("folder", ["file", "link"])
    def test_where_the_bundle_cannot_be_written_the_user_s_cache_has_it(
        self, own: Path, cache: Path, tmp_path: Path, folder: str
    ) -> None:
        if folder == "file":
            (own / "checks").write_bytes(b"")
        else:
            (tmp_path / "elsewhere").mkdir()
            (own / "checks").symlink_to(tmp_path / "elsewhere")
        assert self.held(own, cache, self.key(own)) == 1
        assert len(list((cache / "checks").glob("*.json"))) == 1
        assert self.held(own, cache, self.key(own)) == 0
        if folder == "link":
            assert not list((tmp_path / "elsewhere").iterdir())

    def test_where_nothing_can_be_written_it_is_checked_each_time(
        self, own: Path, cache: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        (own / "checks").write_bytes(b"")
        cache.write_bytes(b"")
        with caplog.at_level(logging.INFO, "rar"):
            assert [self.held(own, cache, self.key(own)) for _ in range(2)] == [1, 1]
        assert "cannot be stored" in caplog.text

    def test_a_read_only_bundle(self, own: Path, cache: Path) -> None:
        script = (
            "import sys; from rar.runtime import Bundle; from rar.runtime.encoder.clip import Clip; "
            "Clip(Bundle.open(sys.argv[1]), 'cpu')"
        )
        for path in (own, *own.rglob("*")):
            path.chmod(0o555 if path.is_dir() else 0o444)
        try:
            subprocess.run([sys.executable, "-c", script, str(own)], check=True, preexec_fn=_no_superpowers)
        finally:
            for path in (own, *own.rglob("*")):
                path.chmod(0o755 if path.is_dir() else 0o644)
        assert stored(own) == []
        assert len(list((cache / "checks").glob("*.json"))) == 1

    @pytest.mark.parametrize(
        "damage",
        [
            lambda _: b"",
            lambda _: b"{",
            lambda _: b"[" * 20_000,
            lambda _: b"[]",
            lambda _: b"null",
            lambda text: text[:-20],
            lambda text: text.replace(b'"form": 1', b'"form": 2'),
            lambda text: text.replace(b'"cpu"', b'"cuda"'),
            lambda text: text.replace(b'"cpu"', b"7"),
            lambda text: text.replace(b"clip/visual.onnx", b"clip/text.onnx"),
            lambda text: json.dumps({**json.loads(text), "place": {}}).encode(),
            lambda text: json.dumps({**json.loads(text), "measured": {"worst": 0.2}}).encode(),
            lambda text: text.replace(b'"worst": ', b'"worst": NaN, "_": '),
            lambda text: b" " * 20_000 + text,
        ],
    )
    def test_what_is_no_such_outcome_is_none(self, own: Path, cache: Path, damage: Callable[[bytes], bytes]) -> None:
        assert self.held(own, cache, self.key(own)) == 1
        (path,) = stored(own)
        good = path.read_bytes()
        assert damage(good) != good
        path.write_bytes(damage(good))
        assert recall(Bundle.open(own), cache, self.key(own)) is None
        path.write_bytes(good)
        assert self.held(own, cache, self.key(own)) == 0

    def test_links_and_pipes_in_a_stranger_s_bundle_are_not_followed(
        self, own: Path, cache: Path, tmp_path: Path
    ) -> None:
        assert self.held(own, cache, self.key(own)) == 1
        (path,) = stored(own)
        shutil.move(path, tmp_path / "good.json")
        path.symlink_to(tmp_path / "good.json")
        assert recall(Bundle.open(own), cache, self.key(own)) is None
        path.unlink()
        os.mkfifo(path)
        assert recall(Bundle.open(own), cache, self.key(own)) is None

    def test_what_was_too_far_off_is_not_passed_by_a_looser_outcome(self, own: Path, cache: Path) -> None:
        loose, strict = (
            key_of(Bundle.open(own), "clip", "visual.onnx", place(), precision) for precision in ("int8", "fp32")
        )
        assert self.held(own, cache, loose) == 1
        assert self.held(own, cache, strict) == 1

    def test_two_processes_may_check_at_once(self, own: Path) -> None:
        script = (
            "import sys; from rar.runtime import Bundle; from rar.runtime.encoder.clip import Clip\n"
            "bundle = Bundle.open(sys.argv[1]); print('ready', flush=True); sys.stdin.readline()\n"
            "clip = Clip(bundle, 'cpu', 1); clip.embed_texts(['a cat']); print('done', flush=True)"
        )
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        processes = [subprocess.Popen([sys.executable, "-c", script, str(own)], **pipes) for _ in range(3)]
        for process in processes:
            assert process.stdout.readline() == "ready\n"
        outputs = []
        for process in processes:
            process.stdin.write("go\n")
            process.stdin.flush()
        for process in processes:
            outputs.append(process.communicate()[0])
            assert process.returncode == 0
        assert outputs == ["done\n"] * 3
        assert {one.graph for one in outcomes(Bundle.open(own))} == {"clip/visual.onnx", "clip/text.onnx"}
        assert len(stored(own)) == 2  # no temporary file is left


class TestOlderBundles:
    @pytest.fixture
    def old(self, own: Path, edit_manifest: Callable[..., None]) -> Path:
        """As it was exported before graphs had runs."""

        def strip(manifest: dict[str, Any]) -> None:
            clip = manifest["components"]["clip"]
            del clip["info"]["checks"]
            for graph in GRAPHS:
                del clip["files"][check_file(graph)]

        edit_manifest(own, strip)
        for graph in GRAPHS:
            (own / "clip" / check_file(graph)).unlink()
        return own

    def test_they_open_and_one_line_says_what_is_not_known(self, old: Path, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.WARNING, "rar"):
            clip = Clip(Bundle.open(old), "cpu")
            assert clip.embed_texts(["a cat"]).shape == (1, clip.dim)
        (line,) = caplog.messages
        assert "clip was exported without inputs to check its graphs with" in line
        assert "`rar-export clip`" in line
        assert stored(old) == []

    def test_only_some_of_its_runs_missing_is_damage(self, own: Path, edit_manifest: Callable[..., None]) -> None:
        edit_manifest(own, lambda m: m["components"]["clip"]["files"].pop("visual.check.npz"))
        with pytest.raises(BundleError, match=r"clip lacks visual\.check\.npz"):
            Clip(Bundle.open(own), "cpu")

    @pytest.mark.parametrize("entry", [{}, {"visual.onnx": {}}, {"visual.onnx": {"precision": "fp64"}}, 3])
    def test_a_precision_that_is_not_told_is_damage(
        self, own: Path, edit_manifest: Callable[..., None], entry: Any
    ) -> None:
        edit_manifest(own, lambda m: m["components"]["clip"]["info"].update(checks=entry))
        with pytest.raises(BundleError, match=r"does not say which precision visual\.onnx has"):
            Clip(Bundle.open(own), "cpu")


def _no_superpowers() -> None:
    """Root, too, is to be stopped by a folder's permissions: drops CAP_DAC_OVERRIDE from what is executed next."""
    if os.geteuid() == 0:
        ctypes.CDLL(None, use_errno=True).prctl(24, 1, 0, 0, 0)  # PR_CAPBSET_DROP
