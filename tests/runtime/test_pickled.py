"""A recognizer goes to another process as it was opened, and is opened again there."""

from __future__ import annotations

import multiprocessing
import os
import pickle
from pathlib import Path

import pytest

from rar.runtime import Bundle, BundleError, InputError, Reading, Recognizer, WcaOptions
from rar.runtime.encoder.clip import Clip
from rar.runtime.memory import Memory


@pytest.fixture
def recognizer(pictures_bundle: Path) -> Recognizer:
    return Recognizer.open(
        pictures_bundle, "cpu", threads=1, text_weight=0.25, reading=Reading(max_pixels=9000), wca=WcaOptions(crops=3)
    )


def answers(recognizer: Recognizer, paths: list[Path]) -> list[tuple[str | None, float | None, str | None]]:
    found = recognizer.recognize(paths, k=3)
    return [(one.label, one.score, None if one.error is None else str(one.error)) for one in found]


def elsewhere(recognizer: Recognizer, paths: list[Path]) -> tuple[int, float, list[tuple[str | None, ...]]]:
    return os.getpid(), recognizer.memory.text_weight, answers(recognizer, paths)


def test_a_spawned_process_answers_alike(
    recognizer: Recognizer, class_pictures: list[Path], photos: list[Path]
) -> None:
    paths = [*class_pictures, max(photos, key=lambda path: path.stat().st_size)]  # the last has too many pixels
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        process, weight, found = pool.apply(elsewhere, (recognizer, paths))
    assert process != os.getpid()
    assert weight == 0.25
    assert found == answers(recognizer, paths)
    assert found[-1][2] is not None


def test_a_relative_path_is_found_from_another_folder(
    pictures_bundle: Path, class_pictures: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(pictures_bundle.parent)
    sent = pickle.dumps(Recognizer.open(pictures_bundle.name, "cpu", threads=1))
    monkeypatch.chdir(tmp_path)
    with pickle.loads(sent) as back:  # noqa: S301  # it was written a line above
        assert back.recognize(class_pictures[0], k=1, rank="none")[0].label == "cat"


def test_it_holds_no_model(recognizer: Recognizer) -> None:
    assert len(pickle.dumps(recognizer)) < 2000


def test_one_built_of_parts_says_what_to_do(pictures_bundle: Path) -> None:
    bundle = Bundle.open(pictures_bundle)
    built = Recognizer(bundle, Clip(bundle, "cpu", 1), Memory.open(bundle))
    with pytest.raises(InputError, match="open the bundle in each process"):
        pickle.dumps(built)


def test_a_bundle_that_is_gone_is_named(names_bundle: Path, tmp_path: Path) -> None:
    moved = tmp_path / "bundle"
    moved.symlink_to(names_bundle)
    sent = pickle.dumps(Recognizer.open(moved, "cpu", threads=1))
    moved.unlink()
    with pytest.raises(BundleError, match=str(moved)):
        pickle.loads(sent)  # noqa: S301  # it was written above
