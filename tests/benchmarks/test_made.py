"""What is built is kept, is whole, and its cost is told."""

from __future__ import annotations

import mmap
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from rar.benchmarks.made import made
from rar.benchmarks.usage import available
from rar.runtime.errors import RarError


def _write(name: str, folder: Path) -> None:
    (folder / name).write_text(name)


def _fail(folder: Path) -> None:
    (folder / "half").write_text("half")
    raise RarError("stopped")


def _wait(folder: Path) -> None:
    time.sleep(60)


def _take(folder: Path) -> None:
    with (folder / "mapped").open("wb+") as file:
        file.truncate(96 << 20)
        with mmap.mmap(file.fileno(), 0) as mapped:
            for page in range(0, len(mapped), 4096):
                mapped[page] = 1
            taken = np.ones(48 << 20, np.uint8)
            for _ in range(60):  # long enough to be seen
                taken += 1
    (folder / "mapped").unlink()


def test_what_was_made_is_kept_until_its_settings_change(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    cost = made(folder, {"n": (1, 2)}, partial(_write, "first"))
    assert cost["cpu_seconds"] >= 0
    assert made(folder, {"n": (1, 2)}, partial(_write, "second")) == cost
    assert (folder / "first").exists()
    made(folder, {"n": (1, 3)}, partial(_write, "second"))
    assert {file.name for file in folder.iterdir()} == {"second", "made.json"}


def test_what_was_interrupted_is_made_again(tmp_path: Path) -> None:
    with pytest.raises(RarError, match="stopped"):
        made(tmp_path / "a", {}, _fail)
    assert not (tmp_path / "a").exists()
    made(tmp_path / "a", {}, partial(_write, "whole"))
    assert {file.name for file in tmp_path.rglob("*")} == {"a", "whole", "made.json"}


def test_a_process_is_killed_before_the_machine_has_no_memory_left(tmp_path: Path) -> None:
    with pytest.raises(RarError, match="the machine had no more memory for it"):
        made(tmp_path / "a", {}, _wait, spare=available() + (1 << 40))
    assert not (tmp_path / "a").exists()


def test_peak_memory_is_seen_and_mapped_files_are_no_part_of_it(tmp_path: Path) -> None:
    peak = made(tmp_path / "a", {}, _take)["peak_bytes"]
    assert peak > 48 << 20
    assert peak < made(tmp_path / "b", {}, partial(_write, "x"))["peak_bytes"] + (90 << 20)
