"""Files are complete or absent."""

import hashlib
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rar.runtime.bundle.files import atomic_file, sha256, write_json


@given(st.sampled_from([0, 1, (1 << 17) - 1, 1 << 17, (1 << 17) + 1, 3 << 17]))
def test_sha256_equals_hashlib_around_the_chunk_size(tmp_path_factory: pytest.TempPathFactory, size: int) -> None:
    path = tmp_path_factory.mktemp("hash") / "file"
    content = bytes(i * 31 % 251 for i in range(251)) * (size // 251 + 1)
    path.write_bytes(content[:size])
    assert sha256(path) == hashlib.sha256(content[:size]).hexdigest()


def test_write_json_round_trips_unicode_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "value.json"
    write_json(path, {"old": 1})
    write_json(path, {"crème brûlée": ["烤鸭", 1.5, None]})
    assert json.loads(path.read_text(encoding="utf-8")) == {"crème brûlée": ["烤鸭", 1.5, None]}
    assert os.listdir(tmp_path) == ["value.json"]


def test_written_json_is_readable_by_others(tmp_path: Path) -> None:
    write_json(tmp_path / "value.json", [])
    assert stat.S_IMODE((tmp_path / "value.json").stat().st_mode) == 0o644


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"a": object()}, "\ud800"])
def test_what_is_no_json_leaves_the_old_file_and_no_other(tmp_path: Path, value: object) -> None:
    path = tmp_path / "value.json"
    write_json(path, "old")
    with pytest.raises((TypeError, ValueError)):
        write_json(path, value)
    assert json.loads(path.read_text()) == "old"
    assert os.listdir(tmp_path) == ["value.json"]


def write_half(path: Path, error: type[BaseException]) -> None:
    with atomic_file(path) as file:
        file.write(b"half of the new")
        raise error


class TestAtomicFile:
    def test_what_is_written_replaces_the_old_file_at_the_end(self, tmp_path: Path) -> None:
        path = tmp_path / "file"
        path.write_bytes(b"old")
        with atomic_file(path) as file:
            file.write(b"new ")
            file.write(b"content")
            file.flush()
            assert path.read_bytes() == b"old"
        assert path.read_bytes() == b"new content"
        assert os.listdir(tmp_path) == ["file"]
        assert stat.S_IMODE(path.stat().st_mode) == 0o644

    @pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
    @pytest.mark.parametrize("old", [b"old", None])
    def test_an_error_inside_leaves_what_was_there(
        self, tmp_path: Path, error: type[BaseException], old: bytes | None
    ) -> None:
        path = tmp_path / "file"
        if old is not None:
            path.write_bytes(old)
        with pytest.raises(error):
            write_half(path, error)
        assert os.listdir(tmp_path) == ([] if old is None else ["file"])
        assert old is None or path.read_bytes() == old

    def test_one_that_cannot_take_the_place_leaves_nothing(self, tmp_path: Path) -> None:
        (tmp_path / "folder").mkdir()
        with pytest.raises(OSError, match="folder"), atomic_file(tmp_path / "folder") as file:
            file.write(b"x")
        assert os.listdir(tmp_path) == ["folder"]

    def test_readers_of_the_old_file_keep_it(self, tmp_path: Path) -> None:
        path = tmp_path / "file"
        path.write_bytes(b"old")
        with path.open("rb") as reader:
            with atomic_file(path) as file:
                file.write(b"new")
            assert reader.read() == b"old"

    def test_a_full_disk_leaves_the_old_file(self, tmp_path: Path) -> None:
        # A limit on the size of files stands for it: the write fails in the middle, with OSError.
        code = (
            "import resource, signal, sys; from pathlib import Path; from rar.runtime.bundle.files import atomic_file\n"
            "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
            "with atomic_file(Path(sys.argv[1])) as file: file.write(bytes(100_000))"
        )
        path = tmp_path / "file"
        path.write_bytes(b"old")
        run = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False)
        assert "File too large" in run.stderr
        assert path.read_bytes() == b"old"
        assert os.listdir(tmp_path) == ["file"]
