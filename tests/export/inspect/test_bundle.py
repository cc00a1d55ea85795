"""`inspect` shows what the manifest says; `verify` finds what is wrong."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from memories import add_part

from rar.export.inspect.bundle import describe, verify
from rar.runtime import Bundle, BundleError, ProviderError, RarError
from rar.runtime.bundle.change import stage
from rar.runtime.bundle.files import write_json
from rar.runtime.bundle.manifest import Component, FileRecord
from rar.runtime.machine.cpu import instruction_sets
from rar.runtime.session import checks

CLIP = (
    *("visual.onnx", "visual.onnx.data", "visual.check.npz", "text.onnx", "text.onnx.data", "text.check.npz"),
    *("tokenizer.json", "preprocess.json"),
)
PART = ("vectors.npy", "entries.npy", "sources.npy", "sources.utf8", "reduction.npz", "index.usearch")
FILES = [
    *(f"clip/{name}" for name in CLIP),
    *(f"memory/{part}/{name}" for part in ("pictures", "texts") for name in PART),
    "memory/labels.json",
]


@pytest.fixture
def own(pictures_bundle: Path, writable: Callable[[Path], Path]) -> Path:
    return writable(pictures_bundle)


class TestDescribe:
    def test_names_every_part_file_and_fact(self, pictures_bundle: Path) -> None:
        bundle = Bundle.open(pictures_bundle)
        text = describe(bundle)
        assert str(pictures_bundle) in text
        for name, component in bundle.components.items():
            assert f"\n{name}  " in text
            for file in component.files:
                assert f"  {file} " in text
        facts = (
            "precision: fp32",
            "dim: 32",
            "parity",
            "classes: 4",
            "rank: wca",
            "pictures: 12 entries",
            "to 8 dimensions",
            "kB",
            "compared with fp32 where it was opened",
            "clip/visual.onnx on cpu (onnxruntime ",
            f"instruction_sets {' '.join(instruction_sets())}",
        )
        for fact in facts:
            assert fact in text

    def test_sizes_add_up(self, tmp_path: Path) -> None:
        with stage(tmp_path / "b", "clip") as staging:
            (staging.folder / "a").write_bytes(bytes(1_500_000))
            (staging.folder / "b").write_bytes(bytes(300))
        text = describe(Bundle.open(tmp_path / "b"))
        assert "clip  1.5 MB" in text
        assert "0.3 kB" in text

    def test_a_bundle_without_components(self, tmp_path: Path) -> None:
        write_json(tmp_path / "bundle.json", {"format": 1, "components": {}})
        assert str(tmp_path) in describe(Bundle.open(tmp_path))

    def test_a_component_without_files(self, tmp_path: Path) -> None:
        with stage(tmp_path / "b", "clip") as staging:
            staging.info["made"] = "of nothing"
        assert "made: of nothing" in describe(Bundle.open(tmp_path / "b"))

    def test_a_stranger_s_facts_do_not_steer_the_terminal(self, own: Path, edit_manifest: Callable[..., None]) -> None:
        edit_manifest(own, lambda manifest: manifest["components"]["clip"]["info"].update(source="evil\x1b[2J"))
        assert "\x1b" not in describe(Bundle.open(own))


class TestVerify:
    def test_a_good_bundle(self, pictures_bundle: Path) -> None:
        lines = list(verify(pictures_bundle))
        files = sum(len(component.files) for component in Bundle.open(pictures_bundle).components.values())
        checked = [line for line in lines if line.startswith("  clip/")]
        assert [line.split()[0] for line in checked] == ["clip/text.onnx", "clip/visual.onnx"]
        for line in checked:
            provider, worst, mean, *limits, word = line.split()[1:]
            assert (provider, *limits, word) == ("cpu", "0.9999", "0.9999", "passed")
            assert 0.9999 < float(worst) <= float(mean) <= 1.00001
        assert [line for line in lines if line not in checked] == [
            "manifest: clip, memory",
            f"hashes: {files} files as exported",
            "check: cosine to fp32 (worst row, mean) and its limits",
            "encoder: both towers give unit vectors of 32 dimensions",
            "memory: 100.0% of 12 sampled pictures find themselves",
            "memory: 100.0% of 10 sampled texts find themselves",
            "recognizer: opens",
        ]

    def test_graphs_are_compared_again_whatever_was_remembered(
        self, own: Path, replace_file: Callable[..., Path], tmp_path: Path
    ) -> None:
        runs = checks.load_runs(Bundle.open(own), "clip", "text.onnx")
        turned = [checks.Run(run.inputs, {name: -array for name, array in run.outputs.items()}) for run in runs]
        checks.save_runs(tmp_path / "turned.npz", turned)
        replace_file(own, "clip", "text.check.npz", (tmp_path / "turned.npz").read_bytes())
        lines: list[str] = []
        with pytest.raises(ProviderError, match=r"clip/text\.onnx on cpu .*cosine min -1\.0.*Nothing is answered"):
            lines.extend(verify(own))
        assert lines[-2].split()[:2] == ["clip/text.onnx", "cpu"]
        assert lines[-2].endswith("FAILED")
        assert lines[-1].endswith("passed")

    def test_a_bundle_of_before_there_were_check_inputs(self, own: Path, edit_manifest: Callable[..., None]) -> None:
        def strip(manifest: dict[str, Any]) -> None:
            clip, memory = manifest["components"]["clip"], manifest["components"]["memory"]
            del clip["info"]["checks"], clip["files"]["visual.check.npz"], clip["files"]["text.check.npz"]
            memory["info"]["encoder"] = Component(
                {name: FileRecord(**record) for name, record in clip["files"].items()}, {}
            ).fingerprint

        edit_manifest(own, strip)
        lines = list(verify(own))
        assert sum("exported without inputs to check it with; `rar-export clip`" in line for line in lines) == 2
        assert lines[-1] == "recognizer: opens"

    def test_without_memory(self, tiny_bundle: Path) -> None:
        assert list(verify(tiny_bundle))[-1] == "memory: none yet"

    def test_names_only(self, names_bundle: Path) -> None:
        assert list(verify(names_bundle))[-1] == "recognizer: opens"

    @pytest.mark.parametrize("file", FILES)
    def test_every_altered_or_missing_file_is_named(self, own: Path, file: str) -> None:
        path = own / file
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.unlink()
        path.write_bytes(content)
        with pytest.raises(BundleError, match=f"{file}: altered"):
            list(verify(own))
        path.unlink()
        with pytest.raises(BundleError, match=f"{file}: missing"):
            list(verify(own))

    def test_an_index_of_other_vectors(self, own: Path) -> None:
        chance = np.random.default_rng(0)
        vectors = chance.normal(size=(2, 400, 32)).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=2, keepdims=True)
        labels = np.zeros(400, np.int32)
        memory = Bundle.open(own).component("memory").info
        with stage(own, "memory") as staging:
            staging.info.update(memory, text_weight=0.0)
            add_part(staging, "pictures", vectors[0], labels, 8)
            index = (staging.folder / "pictures" / "index.usearch").read_bytes()
            shutil.rmtree(staging.folder / "pictures")
            add_part(staging, "pictures", vectors[1], labels, 8)
            (staging.folder / "pictures" / "index.usearch").unlink()
            (staging.folder / "pictures" / "index.usearch").write_bytes(index)
            write_json(staging.folder / "labels.json", ["a"])
        with pytest.raises(BundleError, match="of memory/pictures find themselves; build the memory again"):
            list(verify(own))

    def test_a_memory_of_another_encoder(self, own: Path, edit_manifest: Callable[..., None]) -> None:
        edit_manifest(own, lambda manifest: manifest["components"]["memory"]["info"].update(encoder="other"))
        with pytest.raises(BundleError, match="another encoder"):
            list(verify(own))

    def test_an_encoder_of_another_dimension(self, own: Path, edit_manifest: Callable[..., None]) -> None:
        edit_manifest(own, lambda manifest: manifest["components"]["clip"]["info"].update(dim=31))
        with pytest.raises(BundleError, match="visual tower gives no unit vector of 31"):
            list(verify(own))

    @pytest.mark.parametrize("forged", [{"templates": []}, {"templates": 3}, {"clean": "shout"}, {"dim": "x"}])
    def test_encoder_settings_that_do_not_work(
        self, own: Path, forged: dict[str, Any], edit_manifest: Callable[..., None]
    ) -> None:
        edit_manifest(own, lambda manifest: manifest["components"]["clip"]["info"].update(forged))
        with pytest.raises(RarError):
            list(verify(own))

    def test_no_bundle(self, tmp_path: Path) -> None:
        with pytest.raises(BundleError, match="no bundle there"):
            list(verify(tmp_path))

    def test_the_manifest_is_plain_json_with_relative_paths(self, pictures_bundle: Path) -> None:
        manifest = json.loads((pictures_bundle / "bundle.json").read_text())
        assert manifest["format"] == 1
        paths = [r["path"] for c in manifest["components"].values() for r in c["files"].values()]
        assert all(not path.startswith("/") and ".." not in path for path in paths)
        on_disk = {str(p.relative_to(pictures_bundle)) for p in pictures_bundle.rglob("*") if p.is_file()}
        on_disk = {path for path in on_disk if not path.startswith("checks/")}
        assert set(paths) | {"bundle.json"} == on_disk
