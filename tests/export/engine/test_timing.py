"""The timing cache's file: whose it is, and what another's is worth."""

from dataclasses import replace
from pathlib import Path

import pytest

from rar.export.engine.timing import read_timing, timing_file, write_timing
from rar.runtime import InputError
from rar.runtime.session.tensorrt.stored import Target

TARGET = Target("tensorrt", "10.3.0", "sm87")


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "made" / "x.timing"
    for content in (b"", b"binary\n\x00\xff\n"):
        write_timing(path, TARGET, content)
        assert read_timing(path, TARGET) == content


def test_none_yet(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert read_timing(tmp_path / "x.timing", TARGET) == b""
    assert not caplog.text


@pytest.mark.parametrize(
    "other", [replace(TARGET, version="10.7.0"), replace(TARGET, arch="sm89"), replace(TARGET, library="tensorrt_rtx")]
)
def test_one_of_another_version_or_gpu_is_begun_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, other: Target
) -> None:
    path = tmp_path / "x.timing"
    write_timing(path, other, b"times")
    assert read_timing(path, TARGET) == b""
    assert f"a timing cache of {other}, not of {TARGET}; starting a new one" in caplog.text


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"{}\nx", b"[1]\n", b"null\n", b"\xff\xfe", b'{"library": "tensorrt"}\n']
)
def test_what_is_no_cache_is_begun_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes) -> None:
    path = tmp_path / "x.timing"
    path.write_bytes(content)
    assert read_timing(path, TARGET) == b""
    assert "starting a new one" in caplog.text


def test_places_that_cannot_be_read_or_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_timing(tmp_path, TARGET)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError, match="cannot be written"):
        write_timing(tmp_path / "file" / "x.timing", TARGET, b"")


def test_each_version_and_gpu_has_a_file_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RAR_CACHE", str(tmp_path))
    targets = [TARGET, replace(TARGET, version="10.7.0"), replace(TARGET, arch="sm89")]
    assert len({timing_file(target) for target in targets}) == 3
    assert timing_file(TARGET).is_relative_to(tmp_path)
