"""Annotation files of three data sets, whole and broken: read, refused with a reason, or passed over and counted."""

import json
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from boxes import annotations, write
from hypothesis import given
from hypothesis import strategies as st

from rar.runtime.detection.annotations import (
    CROWD,
    NO_AREA,
    NO_BOX,
    NO_CATEGORY,
    NO_PICTURE,
    TWICE,
    Box,
    match_labels,
    read_annotations,
)
from rar.runtime.errors import InputError


def row(number: int, **changes: Any) -> dict[str, Any]:
    return {"id": number, "image_id": 1, "category_id": 7, "bbox": [1, 2, 30, 40.5], **changes}


def content(*rows: Any, **changes: Any) -> dict[str, Any]:
    images, categories = [{"id": 1, "file_name": "a/b.jpg"}], [{"id": 7, "name": "cat"}]
    return {"images": images, "categories": categories, "annotations": list(rows), **changes}


class TestForms:
    def test_coco(self, tmp_path: Path) -> None:
        read = read_annotations(write(tmp_path, content(row(1), row(2, bbox=[0, 0, 1, 1]))))
        assert read.pictures == {1: PurePosixPath("a/b.jpg")}
        assert read.categories == {7: "cat"}
        assert read.boxes == {1: [Box((1, 2, 30, 40.5), 7), Box((0, 0, 1, 1), 7)]}
        assert read.boxes[1][0].edges == (1, 2, 31, 42.5)
        assert not read.skipped

    def test_lvis_names_folder_and_file_by_the_address(self, tmp_path: Path) -> None:
        image = {
            "id": 1, "coco_url": "http://images.cocodataset.org/val2017/000000397133.jpg",
            "neg_category_ids": [], "not_exhaustive_category_ids": [],
        }  # fmt: skip
        category = {"id": 7, "name": "alarm_clock", "synonyms": ["alarm_clock", "alarm"], "frequency": "f"}
        read = read_annotations(write(tmp_path, content(row(1), images=[image], categories=[category])))
        assert read.pictures == {1: PurePosixPath("val2017/000000397133.jpg")}
        assert read.categories == {7: "alarm_clock"}

    def test_v3det(self, tmp_path: Path) -> None:
        image = {"id": 1, "file_name": "images/n00007846/21_371_36605643632_c3f8f9.jpg", "height": 768, "width": 1024}
        category = {"id": 7, "name": "person", "cat_info": "", "novel": False}
        read = read_annotations(write(tmp_path, content(row(1, iscrowd=0), images=[image], categories=[category])))
        assert read.pictures[1].parts[0] == "images"
        assert len(read.boxes[1]) == 1

    def test_proposals_take_the_place_of_the_boxes(self, tmp_path: Path) -> None:
        proposals = [
            {"image_id": 1, "category_id": 999, "bbox": [5, 6, 7, 8], "score": 0.25},
            {"image_id": 2, "bbox": [5, 6, 7, 8], "score": 1},
            {"image_id": 1, "bbox": [5, 6, 0, 8], "score": 1},
        ]
        read = read_annotations(write(tmp_path, content(row(1))), write(tmp_path, proposals, "proposals.json"))
        assert read.boxes == {1: [Box((5, 6, 7, 8), None, 0.25)]}
        assert read.skipped == {NO_PICTURE: 1, NO_AREA: 1}

    def test_sizes_of_the_pictures_that_give_them(self, tmp_path: Path) -> None:
        images = [
            {"id": 1, "file_name": "a.jpg", "width": 600, "height": 400.0},
            {"id": 2, "file_name": "b.jpg", "width": 600},
            {"id": 3, "file_name": "c.jpg", "width": 0, "height": 400},
            {"id": 4, "file_name": "d.jpg", "width": "600", "height": 400},
        ]
        assert read_annotations(write(tmp_path, content(images=images))).sizes == {1: (600, 400)}

    def test_ids_that_are_texts(self, tmp_path: Path) -> None:
        """As VisDrive and others have them."""
        images, categories = [{"id": "0000001_02999", "file_name": "a.jpg"}], [{"id": "n1", "name": "cat"}]
        rows = [row(1, image_id="0000001_02999", category_id="n1"), row(2, image_id="0000001_02999")]
        proposals = [{"image_id": "0000001_02999", "bbox": [5, 6, 7, 8], "score": 0.25}]
        file = write(tmp_path, content(*rows, images=images, categories=categories))
        read = read_annotations(file)
        assert read.boxes == {"0000001_02999": [Box((1, 2, 30, 40.5), "n1")]}
        assert read.skipped == {NO_CATEGORY: 1}
        assert match_labels(read.categories, ["cat"]) == ({"cat": "n1"}, [])
        read = read_annotations(file, write(tmp_path, proposals, "proposals.json"))
        assert read.boxes == {"0000001_02999": [Box((5, 6, 7, 8), None, 0.25)]}

    def test_a_test_set_s_file_has_no_annotations_and_takes_proposals(self, tmp_path: Path) -> None:
        given = content()
        del given["annotations"]
        file = write(tmp_path, given)
        with pytest.raises(InputError, match=r"has no annotations, as files of test sets.*--proposals"):
            read_annotations(file)
        proposals = write(tmp_path, [{"image_id": 1, "bbox": [5, 6, 7, 8], "score": 0.25}], "proposals.json")
        assert read_annotations(file, proposals).boxes == {1: [Box((5, 6, 7, 8), None, 0.25)]}

    def test_a_list_of_results_in_its_place(self, tmp_path: Path) -> None:
        file = write(tmp_path, [{"image_id": 1, "bbox": [5, 6, 7, 8], "score": 0.25}])
        with pytest.raises(InputError, match="give it with --proposals"):
            read_annotations(file)

    @pytest.mark.parametrize("name", ["val2017\\a.jpg", "val2017/a.jpg", ".\\val2017\\a.jpg", "val2017\\\\a.jpg"])
    def test_windows_paths(self, tmp_path: Path, name: str) -> None:
        read = read_annotations(write(tmp_path, content(images=[{"id": 1, "file_name": name}])))
        assert read.pictures == {1: PurePosixPath("val2017/a.jpg")}

    @pytest.mark.parametrize("name", ["C:\\data\\a.jpg", "d:/data/a.jpg", "\\\\server\\share\\a.jpg"])
    def test_windows_paths_of_one_machine(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(InputError, match="a path of one Windows machine; name a file inside the folder"):
            read_annotations(write(tmp_path, content(images=[{"id": 1, "file_name": name}])))

    @pytest.mark.parametrize("name", ["..\\a.jpg", "a\\..\\..\\b.jpg", "\\a.jpg"])
    def test_windows_paths_that_leave_the_folder(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(InputError, match="leaves the folder"):
            read_annotations(write(tmp_path, content(images=[{"id": 1, "file_name": name}])))

    def test_a_file_in_a_hub_s_cache(self, tmp_path: Path) -> None:
        (tmp_path / "blobs").mkdir()
        (tmp_path / "snapshots").mkdir()
        write(tmp_path / "blobs", content(row(1)), "4d7a")
        link = tmp_path / "snapshots" / "boxes.json"
        link.symlink_to("../blobs/4d7a")
        assert len(read_annotations(link).boxes[1]) == 1
        (tmp_path / "blobs" / "4d7a").unlink()
        with pytest.raises(InputError, match=r"a link to \.\./blobs/4d7a, which is not there; download"):
            read_annotations(link)

    def test_a_pointer_of_git_lfs(self, tmp_path: Path) -> None:
        (tmp_path / "boxes.json").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 1\n")
        with pytest.raises(InputError, match="pointer of Git LFS"):
            read_annotations(tmp_path / "boxes.json")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"iscrowd": 1}, CROWD),
        ({"bbox": [1, 2, 0, 4]}, NO_AREA),
        ({"bbox": [1, 2, 3, -4]}, NO_AREA),
        ({"bbox": [1, 2, 3]}, NO_BOX),
        ({"bbox": [1, 2, 3, "4"]}, NO_BOX),
        ({"bbox": [1, 2, 3, True]}, NO_BOX),
        ({"bbox": [1, 2, 3, float("nan")]}, NO_BOX),
        ({"bbox": [1, 2, float("inf"), 4]}, NO_BOX),
        ({"bbox": [1, 2, 10**400, 4]}, NO_BOX),
        ({"bbox": None}, NO_BOX),
        ({"bbox": {"x": 1}}, NO_BOX),
        ({"image_id": 2}, NO_PICTURE),
        ({"category_id": 8}, NO_CATEGORY),
        ({"category_id": "cat"}, NO_CATEGORY),
        ({"id": 1}, TWICE),
    ],
)
def test_what_cannot_be_used_is_passed_over_and_counted(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    rows = [row(1), row(2, **changes), row(3)]
    read = read_annotations(write(tmp_path, content(*rows)))
    assert len(read.boxes[1]) == 2
    assert read.skipped == {reason: 1}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"images": {}}, "images, annotations, categories"),
        ({"images": []}, "lists no picture"),
        ({"categories": []}, "lists no category"),
        ({"images": [{"id": 1, "file_name": "a"}, {"id": 1, "file_name": "b"}]}, r"images\[1\]: the id 1 .*twice"),
        ({"categories": [{"id": 7, "name": "cat"}, {"id": 7, "name": "dog"}]}, r"categories\[1\]: the id 7 .*twice"),
        ({"images": [{"file_name": "a.jpg"}]}, r"images\[0\].*an id"),
        ({"images": [{"id": 1}]}, r"images\[0\]: needs a file_name"),
        ({"categories": [{"id": 7, "name": " "}]}, r"categories\[0\]: needs a name"),
        ({"images": [{"id": 1, "file_name": "../../etc/passwd"}]}, r"images\[0\].*leaves the folder"),
        ({"images": [{"id": 1, "file_name": "/etc/passwd"}]}, "leaves the folder"),
        ({"images": [{"id": 1, "file_name": "a\0.jpg"}]}, "leaves the folder"),
        ({"images": [{"id": 1, "coco_url": "http://host/../b.jpg"}]}, "leaves the folder"),
        ({"images": [{"id": 1, "coco_url": "http://host/"}]}, "leaves the folder"),
        ({"annotations": [[1, 2]]}, r"annotations\[0\].*an image_id"),
    ],
)  # fmt: skip
def test_a_file_of_another_form_is_refused(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        read_annotations(write(tmp_path, content(row(1), **changes)))


@pytest.mark.parametrize(
    "proposals",
    [
        {"annotations": []},
        [{"bbox": [1, 2, 3, 4], "score": 0.5}],
        [{"image_id": 1, "bbox": [1, 2, 3, 4]}],
        [{"image_id": 1, "bbox": [1, 2, 3, 4], "score": 1.5}],
        [{"image_id": 1, "bbox": [1, 2, 3, 4], "score": float("nan")}],
    ],
)
def test_proposals_of_another_form_are_refused(tmp_path: Path, proposals: Any) -> None:
    with pytest.raises(InputError, match=r"proposals\.json"):
        read_annotations(write(tmp_path, content()), write(tmp_path, proposals, "proposals.json"))


def test_no_file_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.json: cannot be read"):
        read_annotations(tmp_path / "none.json")


@given(st.floats(0, 1, exclude_max=True))
def test_half_a_file_is_refused(tmp_path_factory: pytest.TempPathFactory, share: float) -> None:
    whole = json.dumps(annotations(["a.jpg"]))
    file = tmp_path_factory.mktemp("half") / "boxes.json"
    file.write_text(whole[: int(share * len(whole))])
    with pytest.raises(InputError, match="not JSON, or not whole"):
        read_annotations(file)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["id", "bbox", "name"]), inner),
    max_leaves=10,
)


@given(
    st.fixed_dictionaries(dict.fromkeys(("id", "image_id", "category_id", "bbox", "iscrowd"), json_values)),
    st.sampled_from(["images", "annotations", "categories"]),
)
def test_rows_of_anything_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, own: dict[str, Any], where: str
) -> None:
    file = write(tmp_path_factory.mktemp("any"), {**content(row(1)), where: [own]})
    try:
        read = read_annotations(file)
    except InputError:
        return
    assert sum(map(len, read.boxes.values())) + read.skipped.total() == 1


class TestLabels:
    def test_exactly_then_with_spaces_and_never_by_synonym(self) -> None:
        categories = {1: "alarm_clock", 2: "hot_dog", 3: "hot dog", 4: "Cat", 5: "pot_plant"}
        matched, unknown = match_labels(categories, ["alarm clock", "hot dog", "cat", "pot_plant", "pot plant"])
        assert matched == {"alarm clock": 1, "hot dog": 3, "pot_plant": 5}
        assert unknown == ["hot_dog", "Cat"]

    def test_of_two_categories_of_one_name_the_first_counts(self) -> None:
        assert match_labels({5: "bat", 2: "bat"}, ["bat"]) == ({"bat": 5}, ["bat"])
