"""`rar-bench rank` on a tiny random model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from rar.benchmarks.cli import main
from rar.benchmarks.rank.ways import BATCH, ways
from rar.export.mllm.export import export_mllm
from rar.export.mllm.source import load
from rar.runtime.bundle.manifest import Bundle


@pytest.fixture(scope="module")
def bundle(pictures_bundle: Path, tiny_smolvlm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("rank") / "bundle"
    shutil.copytree(pictures_bundle, out)
    export_mllm(load(str(tiny_smolvlm)), out)
    return out


def test_every_way_has_a_row_beside_the_baseline(
    bundle: Path, tiny_smolvlm: Path, labelled_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "rank.json"
    common = ["rank", str(bundle), "--test", str(labelled_folder), "--model", str(tiny_smolvlm), "--threads", "1"]
    assert main([*common, "--count", "8", "--rounds", "2", "--out", str(out)]) == 0
    result: dict[str, Any] = json.loads(out.read_text())
    baseline, *rows = result["results"]
    assert baseline["bundle"] is None
    assert baseline["ratio"]["median"] == 1
    assert {row["mode"] for row in rows} == {"generate", "likelihood", "choice"}
    assert {row["debias"] for row in rows if row["mode"] == "choice"} == {"none", "calibrate", "rotate"}
    assert [way.title for way in ways(Bundle.open(bundle))] == [row["way"] for row in rows]
    for row in (baseline, *rows):
        assert row["ms"]["count"] == (2 if row["batch"] == BATCH else 16)
        assert row["ms"]["median"] > 0
    assert result["bundles"][str(bundle)]["provider"] == "cpu"
    assert "reason" in result["peers"]["llama.cpp Q8_0, no picture"]  # it has the starter's weights alone
    assert result["tokens"]["prompt"] > result["tokens"]["answer"] > 0
    assert "transformers.generate" in capsys.readouterr().out


@pytest.mark.parametrize("bad", [("--count", "7"), ("--rounds", "0"), ("--count", "800")])
def test_settings_that_measure_nothing_are_refused(
    bundle: Path, labelled_folder: Path, bad: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["rank", str(bundle), "--test", str(labelled_folder), *bad]) == 2
    assert bad[1] in capsys.readouterr().err


@pytest.mark.parametrize(("content", "told"), [("{}", "another adapter"), (None, "rar-export finetune")])
def test_an_adapter_that_is_not_the_bundles_is_refused(
    bundle: Path,
    tiny_smolvlm: Path,
    labelled_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    content: str | None,
    told: str,
) -> None:
    if content is not None:
        (tmp_path / "rar.json").write_text(content)
    common = ["rank", str(bundle), "--test", str(labelled_folder), "--model", str(tiny_smolvlm), "--count", "8"]
    assert main([*common, "--adapter", str(tmp_path)]) == 2
    assert told in capsys.readouterr().err
