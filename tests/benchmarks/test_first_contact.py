"""A fresh clone is made, measured and taken away again; pip's log and the disk are read as they are."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from rar.benchmarks.cli import main
from rar.benchmarks.first_contact import disk_bytes, downloaded


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository whose `make demo` writes 100 kB into its environment."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    (folder / "Makefile").write_text(
        "demo:\n\tmkdir .venv\n\thead -c 100000 /dev/zero > .venv/file\ntest:\nfails:\n\tfalse\n"
    )
    who = ("-c", "user.name=t", "-c", "user.email=t@example.org")
    for words in (["init", "-q"], ["add", "-A"], [*who, "commit", "-qm", "first"]):
        subprocess.run(["git", "-C", str(folder), *words], check=True)
    (folder / ".venv").mkdir()  # not of the commit
    return folder


def test_a_clone_is_measured_and_the_checkout_stays(checkout: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    assert main(["first-contact", "demo", "test", "--source", str(checkout), "--out", str(out)]) == 0
    result, other = json.loads(out.read_text())["results"]
    assert (result["target"], other["target"]) == ("demo", "test")
    assert other["disk_bytes"][".venv"] == 0, "each begins with a clone of its own"
    assert 100_000 <= result["disk_bytes"][".venv"] < 120_000
    assert result["disk_bytes"]["bundle"] == result["download_bytes"] == 0
    assert result["disk_total_bytes"] >= sum(result["disk_bytes"].values())
    assert result["exit_status"] == 0
    assert not list((checkout / ".venv").iterdir())


def test_a_target_that_fails_is_a_failure(checkout: Path) -> None:
    assert main(["first-contact", "fails", "--source", str(checkout)]) == 1


def test_what_is_no_checkout_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["first-contact", "--source", str(tmp_path)]) == 2
    assert "is no checkout" in capsys.readouterr().err


def test_downloads_and_files_of_local_indexes_are_counted(tmp_path: Path) -> None:
    wheel = tmp_path / "a-1-py3-none-any.whl"
    wheel.write_bytes(bytes(1234))
    log = (
        "2026-01-01T00:00:00,000   Downloading b-2-cp311-manylinux_2_28_x86_64.whl (1.5 MB)\n"
        "2026-01-01T00:00:00,000   Downloading c-2.tar.gz (12 kB)\n"
        f"2026-01-01T00:00:00,000 Processing {wheel} (from b>=1)\n"
        "2026-01-01T00:00:00,000 Processing /some/checkout\n"
        "2026-01-01T00:00:00,000   Using cached d.whl (9 MB)\n"
    )
    assert downloaded(log) == 1_500_000 + 12_000 + 1234


def test_a_file_with_two_names_takes_its_place_once(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(os.urandom(50_000))
    alone = disk_bytes(tmp_path)
    os.link(tmp_path / "one", tmp_path / "two")
    assert disk_bytes(tmp_path) == alone >= 50_000
    assert disk_bytes(tmp_path / "none") == 0
