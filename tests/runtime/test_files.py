"""Files are complete or absent."""

import hashlib
import json
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rar.runtime.files import sha256, write_json


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
