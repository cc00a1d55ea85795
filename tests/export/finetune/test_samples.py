"""The training set: lists that retrieval could have found, and none in which a picture found itself."""

from __future__ import annotations

import os
import shutil
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rar.export.finetune.samples import Sample, _between_halves, build_samples, read_samples, windows, write_samples
from rar.export.pictures.labelled import LabelledImage
from rar.runtime import InputError
from rar.runtime.encoder.clip import Clip


@given(st.permutations(range(9)), st.integers(1, 9), st.integers(0, 9), st.integers(2, 6))
def test_windows_slide_over_the_other_classes(order: list[int], length: int, label: int, k: int) -> None:
    ranking = order[:length]
    found = windows(ranking, label, k)
    if label not in ranking or length < k:
        assert found == []
        return
    assert len(found) == length - k + 1
    assert len({tuple(window) for window in found}) == len(found)
    others = [other for other in ranking if other != label]
    for start, window in enumerate(found):
        assert label in window
        assert len(set(window)) == k
        assert window == [c for c in ranking if c in window]  # the ranking's order
        assert [c for c in window if c != label] == others[start : start + k - 1]


@given(st.lists(st.integers(0, 4), min_size=1, max_size=30), st.integers(0, 99))
def test_a_picture_is_found_by_the_other_half_alone(classes: list[int], seed: int) -> None:
    # Each picture is like itself (1) and like no other (0): who finds itself has a 1.
    labels, embeddings = np.array(classes), np.eye(len(classes), dtype=np.float32)
    similarity, nearest = _between_halves(embeddings, labels, 5, np.random.default_rng(seed))
    assert ((nearest < 0) == (similarity < 0)).all()
    assert set(np.unique(similarity)) <= {0.0, -np.inf}
    counts = np.bincount(labels, minlength=5)
    for row, label in enumerate(labels):
        # Who has a companion finds it, and who has none is not found by itself.
        assert (similarity[row, label] == 0) == (counts[label] > 1)
        assert (similarity[row, counts > 1] == 0).all()
        assert row not in nearest[row]
        assert all(labels[place] == other for other, place in enumerate(nearest[row]) if place >= 0)


def test_lists_have_distinct_names_the_true_one_among_them(clip: Clip, pictures: list[LabelledImage]) -> None:
    samples = build_samples(clip, [pictures], k=3, neighbours=4, seed=0)
    own = {os.path.realpath(image.path): image.label for image in pictures}
    lists = defaultdict(set)
    for sample in samples:
        assert own[sample.path] == sample.label
        assert len(set(sample.candidates)) == 3
        assert sample.label in sample.candidates
        assert [own[path] for path in sample.exemplars] == list(sample.candidates)
        assert sample.path not in sample.exemplars
        lists[sample.path].add(sample.candidates)
    assert {len(found) for found in lists.values()} == {2}
    assert lists.keys() == own.keys()


def test_the_seed_draws_the_halves(clip: Clip, pictures: list[LabelledImage]) -> None:
    same, again, other = (build_samples(clip, [pictures], 2, 4, seed) for seed in (0, 0, 1))
    assert same == again
    assert same != other


def test_classes_of_one_picture_are_searched_by_their_names(clip: Clip, pictures: list[LabelledImage]) -> None:
    from rar.export.pictures.embed import embed_images

    few = pictures[::3]
    samples = build_samples(clip, [few], k=4, neighbours=4, seed=0)
    names = [image.label for image in few]
    order = np.argsort(-(embed_images(clip, few) @ clip.embed_names(names).T), axis=1)
    assert [sample.candidates for sample in samples] == [tuple(names[i] for i in row) for row in order]
    assert {sample.exemplars for sample in samples} == {("",) * 4}


def test_a_class_without_a_picture_in_the_other_half_is_not_found(clip: Clip, pictures: list[LabelledImage]) -> None:
    alone = [*pictures[:9], pictures[-1]]  # one rocket beside three of each other class
    samples = build_samples(clip, [alone], k=3, neighbours=4, seed=0)
    assert alone[-1].label not in {sample.label for sample in samples}
    assert {sample.label for sample in samples} == {image.label for image in pictures[:9]}


def test_sources_are_worlds_of_their_own(clip: Clip, pictures: list[LabelledImage]) -> None:
    samples = build_samples(clip, [pictures[:6], pictures[6:]], k=2, neighbours=5, seed=0)
    worlds = [{image.label for image in part} for part in (pictures[:6], pictures[6:])]
    assert len(samples) == 12
    assert all(set(sample.candidates) in worlds for sample in samples)


def test_a_picture_that_is_listed_twice_counts_once(clip: Clip, pictures: list[LabelledImage], tmp_path: Path) -> None:
    link = tmp_path / "link.jpg"
    link.symlink_to(pictures[0].path)
    again = [*pictures, pictures[3], LabelledImage(link, pictures[0].label)]
    assert build_samples(clip, [again], 2, 4, 0) == build_samples(clip, [pictures], 2, 4, 0)


def test_a_source_may_be_given_twice(clip: Clip, pictures: list[LabelledImage]) -> None:
    assert len(build_samples(clip, [pictures, pictures], 4, 4, 0)) == 2 * len(pictures)


@pytest.mark.parametrize("sources", [1, 2])
def test_a_picture_of_two_classes_is_refused(clip: Clip, pictures: list[LabelledImage], sources: int) -> None:
    wrong = LabelledImage(pictures[0].path, "rocket")
    given = [[*pictures, wrong]] if sources == 1 else [pictures, [*pictures[3:], wrong]]
    with pytest.raises(InputError, match=r"0\.jpg: is both 'cat' and 'rocket'"):
        build_samples(clip, given, 2, 4, 0)


@pytest.mark.parametrize(("k", "neighbours"), [(1, 4), (0, 4), (5, 4)])
def test_k_and_neighbours_must_fit(clip: Clip, pictures: list[LabelledImage], k: int, neighbours: int) -> None:
    with pytest.raises(InputError, match="do not fit"):
        build_samples(clip, [pictures], k, neighbours, 0)


def test_too_few_classes(clip: Clip, pictures: list[LabelledImage]) -> None:
    with pytest.raises(InputError, match="show 2 classes; lists of 3"):
        build_samples(clip, [pictures, pictures[:6]], 3, 4, 0)


@pytest.mark.parametrize("sources", [[], [[]]])
def test_no_pictures(clip: Clip, sources: list[list[LabelledImage]]) -> None:
    with pytest.raises(InputError):
        build_samples(clip, sources, 2, 4, 0)


def test_an_unreadable_picture_is_named(clip: Clip, pictures: list[LabelledImage], tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    shutil.copy(pictures[0].path, broken)
    os.truncate(broken, 100)
    with pytest.raises(InputError, match=r"broken\.jpg"):
        build_samples(clip, [[*pictures, LabelledImage(broken, "cat")]], 2, 4, 0)


# Every character that a file name or a class may hold: line ends of Unicode, and what stands for bytes of no UTF-8.
NAMES = st.text(st.characters() | st.sampled_from("\n\r\x85\u2028\u2029\udc80\"'[]{},"), max_size=8)


@given(st.lists(st.builds(Sample, NAMES, NAMES, st.lists(NAMES, max_size=3).map(tuple)), max_size=4))
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, samples: list[Sample]) -> None:
    file = tmp_path_factory.mktemp("samples") / "samples.jsonl"
    write_samples(samples, file)
    assert read_samples(file) == samples
    assert file.read_bytes().count(b"\n") == len(samples)


@pytest.mark.parametrize("content", [b"{", b"[]\n", b'{"path": "a", "label": "b"}\n', b"\xff\n", None])
def test_what_is_no_training_set(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "samples.jsonl"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(InputError, match="not a training set"):
        read_samples(file)
