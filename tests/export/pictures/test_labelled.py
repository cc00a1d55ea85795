"""Labelled pictures, names and descriptions, and every way to write them wrong."""

import contextlib
import csv
import json
import os
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rar.export.pictures.labelled import (
    LabelledImage,
    check_labels,
    few_shot,
    read_classes,
    read_descriptions,
    read_images,
    read_source,
    read_tags,
)
from rar.runtime import InputError


def refuses(read: Any, path: Path, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read(path)
    assert str(path) in str(caught.value)


class TestFolder:
    def test_a_sub_folder_a_class(self, labelled_folder: Path) -> None:
        images = read_images(labelled_folder)
        assert [image.label for image in images] == sorted(["cat", "coffee", "grass", "rocket"] * 3)
        assert [image.path.name for image in images] == ["0.jpg", "1.jpg", "2.png"] * 4
        assert images == read_images(str(labelled_folder))

    def test_deeper_folders_belong_to_the_class_and_hidden_ones_to_none(self, tmp_path: Path) -> None:
        for name in ("cat/tabby/a.png", "cat/b.png", ".cache/c.png", "loose.png"):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(b"")
        found = [(image.label, image.path.name) for image in read_images(tmp_path)]
        assert found == [("cat", "b.png"), ("cat", "a.png")]

    def test_nowhere(self, tmp_path: Path) -> None:
        refuses(read_images, tmp_path / "nowhere", "no such folder or file")

    def test_a_name_that_no_folder_can_have(self, tmp_path: Path) -> None:
        with pytest.raises(InputError):
            read_images(tmp_path / ("x" * 300))

    def test_no_class(self, tmp_path: Path) -> None:
        refuses(read_images, tmp_path, "no sub-folder")
        (tmp_path / "loose.png").write_bytes(b"")
        refuses(read_images, tmp_path, "no sub-folder")

    def test_folders_without_pictures_are_passed_over_and_told(self, tmp_path: Path) -> None:
        for name in (
            "cat/a.png",
            "cat/b.txt",
            "dog/notes.txt",
            "@eaDir/c.png",
            ".git/d.png",
            "cow/.hidden/e.png",
            "f.png",
        ):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(b"")
        found = read_source(tmp_path)
        assert found.images == [LabelledImage(tmp_path / "cat" / "a.png", "cat")]
        assert found.told == [
            "passed over: 2 .txt, 1 beside the class folders, 3 hidden",
            "2 folders without pictures are no classes: 'cow', 'dog'",
        ]

    def test_no_folder_with_pictures(self, tmp_path: Path) -> None:
        (tmp_path / "dog").mkdir()
        (tmp_path / "dog" / "notes.txt").write_bytes(b"")
        refuses(read_images, tmp_path, r"none of its 1 sub-folders holds a picture; passed over: 1 \.txt")

    def test_linked_folders_are_classes(self, tmp_path: Path) -> None:
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "elsewhere" / "a.png").write_bytes(b"")
        (tmp_path / "pictures").mkdir()
        (tmp_path / "pictures" / "cat").symlink_to(tmp_path / "elsewhere")
        assert [image.label for image in read_images(tmp_path / "pictures")] == ["cat"]

    def test_composed_and_decomposed_folders_are_one_class(self, tmp_path: Path) -> None:
        for form in ("NFC", "NFD"):
            folder = tmp_path / unicodedata.normalize(form, "caf\u00e9")
            folder.mkdir()
            (folder / f"{form}.png").write_bytes(b"")
        assert [image.label for image in read_images(tmp_path)] == ["caf\u00e9"] * 2

    def test_a_folder_whose_name_is_no_text(self, tmp_path: Path) -> None:
        folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
        folder.mkdir()
        (folder / "a.png").write_bytes(b"")
        with pytest.raises(InputError, match="is not Unicode text; rename it"):
            read_images(tmp_path)

    def test_another_kind_of_file(self, tmp_path: Path) -> None:
        (tmp_path / "a.txt").write_text("x")
        refuses(read_images, tmp_path / "a.txt", r"a folder, a \.csv or a \.jsonl")


class TestCsv:
    def write(self, tmp_path: Path, text: str | bytes, name: str = "a.csv") -> Path:
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    @pytest.mark.parametrize("newline", ["\n", "\r\n"])
    @pytest.mark.parametrize("bom", ["", "\ufeff"])
    def test_paths_are_relative_to_the_file_and_order_is_kept(self, tmp_path: Path, newline: str, bom: str) -> None:
        lines = ["id,label,path", "1,dog,b/x.jpg", '2, cat ,"a, b.jpg"', "3,dog,/abs.jpg", ""]
        source = self.write(tmp_path, bom + newline.join(lines))
        assert read_images(source) == [
            LabelledImage(tmp_path / "b" / "x.jpg", "dog"),
            LabelledImage(tmp_path / "a, b.jpg", "cat"),
            LabelledImage(Path("/abs.jpg"), "dog"),
        ]

    @pytest.mark.parametrize(
        "text", ["", "\n", "path\na.jpg\n", "label\ncat\n", "a.jpg,cat\n", "Path,Label\na.jpg,cat\n"]
    )
    def test_missing_columns(self, tmp_path: Path, text: str) -> None:
        refuses(read_images, self.write(tmp_path, text), "needs the columns path and label")

    @pytest.mark.parametrize("row", ["a.jpg,", ",cat", " ,cat", "a.jpg, ", "a.jpg"])
    def test_blank_or_missing_fields(self, tmp_path: Path, row: str) -> None:
        source = self.write(tmp_path, f"path,label\nz.jpg,dog\n{row}\n")
        refuses(read_images, source, "line 3: needs a path and a label")

    def test_no_row(self, tmp_path: Path) -> None:
        refuses(read_images, self.write(tmp_path, "path,label\n"), "lists no picture")

    @pytest.mark.parametrize("content", [b"path,label\n\xff\xfe.jpg,cat\n", b"\xffpath,label\n"])
    def test_not_utf8(self, tmp_path: Path, content: bytes) -> None:
        refuses(read_images, self.write(tmp_path, content), "not UTF-8")

    def test_what_csv_itself_refuses(self, tmp_path: Path) -> None:
        source = self.write(tmp_path, 'path,label\na.jpg,"' + "x" * 200_000)
        refuses(read_images, source, "line 2")

    def test_a_nul_byte(self, tmp_path: Path) -> None:
        source = self.write(tmp_path, "path,label\na\x00.jpg,cat\n")  # from Python 3.11 on a character like others
        with contextlib.suppress(InputError):
            assert len(read_images(source)) == 1

    @pytest.mark.parametrize("separator", ["\u2028", "\x85", "\x0c", "\x1c"])
    def test_only_newlines_end_a_row(self, tmp_path: Path, separator: str) -> None:
        source = self.write(tmp_path, f"path,label\na.jpg,hot{separator}dog\nb.jpg,cat\n")
        assert [image.label for image in read_images(source)] == [f"hot{separator}dog", "cat"]

    def test_a_quoted_newline_stays_in_its_field(self, tmp_path: Path) -> None:
        source = self.write(tmp_path, 'path,label\na.jpg,"hot\ndog"\nb.jpg,cat\n')
        assert [image.label for image in read_images(source)] == ["hot\ndog", "cat"]

    @given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\r"), min_size=1), min_size=1, max_size=5))
    def test_any_label_round_trips(self, tmp_path_factory: pytest.TempPathFactory, labels: list[str]) -> None:
        labels = [label for label in labels if label.strip()] or ["a"]
        source = tmp_path_factory.getbasetemp() / "any.csv"
        with source.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerows([("path", "label"), *((f"{i}.jpg", label) for i, label in enumerate(labels))])
        assert [image.label for image in read_images(source)] == [
            unicodedata.normalize("NFC", label.strip()) for label in labels
        ]


class TestJsonl:
    def write(self, tmp_path: Path, text: str) -> Path:
        path = tmp_path / "a.jsonl"
        path.write_text(text, encoding="utf-8")
        return path

    def test_lines_with_blank_ones_between(self, tmp_path: Path) -> None:
        lines = ['{"path": "a.jpg", "label": "cat", "x": 1}', "", '{"label": "dog", "path": "b/c.jpg"}']
        source = self.write(tmp_path, "\n".join(lines))
        assert read_images(source) == [
            LabelledImage(tmp_path / "a.jpg", "cat"),
            LabelledImage(tmp_path / "b" / "c.jpg", "dog"),
        ]

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ("{", "line 2: not JSON"),
            ("[1]", "line 2: must be an object"),
            ('"x"', "line 2: must be an object"),
            ("{}", "line 2: needs a path and a label"),
            ('{"path": 3, "label": "cat"}', "line 2: needs a path and a label"),
            ('{"path": "a.jpg", "label": 3}', "line 2: needs a path and a label"),
            ('{"path": "a.jpg", "label": null}', "line 2: needs a path and a label"),
            ('{"path": "a.jpg", "label": " "}', "line 2: needs a path and a label"),
            ("[" * 100_000, "line 2: "),
        ],
        ids=lambda value: value[:30],
    )
    def test_bad_lines_are_named(self, tmp_path: Path, line: str, message: str) -> None:
        refuses(read_images, self.write(tmp_path, f'{{"path": "z.jpg", "label": "dog"}}\n{line}\n'), message)

    def test_empty(self, tmp_path: Path) -> None:
        refuses(read_images, self.write(tmp_path, "\n\n"), "lists no picture")

    @given(st.text(min_size=1).filter(str.strip))
    def test_any_label_round_trips(self, tmp_path_factory: pytest.TempPathFactory, label: str) -> None:
        source = tmp_path_factory.getbasetemp() / "any.jsonl"
        for ascii_only in (True, False):
            if not ascii_only and any(0xD800 <= ord(char) < 0xE000 for char in label):
                continue
            source.write_text(json.dumps({"path": "a.jpg", "label": label}, ensure_ascii=ascii_only), encoding="utf-8")
            assert [image.label for image in read_images(source)] == [unicodedata.normalize("NFC", label.strip())]


class TestClasses:
    def write(self, tmp_path: Path, text: str | bytes) -> Path:
        path = tmp_path / "classes.txt"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    @pytest.mark.parametrize(
        "text", ["cat\nhot dog\n烤鸭", "cat\r\nhot dog\r\n烤鸭\r\n", "\ufeffcat \n hot dog\n烤鸭\n\n\n"]
    )
    def test_one_a_line(self, tmp_path: Path, text: str) -> None:
        assert read_classes(self.write(tmp_path, text)) == ["cat", "hot dog", "烤鸭"]

    @pytest.mark.parametrize("text", ["", "\n", " \n \n"])
    def test_empty(self, tmp_path: Path, text: str) -> None:
        refuses(read_classes, self.write(tmp_path, text), "no class name")

    @pytest.mark.parametrize("text", ["cat\n\ndog", "\ncat", "cat\n   \ndog"])
    def test_blank(self, tmp_path: Path, text: str) -> None:
        refuses(read_classes, self.write(tmp_path, text), r"entry [12]: the class name is blank")

    @pytest.mark.parametrize("text", ["cat\ndog\ncat", "cat\ndog\n cat "])
    def test_twice(self, tmp_path: Path, text: str) -> None:
        refuses(read_classes, self.write(tmp_path, text), "entry 3: the class 'cat' stands there twice")

    def test_unreadable(self, tmp_path: Path) -> None:
        refuses(read_classes, tmp_path / "nowhere.txt", "cannot be read")
        refuses(read_classes, tmp_path, "cannot be read")
        refuses(read_classes, self.write(tmp_path, b"caf\xe9"), "not UTF-8")

    def test_check_labels_gives_them_back(self) -> None:
        assert check_labels(["a", "b"], "here") == ["a", "b"]
        with pytest.raises(InputError, match="here: holds no class name"):
            check_labels([], "here")


class TestDescriptions:
    def write(self, tmp_path: Path, text: str) -> Path:
        (tmp_path / "d.json").write_text(text, encoding="utf-8")
        return tmp_path / "d.json"

    def test_sentences_with_their_spaces_made_plain(self, tmp_path: Path) -> None:
        path = self.write(tmp_path, '{"cat": ["a  furry\\n animal ", "b"], "dog": []}')
        assert read_descriptions(path) == {"cat": ["a furry animal", "b"], "dog": []}

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "JSON"),
            ("{", "JSON"),
            ("[" * 100_000, "JSON"),
            ("[]", "must be a JSON object"),
            ("null", "must be a JSON object"),
            ("{}", "at least one class"),
            ('{"cat": "furry"}', "'cat' must be a list of sentences"),
            ('{"cat": null}', "'cat' must be a list"),
            ('{"cat": {"a": 1}}', "'cat' must be a list"),
            ('{"cat": [1]}', "'cat' must be a list"),
            ('{"cat": ["a", ""]}', "none blank"),
            ('{"cat": ["a", " \\n"]}', "none blank"),
            ('{"": ["a"]}', "class name"),
            ('{"cat": ["a"], "cat": ["b"]}', "'cat' stands there twice"),
        ],
        ids=lambda value: value[:30],
    )
    def test_other_forms(self, tmp_path: Path, text: str, message: str) -> None:
        refuses(read_descriptions, self.write(tmp_path, text), message)

    def test_unreadable(self, tmp_path: Path) -> None:
        refuses(read_descriptions, tmp_path / "nowhere.json", "cannot be read")
        (tmp_path / "d.json").write_bytes(b'{"caf\xe9": []}')
        refuses(read_descriptions, tmp_path / "d.json", "UTF-8")


class TestTags:
    def write(self, tmp_path: Path, text: str) -> Path:
        (tmp_path / "t.json").write_text(text, encoding="utf-8")
        return tmp_path / "t.json"

    def test_classes_a_tag(self, tmp_path: Path) -> None:
        tags = {"pet": ["cat", "dog"], "烤": ["烤鸭"]}
        assert read_tags(self.write(tmp_path, json.dumps(tags))) == tags

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("[]", r"must be a JSON object of \{tag: \[classes\]\} with at least one tag"),
            ('{"pet": "cat"}', "the tag 'pet' must be a list of classes"),
            ('{"pet": []}', "tag 'pet': holds no class name"),
            ('{"pet": ["cat", "cat"]}', "tag 'pet', entry 2: the class 'cat' stands there twice"),
            ('{"pet": ["cat", " "]}', "none blank"),
            ('{" ": ["cat"]}', "blank"),
            ('{"pet": ["cat"], "pet": ["dog"]}', "'pet' stands there twice"),
        ],
        ids=lambda value: value[:30],
    )
    def test_other_forms(self, tmp_path: Path, text: str, message: str) -> None:
        refuses(read_tags, self.write(tmp_path, text), message)


class TestFewShot:
    images = [LabelledImage(Path(f"{label}{i}.jpg"), label) for i in range(20) for label in "abc"][:-2]

    @given(st.integers(1, 25), st.integers(0, 1000))
    def test_draws_distinct_pictures_in_their_order(self, shots: int, seed: int) -> None:
        drawn = few_shot(self.images, shots, seed)
        assert drawn == [image for image in self.images if image in set(drawn)]
        assert {label: sum(i.label == label for i in drawn) for label in "abc"} == {
            label: min(shots, sum(i.label == label for i in self.images)) for label in "abc"
        }

    def test_the_seed_decides(self) -> None:
        assert few_shot(self.images, 3, 7) == few_shot(self.images, 3, 7)
        assert len({tuple(few_shot(self.images, 3, seed)) for seed in range(10)}) > 5

    @pytest.mark.parametrize("shots", [0, -1])
    def test_none(self, shots: int) -> None:
        with pytest.raises(InputError, match=f"shots={shots}"):
            few_shot(self.images, shots, 0)

    def test_a_seed_that_is_none(self) -> None:
        with pytest.raises(InputError, match="seed"):
            few_shot(self.images, 1, -1)
