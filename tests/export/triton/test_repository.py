"""`rar-export triton`: a model folder, whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rar.export.cli import main


def test_what_is_written(names_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    repository = tmp_path / "deep" / "repository"
    words = ["triton", str(names_bundle), str(repository), "--name", "eye", "--batch", "4", "--delay-us", "500"]
    assert main([*words, "--instances", "2", "--device", "gpu", "--threads", "3", "--k", "2"]) == 0
    assert capsys.readouterr().out.strip() == str(repository / "eye")
    assert sorted(path.name for path in (repository / "eye").rglob("*")) == ["1", "config.pbtxt", "model.py"]
    config = (repository / "eye" / "config.pbtxt").read_text()
    for line in (
        'name: "eye"',
        "max_batch_size: 4",
        "max_queue_delay_microseconds: 500",
        "count: 2 kind: KIND_GPU",
        r"\"threads\": 3",
        r"\"k\": 2",
        str(names_bundle),
    ):
        assert line in config
    assert os.stat(repository / "eye").st_mode & 0o777 == 0o755, "the server may be another user"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--k", "99"], "k=99"),
        (["--name", "../up"], "--name"),
        (["--name", "a/b"], "name 'a/b'"),
        (["--rank", "best"], "rank 'best' is unknown"),
        (["--provider", "tpu"], "provider 'tpu' is unknown"),
        (["--batch", "0"], "--batch 0"),
        (["--threads", "0"], "--threads 0"),
        (["--delay-us", "-1"], "--delay-us -1"),
    ],
)
def test_what_is_refused_leaves_nothing(
    names_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    repository = tmp_path / "repository"
    assert main(["triton", str(names_bundle), str(repository), *options]) == 2
    assert message.replace("--name", "name") in capsys.readouterr().err
    assert not repository.exists()


def test_a_model_that_is_there_is_kept(names_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["triton", str(names_bundle), str(tmp_path)]
    assert main(words) == 0
    before = (tmp_path / "rar" / "config.pbtxt").read_bytes()
    assert main([*words, "--batch", "2"]) == 2
    assert "is there already" in capsys.readouterr().err
    assert (tmp_path / "rar" / "config.pbtxt").read_bytes() == before
    assert os.listdir(tmp_path) == ["rar"]


def test_no_bundle_no_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["triton", str(tmp_path / "none"), str(tmp_path / "repository")]) == 2
    assert "no bundle there" in capsys.readouterr().err
