"""What each family's model costs is measured row by row, and the document says what was measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rar.benchmarks import record
from rar.benchmarks.cli import main
from rar.benchmarks.families.models import WRITERS
from rar.benchmarks.families.shapes import PUBLISHED, SIZES
from rar.benchmarks.families.table import table

ROOT = Path(__file__).resolve().parents[3]


def test_each_family_has_a_published_shape_or_shares_one() -> None:
    assert set(WRITERS) - set(PUBLISHED) == {"llava_siglip"}
    assert {published.size for shapes in PUBLISHED.values() for published in shapes} < set(SIZES)


@pytest.mark.usefixtures("pytorch")
def test_the_smallest_model_is_measured_at_three_precisions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "families.json"
    argv = ["families", "--sizes", "tiny", "--only", "smolvlm", "--rounds", "5", "--threads", "1"]
    document = tmp_path / "document.md"
    document.write_text(f"one\n\n{table({'results': []})}\n| old |\n\ntwo\n")
    assert main([*argv, "--work", str(tmp_path), "--out", str(out), "--document", str(document)]) == 0
    result = record.read(out)
    rows = {row["precision"]: row for row in result["results"]}
    assert list(rows) == ["fp32", "int8", "int4"]
    for row in rows.values():
        assert row["why"] is row["shape_of"] is None
        assert row["export"]["peak_bytes"] > 10**8
        assert 0 < sum(row["export"]["stages"].values()) <= row["export"]["seconds"]
        assert row["rank"]["seconds"]["count"] == 5
        assert row["rank"]["tokens"]["picture"] == 4
    assert rows["fp32"]["graph_bytes"]["all"] > rows["int8"]["graph_bytes"]["all"]
    assert table(result) in capsys.readouterr().out
    assert document.read_text() == f"one\n\n{table(result)}\n\ntwo\n"
    assert {*tmp_path.iterdir()} == {out, document}
    # What is there is kept, if it was measured here.
    result["results"] = [{**row, "family": "llava"} for row in result["results"]]
    out.write_text(json.dumps(result))
    assert main([*argv, "--work", str(tmp_path), "--out", str(out)]) == 0
    assert [row["family"] for row in record.read(out)["results"]] == ["llava"] * 3 + ["smolvlm"] * 3
    out.write_text(json.dumps({**result, "environment": {**result["environment"], "cpu": "another"}}))
    assert main([*argv, "--out", str(out)]) == 2


@pytest.mark.parametrize(
    "wrong", [["--sizes", "huge"], ["--only", "clip"], ["--rounds", "4"], ["--sizes", "2b", "--only", "llava"]]
)
def test_settings_that_cannot_be(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["families", *wrong]) == 2
    assert wrong[1] in capsys.readouterr().err


def test_the_document_has_the_table_of_the_result_file() -> None:
    result = record.read(ROOT / "benchmarks/results/families.json")
    assert table(result) in (ROOT / "docs/own-models.md").read_text(encoding="utf-8")
