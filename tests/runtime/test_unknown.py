"""`unknown="reject"`: pictures of none of the memory's classes get no label, a probability, and their candidates."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rar.export.memory.build import MemorySource, build_memory
from rar.export.pictures.labelled import read_images
from rar.runtime import Bundle, InputError, Recognizer
from rar.runtime.cli.recognize import main
from rar.runtime.memory.strangers import Strangers
from rar.runtime.rank.tuning import Tuning


@pytest.fixture(scope="module")
def recognizer(pictures_bundle: Path) -> Iterator[Recognizer]:
    with Recognizer.open(pictures_bundle, "cpu") as own:
        yield own


@pytest.fixture(scope="module")
def strange() -> Any:
    """A picture like none that the memory holds, also to an encoder of random weights: all green."""
    return np.full((120, 120, 3), (0, 255, 0), np.uint8)


def test_a_stranger_has_no_label_and_keeps_its_candidates(
    recognizer: Recognizer, strange: Any, class_pictures: list[Path]
) -> None:
    refused, known = recognizer.recognize([strange, class_pictures[0]], k=3, rank="none", unknown="reject")
    assert (refused.label, refused.error, refused.refused) == (None, None, True)
    assert (known.label, known.refused) == ("cat", False)
    assert refused.unknown is not None
    assert known.unknown is not None
    assert 0 <= known.unknown < 0.5 < refused.unknown <= 1
    (named,) = recognizer.recognize(strange, k=3, rank="none")
    assert named.unknown is None
    assert [one.label for one in refused.candidates] == [one.label for one in named.candidates]
    assert (refused.score, refused.probability) == pytest.approx((named.score, named.probability), abs=1e-5)
    assert "unknown" in refused.timings
    assert "unknown" not in named.timings


@pytest.mark.parametrize("rank", ["none", "discriminant", "wca"])
def test_few_pictures_of_the_memory_itself_are_refused_whatever_ranks(
    recognizer: Recognizer, class_pictures: list[Path], rank: str
) -> None:
    results = recognizer.recognize(class_pictures, k=2, rank=rank, unknown="reject")
    assert sum(result.refused for result in results) <= 1


@pytest.mark.parametrize("given", [{"batch_size": 1}, {"batch_size": 5}, {"deadline_ms": 60_000.0}, {"k": 1}, {"k": 4}])
def test_the_probability_does_not_depend_on_how_it_is_asked(
    recognizer: Recognizer, strange: Any, class_pictures: list[Path], given: dict[str, Any]
) -> None:
    pictures = [*class_pictures, strange]
    expected = [one.unknown for one in recognizer.recognize(pictures, rank="none", unknown="reject")]
    found = [one.unknown for one in recognizer.stream(pictures, rank="none", unknown="reject", **given)]
    assert found == pytest.approx(expected, abs=1e-4)


def test_a_class_is_strange_while_others_are_looked_for_and_known_once_it_is_added(
    pictures_bundle: Path, writable: Callable[[Path], Path], photos: list[Path]
) -> None:
    own = Recognizer.open(writable(pictures_bundle), "cpu")
    motorcycle = next(path for path in photos if path.name == "motorcycle_left.png")
    (before,) = own.recognize(motorcycle, rank="none", unknown="reject")
    own.memory.add([motorcycle], "motorcycle")
    (added,) = own.recognize(motorcycle, rank="none", unknown="reject")
    (others,) = own.recognize(motorcycle, rank="none", unknown="reject", labels=["cat", "coffee", "grass", "rocket"])
    assert added.label == "motorcycle"
    assert before.unknown is not None
    assert added.unknown is not None
    assert added.unknown < before.unknown
    assert others.unknown == pytest.approx(before.unknown, abs=1e-3)
    own.memory.compact()  # fits it again, on all pictures
    (compacted,) = own.recognize(motorcycle, rank="none", unknown="reject")
    assert compacted.unknown is not None
    assert own.memory.discriminant is not None
    assert own.memory.discriminant.fit.strangers is not None
    own.close()


def test_a_class_of_texts_only_cannot_be_told_from_strangers_and_is_named(
    pictures_bundle: Path, writable: Callable[[Path], Path], labelled_folder: Path, strange: Any
) -> None:
    root = writable(pictures_bundle)
    source = MemorySource(images=read_images(labelled_folder), classes=["noise", "cat"])
    build_memory(Bundle.open(root), source, text_weight=0.5, provider="cpu")
    with Recognizer.open(root, "cpu") as own:
        (told,) = own.recognize(strange, rank="none", unknown="reject", labels=["noise"])
        assert (told.label, told.unknown) == ("noise", None)
        (refused,) = own.recognize(strange, rank="none", unknown="reject", labels=["cat", "rocket"])
        assert refused.refused


def test_regions_are_refused_as_pictures_are(recognizer: Recognizer, strange: Any) -> None:
    given: Any = {"scores": [0.5], "rank": "none"}
    (named,) = recognizer.recognize_regions(strange, [[0, 0, 100, 100]], **given)
    (result,) = recognizer.recognize_regions(strange, [[0, 0, 100, 100]], **given, unknown="reject")
    assert result.refused
    assert result.score == named.score


def test_what_tune_fitted_comes_before_what_the_memory_did(pictures_bundle: Path, class_pictures: list[Path]) -> None:
    own = Recognizer.open(pictures_bundle, "cpu")
    for limit, refused in ((0.0, True), (1.0, False)):
        own.tuning = Tuning("none", strangers=Strangers((0.0, 0.0, 0.0), (-1.0, 1.0), (0.0, 1.0), limit))
        (result,) = own.recognize(class_pictures[0], rank="none", unknown="reject")
        assert (result.unknown, result.refused) == (0.5, refused)
    own.close()


class TestBadInput:
    def test_another_word(self, recognizer: Recognizer, strange: Any) -> None:
        with pytest.raises(InputError, match="choose answer, reject"):
            recognizer.recognize(strange, unknown="maybe")  # type: ignore[arg-type]

    def test_a_memory_of_names(self, names_bundle: Path, strange: Any) -> None:
        with (
            Recognizer.open(names_bundle, "cpu") as own,
            pytest.raises(InputError, match=r"needs a memory with pictures.*rar-export add"),
        ):
            own.recognize(strange, unknown="reject")

    @pytest.mark.parametrize(
        "few",
        [["cat"] * 3, ["cat", "coffee", "rocket"], [*["cat"] * 2, *["coffee"] * 2, *["rocket"] * 2]],
        ids=["one class", "one picture a class", "two pictures a class"],
    )
    def test_pictures_that_do_not_tell(
        self,
        pictures_bundle: Path,
        writable: Callable[[Path], Path],
        labelled_folder: Path,
        strange: Any,
        few: list[str],
    ) -> None:
        root, left = writable(pictures_bundle), list(few)
        images = [one for one in read_images(labelled_folder) if one.label in left and not left.remove(one.label)]
        build_memory(Bundle.open(root), MemorySource(images=images), provider="cpu")
        with (
            Recognizer.open(root, "cpu") as own,
            pytest.raises(InputError, match=r"two classes or more.*rar-export add.*rar-export compact"),
        ):
            own.recognize(strange, unknown="reject")

    def test_what_the_error_asks_for_helps(
        self, pictures_bundle: Path, writable: Callable[[Path], Path], labelled_folder: Path, strange: Any
    ) -> None:
        root, images = writable(pictures_bundle), read_images(labelled_folder)
        build_memory(
            Bundle.open(root), MemorySource(images=[one for one in images if one.label == "cat"]), provider="cpu"
        )
        with Recognizer.open(root, "cpu") as own:
            rockets = [one.path for one in images if one.label == "rocket"]
            own.memory.add(rockets, "rocket")
            own.memory.compact()
            (result,) = own.recognize(strange, unknown="reject")
            assert result.unknown is not None


class TestCommand:
    def test_json_and_table(
        self, pictures_bundle: Path, tmp_path: Path, strange: Any, capsys: pytest.CaptureFixture[str]
    ) -> None:
        from PIL import Image

        path = tmp_path / "strange.png"
        Image.fromarray(np.asarray(strange)).save(path)
        argv = [str(pictures_bundle), str(path), "--rank", "none", "--unknown", "reject", "--k", "2"]
        assert main([*argv, "--json"]) == 0
        record = json.loads(capsys.readouterr().out)
        assert record["label"] is None
        assert record["unknown"] > 0.5
        assert len(record["candidates"]) == 2
        assert main(argv) == 0
        assert f"none of these  {record['unknown']:.3f}" in capsys.readouterr().out
