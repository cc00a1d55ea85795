"""`make edge`'s own judgement: what it calls a difference, and what it says of parts that are not to be had."""

import re
import shutil
import sys
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edge import fetch
from edge.__main__ import LEGS, Job, Leg, Start, main, run
from edge.compare import Row, compare, failed, page, table
from edge.run_leg import ADDED, Record

EMBEDDINGS = np.random.default_rng(0).standard_normal((2, 64))
NATIVE = Record(
    python="3.11.7",
    onnxruntime="1.32.0",
    features=["AVX2", "AVX512VNNI"],
    kernels=["scalar", "avx2"],
    retrieved=[["cat", "dog"], ["cup", "mug"]],
    ranked=[["cat", "dog"]],
    pictures=EMBEDDINGS.tolist(),
    texts=EMBEDDINGS[1:2].tolist(),
    tokens=[[1, 2], [3, 0]],
    added=[[ADDED[0], ADDED[1]], [ADDED[1], ADDED[0]]],
    removed=[[ADDED[1]], [ADDED[1]]],
    passed=0,
    failed=[],
)
SAME = replace(NATIVE, python="3.11.2", passed=5)


def turned(cosine: float) -> list[list[float]]:
    """The pictures' embeddings, the last of them at that cosine with what it was."""
    last = EMBEDDINGS[1] / np.linalg.norm(EMBEDDINGS[1])
    other = EMBEDDINGS[0] - EMBEDDINGS[0] @ last * last
    other *= np.sqrt(1 - cosine**2) / np.linalg.norm(other)
    return [EMBEDDINGS[0].tolist(), (7 * (cosine * last + other)).tolist()]


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"retrieved": [["cat", "dog"], ["mug", "cup"]]}, "labels"),
        ({"ranked": [["dog", "cat"]]}, "labels"),
        ({"pictures": turned(0.998)}, "pictures"),
        ({"texts": [[float("nan")] * 64]}, "texts"),
        ({"texts": turned(0.998)[1:]}, "texts"),
        ({"tokens": [[1, 2], [0, 3]]}, "tokens"),
        ({"added": [[ADDED[1], ADDED[0]], [ADDED[1], ADDED[0]]]}, "add and search"),
        ({"removed": NATIVE.added}, "remove"),
        ({"failed": ["test_x"]}, "tests"),
        ({"passed": 0}, "tests"),
    ],
)
def test_what_differs_fails_and_is_named(change: dict[str, Any], name: str) -> None:
    row = Row("arm", "small", replace(SAME, **change))
    assert [check.name for check in compare(replace(SAME, **change), NATIVE) if not check.passed] == [name]
    assert f"- arm, **failed**: {name}: " in table([row], NATIVE)


def test_what_is_the_same_passes() -> None:
    row = Row("arm", "small", replace(SAME, pictures=turned(0.99995), retrieved=[["cat", "cow"], ["cup", "mug"]]))
    assert not failed(row, NATIVE)
    assert (
        "| arm | small | AVX2 AVX512VNNI | scalar avx2 | 3.11.2 | 1.32.0 | 7 of 7 | 5 passed, 0 failed | 3 of 3 "
        in (page([row], NATIVE, 2, 1, date(2026, 1, 2)))
    )


def test_a_processor_that_dies_is_told_with_its_signal(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="died of SIGILL: last words"):
        run(Start(["/bin/sh", "-c", "echo last words; kill -ILL $$"], {}), Job(str(tmp_path), [], 0, []))


def test_parts_are_made_once_and_whole(tmp_path: Path) -> None:
    calls = []

    def make(folder: Path) -> None:
        calls.append(folder)
        (folder / "part").touch()
        if len(calls) == 3:
            raise fetch.AbsentError("gone")

    folder = tmp_path / "parts"
    for stamp in ("a", "a", "b"):
        assert (fetch.made(folder, stamp, make) / "part").is_file()
    assert len(calls) == 2
    with pytest.raises(fetch.AbsentError):
        fetch.made(folder, "c", make)
    assert not list(tmp_path.iterdir())


def test_without_apt_the_emulator_is_named_with_what_to_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(fetch.AbsentError, match=r"^emulator \(qemu-user .*no apt-get here; run `make edge` on Debian"):
        fetch.emulators(tmp_path / "cache")


@pytest.mark.skipif(not shutil.which("apt-get") or not fetch.KEYRING.is_file(), reason="not Debian")
def test_a_mirror_that_does_not_answer_is_named_with_what_to_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAR_DEBIAN", f"file:{tmp_path}/none")
    wanted = fetch.Debian("sysroot", "bookworm", "arm64", ("python3.11",))
    with pytest.raises(fetch.AbsentError, match=r"^sysroot .*bookworm.*apt-get ended with 100.*set RAR_DEBIAN"):
        wanted.unpack(tmp_path / "sysroot")
    assert not (tmp_path / "sysroot").exists()


def test_where_nothing_can_be_had_all_is_skipped_and_the_page_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("edge.__main__.CACHE", tmp_path / "cache")
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "page.md").write_text("old")
    assert main(["bundle", "--out", str(tmp_path / "page.md")]) == 2
    assert (tmp_path / "page.md").read_text() == "old"
    said = capsys.readouterr()
    assert said.out.endswith(f"edge: 0 of {len(LEGS)} processors can be run, {len(LEGS)} are skipped\n")
    for leg in LEGS:
        assert re.search(rf"^edge: {leg.name} is skipped: .*; run ", said.err, re.M)


def test_a_bundle_that_is_not_there_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("edge.__main__.LEGS", (Leg("own", "this machine", lambda: Start([sys.executable], {})),))
    assert main([str(tmp_path / "none")]) == 1
    assert f"edge: {tmp_path / 'none'} cannot be run on this machine itself: " in capsys.readouterr().err
