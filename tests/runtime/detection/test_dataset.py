"""Boxes of detected objects: each answered or failed alone, in order, however they are batched."""

import math
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from boxes import BOXES, CLASSES, annotations, mosaic, write
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from rar.export.memory.build import MemorySource, build_memory
from rar.runtime import Blur, Bundle, ImageError, InputError, Recognizer, Result, WcaOptions
from rar.runtime.detection.annotations import read_annotations
from rar.runtime.detection.dataset import detect
from rar.runtime.detection.frames import Frame, RegionOptions, draw, drawn_size

Pixels = npt.NDArray[np.uint8]
SHARP: dict[str, Any] = {"grow": 1.0, "blur": None}


@pytest.fixture(scope="module")
def recognizer(pictures_bundle: Path) -> Recognizer:
    return Recognizer.open(pictures_bundle, "cpu", wca=WcaOptions(crops=4), threads=1)


@pytest.fixture(scope="module")
def frame(labelled_folder: Path) -> Pixels:
    return mosaic(labelled_folder)


def similarities(result: Result) -> dict[str, float]:
    return {candidate.label: candidate.similarity for candidate in result.retrieved}


class TestRegions:
    def test_each_box_finds_its_class(self, recognizer: Recognizer, frame: Pixels) -> None:
        results = recognizer.recognize_regions(frame, BOXES, k=3, rank="none", **SHARP)
        assert [result.label for result in results] == list(CLASSES)
        for result in results:
            assert result.score == result.candidates[0].similarity > 0.999
            assert len(result.candidates) == 3
            assert {"decode", "preprocess", "embed", "search"} <= set(result.timings)

    def test_a_bad_box_has_an_error_and_the_others_answers(self, recognizer: Recognizer, frame: Pixels) -> None:
        boxes = [BOXES[0], (5, 5, 5, 9), BOXES[1], (500, 500, 510, 510), (0, 0, math.nan, 9), BOXES[3]]
        results = recognizer.recognize_regions(frame, boxes, k=1, rank="none", **SHARP)
        assert [result.label for result in results] == ["cat", None, "coffee", None, None, "rocket"]
        for place, words in ((1, "empty or inverted"), (3, "outside the picture"), (4, "not finite")):
            assert isinstance(results[place].error, ImageError)
            assert f"region {place}: " in str(results[place].error)
            assert words in str(results[place].error)

    def test_a_bad_picture_has_an_error_for_each_box(self, recognizer: Recognizer) -> None:
        results = recognizer.recognize_regions(b"no picture", BOXES, k=1)
        assert len(results) == 4
        assert all(isinstance(result.error, ImageError) for result in results)

    def test_no_boxes_no_results(self, recognizer: Recognizer, frame: Pixels) -> None:
        assert recognizer.recognize_regions(frame, [], k=1) == []

    def test_a_ranker_is_shown_what_the_encoder_sees(self, recognizer: Recognizer, frame: Pixels) -> None:
        look: dict[str, Any] = {"grow": 1.6, "blur": 0.2}
        (region,) = recognizer.recognize_regions(frame, [(50, 40, 90, 80)], k=4, rank="wca", **look)
        picture = draw(frame, (50, 40, 90, 80), RegionOptions(**look, square=False), threads=1)
        (whole,) = recognizer.recognize(picture, k=4, rank="wca")
        assert similarities(region) == pytest.approx(similarities(whole), abs=1e-4)
        assert region.ranked_by == "wca"
        ranked = {candidate.label: candidate.rank_score for candidate in whole.candidates}
        assert {candidate.label: candidate.rank_score for candidate in region.candidates} == pytest.approx(
            ranked, abs=1e-4
        )

    def test_filters_of_classes_hold_for_boxes(self, recognizer: Recognizer, frame: Pixels) -> None:
        results = recognizer.recognize_regions(frame, BOXES, k=2, rank="none", labels=["cat", "grass"], **SHARP)
        assert all(set(similarities(result)) == {"cat", "grass"} for result in results)

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            ({"boxes": [(1, 2, 3)]}, r"\[M, 4\]"),
            ({"scores": [0.5]}, "1 scores for 4 boxes"),
            ({"scores": [0.5, 0.5, 0.5, 1.5]}, "give 0 to 1"),
            ({"scores": [0.5, 0.5, 0.5, math.nan]}, "give 0 to 1"),
            ({"fusion": 1.5}, "fusion=1.5"),
            ({"fusion": math.nan}, "fusion=nan"),
            ({"grow": 0.5}, "grow must be"),
            ({"grow": [(32, 2.0)]}, "last limit infinite"),
            ({"blur": -1}, "blur"),
            ({"k": 5}, "holds 4 classes"),
            ({"rank": "best"}, "rank 'best' is unknown"),
            ({"gate": "unsure"}, "rar-export tune"),
        ],
    )
    def test_settings_out_of_range(
        self, recognizer: Recognizer, frame: Pixels, arguments: dict[str, Any], words: str
    ) -> None:
        with pytest.raises(InputError, match=words):
            recognizer.recognize_regions(**{"image": frame, "boxes": BOXES, "k": 1, **arguments})


class TestScores:
    @pytest.mark.parametrize("fusion", [0.0, 0.3, 1.0])
    def test_proposal_and_share_of_the_class_are_merged(
        self, recognizer: Recognizer, frame: Pixels, fusion: float
    ) -> None:
        proposals = [0.1, 0.9, 1.0, 0.0]
        plain = recognizer.recognize_regions(frame, BOXES, k=3, rank="none", **SHARP)
        results = recognizer.recognize_regions(frame, BOXES, k=3, rank="none", scores=proposals, fusion=fusion, **SHARP)
        for before, after, proposal in zip(plain, results, proposals, strict=True):
            cosines = np.array([candidate.similarity for candidate in before.candidates])
            share = np.exp(100 * cosines)[0] / np.exp(100 * cosines).sum()
            assert after.score == pytest.approx(proposal**fusion * share ** (1 - fusion))
            assert after.candidates == before.candidates


class TestStream:
    @given(counts=st.lists(st.integers(0, 9), max_size=7), size=st.integers(1, 12))
    @settings(max_examples=25)
    def test_results_belong_to_their_pictures_however_they_are_batched(
        self, recognizer: Recognizer, frame: Pixels, counts: list[int], size: int
    ) -> None:
        wanted = [[(number + place) % 4 for place in range(count)] for number, count in enumerate(counts)]
        frames = (Frame(frame, [BOXES[place] for place in places]) for places in wanted)
        found = recognizer.stream_regions(frames, k=1, rank="none", batch_size=size, **SHARP)
        assert [[result.label for result in own] for own in found] == [
            [CLASSES[place] for place in places] for places in wanted
        ]

    def test_broken_pictures_among_good_ones(
        self, recognizer: Recognizer, frame: Pixels, class_pictures: list[Path]
    ) -> None:
        frames = [Frame(frame, BOXES[:2]), Frame("none.jpg", BOXES), Frame(class_pictures[0], [(0, 0, 50, 50)])]
        found = list(recognizer.stream_regions(frames, k=1, rank="none", batch_size=3, **SHARP))
        assert [[result.error is None for result in own] for own in found] == [[True] * 2, [False] * 4, [True]]

    def test_an_endless_source_is_read_no_further_than_needed(self, recognizer: Recognizer, frame: Pixels) -> None:
        taken = 0

        def endless() -> Iterator[Frame]:
            nonlocal taken
            while True:
                taken += 1
                yield Frame(frame, BOXES)

        found = recognizer.stream_regions(endless(), k=1, rank="none", batch_size=8)
        assert len(list(islice(found, 6))) == 6
        # What was given out, the batch that is open, the one that is made meanwhile, and the pictures ahead.
        assert taken <= 6 + 2 + 4 + 4

    def test_bad_boxes_of_a_later_picture_are_raised(self, recognizer: Recognizer, frame: Pixels) -> None:
        frames = [Frame(frame, BOXES), Frame(frame, [(1, 2)])]
        with pytest.raises(InputError, match=r"\[M, 4\]"):
            list(recognizer.stream_regions(frames, k=1, rank="none"))


class TestDrawing:
    @given(
        box=st.tuples(st.integers(0, 90), st.integers(0, 60), st.integers(1, 60), st.integers(1, 60)),
        grow=st.floats(1, 4),
        radius=st.sampled_from([None, 3.0]),
    )
    @settings(max_examples=25)
    def test_equals_blurring_the_frame_pasting_the_box_and_cropping(
        self, box: tuple[int, int, int, int], grow: float, radius: float | None
    ) -> None:
        pixels = np.random.default_rng(0).integers(0, 256, (100, 120, 3), dtype=np.uint8)
        x0, y0, x1, y1 = box[0], box[1], min(120, box[0] + box[2]), min(100, box[1] + box[3])
        blur = None if radius is None else Blur(radius, "pixels", "pillow")
        drawn = draw(pixels, (x0, y0, x1, y1), RegionOptions(grow, blur, square=False), threads=1)
        whole = Image.fromarray(pixels)
        shown = whole if radius is None else whole.filter(ImageFilter.GaussianBlur(radius))
        shown.paste(Image.fromarray(pixels[y0:y1, x0:x1]), (x0, y0))
        half_width, half_height = (x1 - x0) * grow / 2, (y1 - y0) * grow / 2
        middle_x, middle_y = (x0 + x1) / 2, (y0 + y1) / 2
        around = (
            max(0, math.floor(middle_x - half_width)), max(0, math.floor(middle_y - half_height)),
            min(120, math.ceil(middle_x + half_width)), min(100, math.ceil(middle_y + half_height)),
        )  # fmt: skip
        np.testing.assert_array_equal(drawn, np.asarray(shown.crop(around)))

    def test_large_regions_are_drawn_smaller(self) -> None:
        pixels = np.full((300, 3000, 3), 77, np.uint8)
        drawn = draw(pixels, (100, 100, 2900, 200), RegionOptions(1.0, None, square=False), threads=1)
        assert drawn.shape == (37, 1024, 3)
        assert (drawn == 77).all()
        assert drawn_size((100, 100, 2900, 200)) == (1024, 37)


def test_what_grain_saw_is_given_in_pixels_of_the_whole_picture(
    micro_bundle: Path, writable: Callable[[Path], Path], frame: Pixels
) -> None:
    bundle = writable(micro_bundle)
    build_memory(Bundle.open(bundle), MemorySource(classes=CLASSES), provider="cpu")
    recognizer = Recognizer.open(bundle, "cpu")
    box, look = (60, 50, 100, 90), {"grow": 1.5, "blur": None}
    (region,) = recognizer.recognize_regions(frame, [box], k=4, rank="grain", **look)  # type: ignore[arg-type]
    (whole,) = recognizer.recognize(draw(frame, box, RegionOptions(1.5, None, square=False), 1), k=4, rank="grain")
    assert len(region.regions) == len(whole.regions) > 0
    for seen, drawn in zip(region.regions, whole.regions, strict=True):
        assert seen.box == pytest.approx(np.add(drawn.box, (50, 40, 50, 40)), abs=0.05)


class TestFiles:
    def test_classes_of_a_file_s_boxes(self, recognizer: Recognizer, frame: Pixels, tmp_path: Path) -> None:
        Image.fromarray(frame).save(tmp_path / "a.png")
        read = read_annotations(write(tmp_path, annotations(["a.png", "lost.png", "a.png"])))
        found = list(detect(recognizer, read, tmp_path, k=2, rank="none", **SHARP))
        assert [one.picture for one in found] == [10, 11, 12]
        rows = found[0].to_coco()
        assert [row["category_id"] for row in rows] == [1, 4, 7, 10]
        assert [row["bbox"] for row in rows] == [[x0, y0, x1 - x0, y1 - y0] for x0, y0, x1, y1 in BOXES]
        assert all(row["image_id"] == 10 and 0 < row["score"] <= 1 for row in rows)
        assert found[1].to_coco() == []
        assert all("no such file" in str(result.error) for result in found[1].results)
        assert [row["score"] for row in found[2].to_coco()] == pytest.approx([row["score"] for row in rows])

    def test_only_classes_of_categories_are_looked_for(
        self, recognizer: Recognizer, frame: Pixels, tmp_path: Path
    ) -> None:
        Image.fromarray(frame).save(tmp_path / "a.png")
        content = annotations(["a.png"], ["dog", "coffee", "grass", "bird"])
        (found,) = detect(recognizer, read_annotations(write(tmp_path, content)), tmp_path, rank="none", **SHARP)
        assert {row["category_id"] for row in found.to_coco()} == {4, 7}
        assert all(len(result.candidates) == 2 for result in found.results)

    def test_no_category_in_the_memory(self, recognizer: Recognizer, tmp_path: Path) -> None:
        content = annotations(["a.png"], ["dog", "bird", "cow", "horse"])
        with pytest.raises(InputError, match="none of its 4 categories, such as 'dog'"):
            detect(recognizer, read_annotations(write(tmp_path, content)), tmp_path)

    def test_files_may_lie_in_one_folder_whatever_their_paths_say(
        self, recognizer: Recognizer, frame: Pixels, tmp_path: Path
    ) -> None:
        Image.fromarray(frame).save(tmp_path / "a.png")
        content = annotations(["a.png"])
        content["images"] = [{"id": 10, "coco_url": "http://images.cocodataset.org/val2017/a.png"}]
        (found,) = detect(recognizer, read_annotations(write(tmp_path, content)), tmp_path, rank="none")
        assert len(found.to_coco()) == 4

    def test_as_supervision_detections(self, recognizer: Recognizer, frame: Pixels, tmp_path: Path) -> None:
        supervision = pytest.importorskip("supervision")
        Image.fromarray(frame).save(tmp_path / "a.png")
        content = annotations(["a.png", "lost.png"])
        content["annotations"][2]["bbox"] = [400, 400, 5, 5]
        found = list(detect(recognizer, read_annotations(write(tmp_path, content)), tmp_path, rank="none", **SHARP))
        detections = found[0].to_detections()
        assert isinstance(detections, supervision.Detections)
        assert detections.xyxy.tolist() == [list(BOXES[0]), list(BOXES[1]), list(BOXES[3])]
        assert detections.class_id.tolist() == [1, 4, 10]
        assert detections.data["class_name"].tolist() == ["cat", "coffee", "rocket"]
        assert detections.confidence == pytest.approx([row["score"] for row in found[0].to_coco()])
        assert len(found[1].to_detections()) == 0


@pytest.mark.parametrize(("count", "spaces"), [(1203, "_"), (13204, " ")])
def test_text_memories_of_lvis_and_v3det_size(
    tiny_bundle: Path, writable: Callable[[Path], Path], frame: Pixels, tmp_path: Path, count: int, spaces: str
) -> None:
    bundle = writable(tiny_bundle)
    names = [f"thing {number}" for number in range(count)]
    build_memory(Bundle.open(bundle), MemorySource(classes=names), provider="cpu")
    Image.fromarray(frame).save(tmp_path / "a.png")
    read = read_annotations(write(tmp_path, annotations(["a.png"], [name.replace(" ", spaces) for name in names])))
    recognizer = Recognizer.open(bundle, "cpu")
    (found,) = detect(recognizer, read, tmp_path, k=5)
    assert len(found.to_coco()) == 4
    for result in found.results:
        exact = recognizer.memory.labels.index(result.label or "")
        assert found.categories[result.label or ""] == 3 * exact + 1
        assert len({candidate.label for candidate in result.candidates}) == 5
