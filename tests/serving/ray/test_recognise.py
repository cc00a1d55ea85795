"""`Recognise` on tables, as Ray Data gives them: rows in are rows out, whatever a cell holds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow.fs import LocalFileSystem, SubTreeFileSystem

from rar.runtime import BundleError, InputError
from rar.serving.fingerprint import fingerprint
from rar.serving.ray.recognise import MACHINE, Recognise
from rar.serving.row import Row


@contextmanager
def opened(bundle: Path, **settings: Any) -> Iterator[Recognise]:
    one = Recognise(bundle, opened={"provider": "cpu", "threads": 1}, k=2, rank="none", **settings)
    yield one
    one._isolated.close()


def test_bytes_go_and_other_columns_stay(pictures_bundle: Path, class_pictures: list[Path]) -> None:
    cells = [class_pictures[0].read_bytes(), b"no picture", None, class_pictures[-1].read_bytes()]
    table = pa.table({"number": [4, 3, 2, 1], "bytes": pa.array(cells, pa.binary())})
    with opened(pictures_bundle, expects=fingerprint(pictures_bundle)) as recognise:
        found = recognise(table)
        assert recognise(table.slice(0, 0)).schema == found.schema
    assert found.schema.names == ["number", *Row.__annotations__, MACHINE]
    assert found["number"].to_pylist() == [4, 3, 2, 1]
    assert found["label"].to_pylist() == ["cat", None, None, "rocket"]
    errors = found["error"].to_pylist()
    assert (errors[0], errors[2], errors[3]) == (None, "the row has no picture", None)
    assert "not a picture" in errors[1]


def test_paths_of_a_file_system(pictures_bundle: Path, labelled_folder: Path, tmp_path: Path) -> None:
    system = SubTreeFileSystem(str(labelled_folder), LocalFileSystem())
    with opened(pictures_bundle, filesystem=system) as recognise:
        found = recognise(pa.table({"path": ["cat/0.jpg", "nowhere.jpg", "cat", "rocket/2.png"]}))
    assert found["label"].to_pylist() == ["cat", None, None, "rocket"]
    assert found["error"].to_pylist()[1:3] == ["nowhere.jpg: no such file", "cat: no such file"]


def test_nothing_is_fetched_from_a_path_that_is_an_address(pictures_bundle: Path) -> None:
    with opened(pictures_bundle) as recognise:
        found = recognise(pa.table({"path": ["http://127.0.0.1:1/cat.jpg"]}))
    assert "nothing is fetched" in found["error"][0].as_py()


def test_a_column_by_the_name_of_a_field_is_refused(pictures_bundle: Path, class_pictures: list[Path]) -> None:
    with opened(pictures_bundle) as recognise:
        with pytest.raises(InputError, match="a column 'label'"):
            recognise(pa.table({"path": [str(class_pictures[0])], "label": ["cat"]}))
        with pytest.raises(InputError, match="no column bytes, image, path in other"):
            recognise(pa.table({"other": ["x"]}))


def test_another_bundle_than_expected(pictures_bundle: Path, names_bundle: Path) -> None:
    with pytest.raises(BundleError, match="another bundle"):
        Recognise(names_bundle, expects=fingerprint(pictures_bundle))
