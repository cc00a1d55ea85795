"""What a job reads: folders, globs, files and Parquet, here and on a file system."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rar.runtime import InputError
from rar.serving.ray.source import open_source


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "pictures"
    for name in ("a/1.jpg", "a/2.PNG", "b/deep/3.webp", "b/notes.txt", "b/.hidden.jpg", "__MACOSX/4.jpg"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


def found(*names: str) -> list[str]:
    source = open_source(names)
    assert source.table is not None
    assert source.rows == len(source.table)
    return [Path(path).name for path in source.table["path"].to_pylist()]


def test_a_folder_holds_what_the_runtime_finds(folder: Path) -> None:
    assert found(str(folder)) == ["1.jpg", "2.PNG", "3.webp"]


@pytest.mark.parametrize(
    ("pattern", "names"),
    [("*/*.jpg", ["1.jpg"]), ("a/*", ["1.jpg", "2.PNG"]), ("**/3.*", ["3.webp"]), ("a/[2-9].PNG", ["2.PNG"])],
)
def test_a_glob(folder: Path, pattern: str, names: list[str]) -> None:
    assert found(f"{folder}/{pattern}") == names


def test_several_names_and_none_twice(folder: Path) -> None:
    assert found(f"{folder}/a/1.jpg", f"{folder}/a") == ["1.jpg", "2.PNG"]


def test_an_address_of_a_file_system(folder: Path) -> None:
    assert found(f"file://{folder}") == ["1.jpg", "2.PNG", "3.webp"]


def test_row_groups_are_read_in_blocks_without_what_is_done(tmp_path: Path) -> None:
    table = pa.table({"id": list(range(250)), "bytes": [b"%d" % i for i in range(250)], "more": ["x"] * 250})
    pq.write_table(table, tmp_path / "one.parquet", row_group_size=100)
    source = open_source([str(tmp_path / "one.parquet")], "id")
    done = pa.array([0, 1, 2, *range(100, 200), 249])
    work = source.work(done, 40)
    assert len(work) == 3
    blocks = [rows for part in work for rows in source.read(part, done, 40)]
    assert [len(rows) for rows in blocks] == [37, 40, 20, 40, 9]
    read = pa.concat_tables(blocks)
    assert read.column_names == ["id", "bytes"]
    assert read["id"].to_pylist() == [*range(3, 100), *range(200, 249)]


def test_paths_of_parquet_are_shared_out_as_those_of_a_folder(tmp_path: Path) -> None:
    paths = [f"{i}.jpg" for i in range(10)]
    pq.write_table(pa.table({"id": list(range(10)), "path": paths}), tmp_path / "one.parquet")
    source = open_source([str(tmp_path)], "id")
    parts = source.work(pa.array([3]), 4)
    assert [part["id"].to_pylist() for part in parts] == [[0, 1, 2, 4], [5, 6, 7, 8], [9]]
    assert list(source.read(parts[0], pa.array([3]), 4)) == [parts[0]]


def test_parquet_names_its_columns(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": [1, 2], "bytes": [b"a", b"b"]}), tmp_path / "one.parquet")
    source = open_source([str(tmp_path)], "id")
    assert (source.rows, source.column, source.identity) == (2, "bytes", "id")
    with pytest.raises(InputError, match="name one with --id"):
        open_source([str(tmp_path)])
    pq.write_table(pa.table({"id": [1]}), tmp_path / "two.parquet")
    with pytest.raises(InputError, match="no column 'bytes'"):
        open_source([str(tmp_path)], "id")


@pytest.mark.parametrize("name", ["nowhere", "nowhere/*.jpg", "pictures/b/notes.txt.parquet", "nosuch://x/y"])
def test_what_is_not_there(folder: Path, name: str) -> None:
    with pytest.raises(InputError, match=name.split("/")[0].removesuffix(":")):
        open_source([name if "://" in name else f"{folder.parent}/{name}"])


def test_what_does_not_go_together(folder: Path) -> None:
    (folder / "a" / "rows.parquet").write_bytes(b"no Parquet")
    with pytest.raises(InputError, match="no Parquet file"):
        open_source([f"{folder}/a/rows.parquet"])
    with pytest.raises(InputError, match="pictures and Parquet"):
        open_source([f"{folder}/a/*"])
    with pytest.raises(InputError, match="give folders"):
        open_source([])
