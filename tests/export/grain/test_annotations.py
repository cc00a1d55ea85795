"""Annotated pictures: the file's form, what is left out and counted, and batches made of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tiny_grain import MICRO, Squares

from rar.export.grain.annotations import describe, read_annotations
from rar.export.grain.data import AnnotatedPictures, Collator, Example, ahead, clip_boxes
from rar.export.grain.tokens import tokenizer
from rar.runtime import InputError

Annotated = Callable[..., Path]


@pytest.fixture(scope="module")
def collate() -> Collator:
    return Collator(MICRO, tokenizer(MICRO), 1)


class TestFile:
    def test_lines_come_back(self, annotated: Annotated) -> None:
        found = read_annotations(annotated(6))
        assert found.left_out == {"lines without a box": 1}
        for place, line in enumerate(found.lines):
            example = Squares().example(place)
            assert line.caption == example.caption
            assert [region.description for region in line.regions] == list(example.descriptions)
            assert [list(region.box) for region in line.regions] == example.boxes.tolist()

    def test_flaws_are_counted_and_the_rest_is_kept(self, annotated: Annotated) -> None:
        def spoil(place: int, row: dict[str, Any]) -> None:
            if place == 0:
                row["caption"] = " \n"
            if place == 1:
                del row["caption"]
            if place == 2:
                row["path"] = "gone.png"
            if place == 5:
                row["path"] = "a" * 5000 + "\0"
            if place == 3:
                row["boxes"][1]["description"] = " "

        found = read_annotations(annotated(7, spoil))
        assert len(found.lines) == 3
        assert found.left_out == {
            "boxes without a description": 1,
            "lines whose picture is missing": 2,
            "lines without a box": 1,
            "lines without a caption": 2,
        }
        assert describe(found.left_out).startswith("1 boxes without a description, 2 lines")
        assert [region.description for region in found.lines[0].regions] == [Squares().example(3).descriptions[0]]

    @pytest.mark.parametrize(
        ("line", "told"),
        [
            ("{", "line 2: not JSON"),
            ("[1]", "line 2: must be an object"),
            ('{"caption": "a"}', "line 2: must be an object with path"),
            ('{"path": "0.png", "caption": 3}', "caption must be a text"),
            ('{"path": "0.png", "caption": "a", "boxes": {}}', "boxes a list"),
            ('{"path": "0.png", "caption": "a", "boxes": [{"box": [1, 2, 3], "description": "b"}]}', "a box must be"),
            ('{"path": "0.png", "caption": "a", "boxes": [{"box": [1, 2, 3, NaN], "description": "b"}]}', "not finite"),
            ('{"path": "0.png", "caption": "a", "boxes": [{"description": "b"}]}', "KeyError"),
            ('{"path": "0.png", "caption": "a", "boxes": ["b"]}', "a box must be"),
        ],
    )
    def test_another_form_is_named_by_its_line(self, line: str, told: str, annotated: Annotated) -> None:
        file = annotated(1)
        file.write_text(file.read_text() + line + "\n")
        with pytest.raises(InputError, match=told):
            read_annotations(file)

    def test_nothing_that_can_be_used(self, tmp_path: Path) -> None:
        (tmp_path / "a.jsonl").write_text(json.dumps({"path": "b.png", "caption": "c"}) + "\n\n")
        with pytest.raises(InputError, match=r"no line can be used \(1 lines whose picture"):
            read_annotations(tmp_path / "a.jsonl")
        (tmp_path / "a.jsonl").write_text("")
        with pytest.raises(InputError, match="it is empty"):
            read_annotations(tmp_path / "a.jsonl")
        with pytest.raises(InputError, match="cannot be read"):
            read_annotations(tmp_path / "none.jsonl")
        (tmp_path / "a.jsonl").write_bytes(b"\xff\xfe\xfa")
        with pytest.raises(InputError, match="not UTF-8"):
            read_annotations(tmp_path / "a.jsonl")


class TestPictures:
    def test_boxes_outside_are_dropped_with_their_descriptions(self, annotated: Annotated) -> None:
        def move(place: int, row: dict[str, Any]) -> None:
            row["boxes"].insert(0, {"box": [50, 3, 70, 20], "description": "beside the picture"})
            row["boxes"].append({"box": [30, 30, 99, 99], "description": "half inside"})
            row["boxes"].append({"box": [9, 9, 9, 20], "description": "without width"})

        examples = AnnotatedPictures(read_annotations(annotated(1, move)).lines, boxes=9)
        for _ in range(2):  # and counted once, however often it is seen
            (found,) = examples([0])
            assert list(found.descriptions) == [*Squares().example(0).descriptions, "half inside"]
            assert found.boxes[-1].tolist() == [30, 30, 40, 40]
            assert examples.left_out == {"boxes outside their picture": 2}

    def test_the_surest_boxes_are_kept(self, annotated: Annotated) -> None:
        def score(place: int, row: dict[str, Any]) -> None:
            row["boxes"] = [
                {"box": [0, 0, 9, 9], "description": name, "score": score}
                for name, score in (("low", 0.31), ("high", 0.9), ("middle", 0.5))
            ]

        lines = read_annotations(annotated(1, score)).lines
        assert list(AnnotatedPictures(lines, boxes=2)([0])[0].descriptions) == ["high", "middle"]

    def test_the_next_picture_stands_in_for_a_broken_one(self, annotated: Annotated) -> None:
        file = annotated(3)
        (file.parent / "1.png").write_bytes(b"not a picture")
        examples = AnnotatedPictures(read_annotations(file).lines, boxes=5)
        captions = [example.caption for example in examples([0, 1, 2, 1])]
        own = [Squares().example(place).caption for place in (0, 2, 2, 2)]
        assert captions == own
        assert examples.left_out == {"pictures that cannot be read": 1}
        for name in ("0.png", "2.png"):
            (file.parent / name).write_bytes(b"")
        with pytest.raises(InputError, match="none of the annotated pictures"):
            examples([2])

    @given(st.lists(st.lists(st.floats(-50, 90, width=32), min_size=4, max_size=4), max_size=6))
    def test_clipped_boxes_lie_inside_and_keep_their_order(self, boxes: list[list[float]]) -> None:
        given_boxes = np.array(boxes, np.float32).reshape(-1, 4)
        clipped, inside = clip_boxes(given_boxes, 40, 30)
        assert len(clipped) == inside.sum()
        for box, whole in zip(clipped, given_boxes[inside], strict=True):
            assert 0 <= box[0] < box[2] <= 40
            assert 0 <= box[1] < box[3] <= 30
            middle = np.clip((whole[:2] + whole[2:]) / 2, 0, (40, 30))
            assert (box[:2] <= middle).all()
            assert (middle <= box[2:]).all()


class TestBatches:
    def test_equal_descriptions_are_one(self, collate: Collator) -> None:
        pixels = np.zeros((40, 80, 3), np.uint8)
        boxes = np.array([[0, 0, 40, 20], [20, 10, 80, 40]], np.float32)
        empty = np.empty((0, 4), np.float32)
        batch = collate(
            [
                Example(pixels, "one", boxes, ["a red square", "a blue one"]),
                Example(pixels, "two", empty, []),
                Example(pixels, "three", boxes, ["a blue one", "a red square"]),
            ]
        )
        assert batch.meanings.tolist() == [0, 1, 1, 0]
        assert len(batch.ids) == 3 + 2
        assert [boxes.shape for boxes in batch.boxes] == [(2, 4), (0, 4), (2, 4)]
        np.testing.assert_allclose(batch.boxes[0], [[0.25, 0.25, 0.5, 0.5], [0.625, 0.625, 0.75, 0.75]])

    def test_texts_are_cut_after_the_longest(self, collate: Collator) -> None:
        own = tokenizer(MICRO)(["a", "a long sentence of words"])
        cut = collate.tokenize(["a", "a long sentence of words"])
        assert cut.shape == (2, int(own.argmax(1).max()) + 1)
        assert (own[:, : cut.shape[1]] == cut).all()
        assert collate.tokenize(["word " * 99]).shape == (1, MICRO.context)

    def test_pictures_are_squashed_as_the_released_code_does(self, collate: Collator, photos: list[Path]) -> None:
        with Image.open(photos[0]) as photo:
            whole = photo.convert("RGB")
        pixels = np.asarray(whole)
        squashed = np.asarray(whole.resize((32, 32), Image.Resampling.BICUBIC), np.float64) / 255
        expected = ((squashed - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)).transpose(2, 0, 1)
        batch = collate([Example(pixels, "x", np.empty((0, 4), np.float32), [])])
        np.testing.assert_allclose(batch.pixels[0], expected, atol=1e-5)

    def test_batches_ahead_come_in_order_and_errors_where_they_arise(self) -> None:
        def batches() -> Any:
            yield from range(3)
            raise InputError("broken")

        found = ahead(batches())
        assert [next(found), next(found), next(found)] == [0, 1, 2]
        with pytest.raises(InputError, match="broken"):
            next(found)
