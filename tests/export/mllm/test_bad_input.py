"""What cannot be exported is said clearly, and nothing half-written remains."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rar.export.cli import main
from rar.export.mllm import export as exporting
from rar.export.mllm.export import export_mllm
from rar.export.mllm.source import load
from rar.runtime import Bundle, ExportError


@pytest.fixture
def folder(tiny_llava: Path, tmp_path: Path) -> Path:
    """A model folder of this test's own."""
    return Path(shutil.copytree(tiny_llava, tmp_path / "model"))


def edit(name: str, **change: Any) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        path = folder / name
        path.write_text(json.dumps({**json.loads(path.read_text()), **change}))

    return apply


def without(*patterns: str) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        for pattern in patterns:
            for path in folder.glob(pattern):
                path.unlink()

    return apply


def more_layers(folder: Path) -> None:
    text = json.loads((folder / "config.json").read_text())["text_config"]
    edit("config.json", text_config={**text, "num_hidden_layers": 9})(folder)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            edit("config.json", model_type="blip-2"),
            "supported are llava, llava_onevision, fast_vlm, idefics3, smolvlm, qwen2_5_vl, qwen3_vl, ",
        ),
        (edit("config.json", model_type="nothing-known"), "cannot load the configuration"),
        (without("config.json"), "cannot load"),
        (lambda folder: (folder / "config.json").write_text("{"), "cannot load"),
        (without("tokenizer*", "special_tokens_map.json", "added_tokens.json"), "cannot load the tokenizer"),
        (without("preprocessor_config.json", "processor_config.json"), "cannot load"),
        (without("*.safetensors"), "cannot load"),
        (lambda folder: next(folder.glob("*.safetensors")).write_bytes(b"x" * 100), "cannot load the weights"),
        (more_layers, "weights are missing"),
        (lambda folder: (folder / "chat_template.jinja").write_text("{{ messages[0]['role'] }}"), "chat template"),
        (lambda folder: (folder / "chat_template.jinja").write_text("{% for %}"), "chat template"),
    ],
)
def test_a_model_folder_that_cannot_be_used_is_refused(
    spoil: Callable[[Path], None],
    message: str,
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    spoil(folder)
    assert main(["mllm", str(tmp_path / "bundle"), "--model", str(folder)]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "bundle").exists()


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="cannot load"):
        load(str(tmp_path / "absent"))


@pytest.mark.parametrize(("name", "tiles"), [("llava", 2), ("qwen3vl", 2), ("smolvlm", 1), ("internvl", 99)])
def test_tiles_a_model_has_not_are_refused(name: str, tiles: int, tiny_mllm_folder: Callable[[str], Path]) -> None:
    with pytest.raises(ExportError, match="tiles"):
        load(str(tiny_mllm_folder(name)), tiles)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        *((name, {"resample": 0}, "filter 0 with factor 0.0039") for name in ("smolvlm", "qwen25vl", "lfm2vl")),
        ("qwen3vl", {"rescale_factor": 1.0}, r"with factor 1\.0 have no form"),
        ("qwen25vl", {"temporal_patch_size": 4}, "4 frames a patch have no form"),
        ("qwen25vl", {"merge_size": 3}, "windows of 112 pixels do not hold patches of 84"),
    ],
)
def test_pictures_that_are_prepared_in_a_way_without_a_form_are_refused(
    name: str, change: dict[str, Any], message: str, tiny_mllm_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    own = Path(shutil.copytree(tiny_mllm_folder(name), tmp_path / name))
    edit("preprocessor_config.json", **change)(own)
    with pytest.raises(ExportError, match=message):
        load(str(own))


def test_a_bundle_with_an_mllm_takes_no_second_one(llava: Any) -> None:
    before = (llava.bundle / "bundle.json").read_bytes()
    with pytest.raises(ExportError, match="holds an MLLM already"):
        export_mllm(llava.mllm, llava.bundle)
    assert (llava.bundle / "bundle.json").read_bytes() == before


@pytest.mark.parametrize(
    ("failure", "told"),
    [(OSError(28, "No space left on device"), ExportError), (KeyboardInterrupt(), KeyboardInterrupt)],
)
@pytest.mark.parametrize("graph", ["vision", "decoder"])
def test_a_full_disk_or_an_interrupt_leaves_nothing_behind(
    graph: str,
    failure: BaseException,
    told: type[BaseException],
    llava: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def export_graph(_: Any, name: str, path: Path) -> None:
        path.write_bytes(b"half")
        if name == graph:
            raise failure

    monkeypatch.setattr(exporting, "export_graph", export_graph)
    monkeypatch.setattr(exporting, "convert", lambda *_: {"scheme": "fp32"})
    with pytest.raises(told):
        export_mllm(llava.mllm, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()
    # An existing bundle stays what it was.
    bundle = Path(shutil.copytree(llava.bundle, tmp_path / "own"))
    manifest = json.loads((bundle / "bundle.json").read_text())
    manifest["components"] = {"clip": manifest["components"]["mllm"]}
    (bundle / "bundle.json").write_text(json.dumps(manifest))
    before = sorted(path.name for path in bundle.rglob("*"))
    with pytest.raises(told):
        export_mllm(llava.mllm, bundle)
    assert sorted(path.name for path in bundle.rglob("*")) == before
    Bundle.open(bundle).verify()


def test_graphs_that_differ_from_transformers_are_refused(
    llava: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    mllm = load(llava.mllm.source.split()[-1])

    def export_graph(_: Any, name: str, path: Path) -> None:
        for suffix in ("", ".data"):
            path.with_name(f"{name}.onnx{suffix}").write_bytes(
                (llava.bundle / "mllm" / f"{name}.onnx{suffix}").read_bytes()
            )

    with torch.no_grad():
        mllm.decoder.head.weight[3] += 1
    monkeypatch.setattr(exporting, "export_graph", export_graph)
    with pytest.raises(ExportError, match="too far from transformers"):
        export_mllm(mllm, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()
