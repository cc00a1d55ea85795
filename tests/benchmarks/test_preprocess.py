"""`rar-bench preprocess` on small pictures."""

import argparse
import json
from pathlib import Path

import numpy as np
import pytest

from rar.benchmarks import preprocess
from rar.runtime.errors import InputError


def arguments(*given: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    preprocess.add_arguments(parser)
    return parser.parse_args(given)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preprocess, "PICTURES", {"small": (250, 300)})
    monkeypatch.setattr(preprocess, "JPEGS", {"small": (900, 950)})
    monkeypatch.setattr(preprocess, "REGIONS", (2,))
    monkeypatch.setattr(preprocess, "CROPS", 2)
    monkeypatch.setattr(preprocess, "BATCH", 2)
    monkeypatch.setattr(preprocess, "_torchvision", lambda pixels: iter(()))  # imports torch


@pytest.mark.usefixtures("small")
def test_writes_every_table_and_ours_equals_pillow(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "results" / "preprocess.json"
    assert preprocess.run(arguments("--rounds", "1", "--seconds", "1e-4", "--out", str(out))) == 0
    result = json.loads(out.read_text())
    assert set(result["tables"]) == {"small", "2 regions of 1080p", "crops", "threads", "cores", "JPEG small"}
    ours = [row for row in result["tables"]["small"] if row["contender"].startswith("rar")]
    assert ours
    assert all(row["difference_max"] == 0 for row in ours)
    plain, drafted = result["tables"]["JPEG small"][1:]
    assert plain["difference_max"] == 0
    assert 0 < drafted["difference_mean"] < 5
    assert "small -> 224" in capsys.readouterr().out


def test_picture_is_the_same_for_a_seed() -> None:
    first, second = (preprocess.photo(np.random.default_rng(3), 40, 50) for _ in range(2))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("bad", [("--rounds", "0"), ("--seconds", "0")])
def test_settings_that_measure_nothing_are_refused(bad: tuple[str, str]) -> None:
    with pytest.raises(InputError):
        preprocess.run(arguments(*bad))
