"""CSV as spreadsheets and hands write it: read right, or refused with the line."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rar.export.pictures.labelled import read_images
from rar.runtime import InputError


def labels(tmp_path: Path, content: str | bytes) -> list[str]:
    path = tmp_path / "a.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return [image.label for image in read_images(path)]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_delimiters(tmp_path: Path, delimiter: str) -> None:
    text = f'id,path,label\n1,a.jpg,cat\n2,b.jpg,"hot{delimiter}dog"\n'.replace(",", delimiter)
    assert labels(tmp_path, text) == ["cat", f"hot{delimiter}dog"]


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_a_comma_in_a_name_where_another_delimiter_is_used(tmp_path: Path, delimiter: str) -> None:
    assert labels(tmp_path, f"path{delimiter}label\na.jpg{delimiter}Salt, coarse\n") == ["Salt, coarse"]


@pytest.mark.parametrize("delimiter", [",", ";", "~"])
def test_a_first_line_that_names_the_delimiter(tmp_path: Path, delimiter: str) -> None:
    text = f"sep={delimiter}\npath{delimiter}label\na.jpg{delimiter}cat\nb.jpg{delimiter}\n"
    with pytest.raises(InputError, match="line 4: needs a path and a label"):
        labels(tmp_path, text)
    assert labels(tmp_path, text.rpartition("b.jpg")[0]) == ["cat"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_encodings(tmp_path: Path, encoding: str, newline: str) -> None:
    text = newline.join(["path,label", "a.jpg,crème brûlée", "b.jpg,烤鸭", ""])
    mark = "\ufeff" if encoding in ("utf-16-le", "utf-16-be") else ""
    assert labels(tmp_path, (mark + text).encode(encoding)) == ["crème brûlée", "烤鸭"]


def test_other_encodings_are_refused_with_the_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"line 3: cannot be read, it is not UTF-8 text.*save it as UTF-8"):
        labels(tmp_path, "path,label\na.jpg,cat\nb.jpg,crème\n".encode("cp1252"))


@pytest.mark.parametrize(
    "row", ["a.jpg,Salt, coarse", "a.jpg,Salt, coarse, white", 'a.jpg,"Salt", coarse', "a.jpg,x,y"]
)
@pytest.mark.parametrize("line", [2, 3])
def test_a_row_with_too_many_fields(tmp_path: Path, row: str, line: int) -> None:
    text = "\n".join(["path,label", *["z.jpg,Pepper"] * (line - 2), row, "sub/b.jpg,Pepper", ""])
    with pytest.raises(InputError, match=f"line {line}: has . fields, and the head 2; put a field .* double quotes"):
        labels(tmp_path, text)


def test_blank_fields_at_the_end_do_no_harm(tmp_path: Path) -> None:
    assert labels(tmp_path, "path,label\na.jpg,cat,,\n\nb.jpg,dog\n") == ["cat", "dog"]


@pytest.mark.parametrize(
    "rows",
    [
        ['a.jpg,"12 inch pizza', "sub/b.jpg,9 inch pizza"],
        ['a.jpg,"12 inch pizza', 'sub/b.jpg,"9 inch pizza"'],
        ['a.jpg,"12 inch pizza', "b.jpg,cat", 'c.jpg,8"'],
        ['a.jpg,"12" pizza', "b.jpg,cat"],
        ['"a.jpg,cat', "b.jpg,dog"],
        ['"a.jpg,cat', "b.jpg,dog", 'c.jpg","cow"'],
    ],
)
@pytest.mark.parametrize("before", [0, 3])
def test_an_open_quote_is_refused_with_the_line_it_opens_in(tmp_path: Path, rows: list[str], before: int) -> None:
    text = "\n".join(["path,label", *["z.jpg,Pepper"] * before, *rows, ""])
    with pytest.raises(InputError, match=rf"line {2 + before}: .*close"):
        labels(tmp_path, text)


def test_inches_in_the_middle_of_a_name_are_a_character(tmp_path: Path) -> None:
    assert labels(tmp_path, 'path,label\na.jpg,12" pizza\nb.jpg,cat\n') == ['12" pizza', "cat"]


def test_spaces_after_the_delimiter(tmp_path: Path) -> None:
    assert labels(tmp_path, 'path, label\na.jpg, cat\nb.jpg, "Salt, coarse"\n') == ["cat", "Salt, coarse"]


def test_lines_are_those_of_the_file_after_a_quoted_line_break(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="line 4: needs a path and a label"):
        labels(tmp_path, 'path,label\na.jpg,"hot\ndog"\nb.jpg,\n')


@given(st.lists(st.text("ab ,;\t\"'|é\n", min_size=1).filter(str.strip), min_size=1), st.sampled_from(",;\t|"))
def test_what_a_writer_writes_is_read(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], delimiter: str
) -> None:
    buffer = io.StringIO()
    csv.writer(buffer, delimiter=delimiter).writerows([("path", "label"), *(("a.jpg", name) for name in names)])
    assert labels(tmp_path_factory.getbasetemp(), buffer.getvalue()) == [name.strip() for name in names]
