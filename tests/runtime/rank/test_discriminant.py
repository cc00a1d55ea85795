"""The ranker of the memory's discriminant: log-probabilities of Bayes' rule, and what it does without pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from memories import add_part, unit

from rar.runtime import Candidate, InputError, Memory, Query, Recognizer
from rar.runtime.bundle.change import stage
from rar.runtime.bundle.files import write_json
from rar.runtime.cli.recognize import main
from rar.runtime.memory.discriminant import write_fit
from rar.runtime.rank.discriminant import DiscriminantRanker

Floats = npt.NDArray[np.float32]
WIDTH = 10
NO_PIXELS = np.empty((0, 0, 3), np.uint8)


@pytest.fixture(scope="module")
def memory(tmp_path_factory: pytest.TempPathFactory) -> Memory:
    """Five classes of six pictures, and two with a text only."""
    root = tmp_path_factory.mktemp("ranked") / "b"
    chance = np.random.default_rng(0)
    labels = np.repeat(np.arange(5, dtype=np.int32), 6)
    vectors = unit(chance.normal(size=(5, WIDTH))[labels] + 0.8 * chance.normal(size=(30, WIDTH)))
    with stage(root, "memory") as staging:
        staging.info.update(text_weight=0.0, pool=1, encoder="one")
        add_part(staging, "pictures", vectors, labels, 4)
        texts = unit(chance.normal(size=(7, WIDTH)))
        add_part(staging, "texts", texts, np.arange(7, dtype=np.int32), 4)
        write_fit(staging.folder / "pictures", 7)
        write_json(staging.folder / "labels.json", [*"abcde", "told", "said"])
    return Memory.open(root)


def query(seed: int, labels: list[str]) -> Query:
    chance = np.random.default_rng(seed)
    similarities = np.sort(chance.uniform(0, 1, len(labels)))[::-1].tolist()
    candidates = [Candidate(label, similarity) for label, similarity in zip(labels, similarities, strict=True)]
    return Query(NO_PIXELS, unit(chance.normal(size=WIDTH)), candidates)


LISTS = st.lists(st.sampled_from([*"abcde", "told", "said", "unheard of"]), min_size=1, max_size=6, unique=True)


@settings(max_examples=60)
@given(st.lists(LISTS, min_size=1, max_size=4))
def test_scores_are_log_probabilities_among_the_candidates(memory: Memory, lists: list[list[str]]) -> None:
    queries = [query(seed, labels) for seed, labels in enumerate(lists)]
    for one, ranking in zip(queries, DiscriminantRanker(memory).rank(queries), strict=True):
        assert ranking.scores.dtype == np.float32
        assert np.exp(ranking.scores.astype(np.float64)).sum() == pytest.approx(1, abs=1e-5)
        assert not ranking.fallback
        (alone,) = DiscriminantRanker(memory).rank([one])  # a batch changes nothing
        np.testing.assert_allclose(ranking.scores, alone.scores, atol=1e-4)


def test_they_are_those_of_bayes_rule(memory: Memory) -> None:
    one = query(3, ["c", "a", "e"])
    assert memory.discriminant is not None
    fit = memory.discriminant.fit
    rows = [memory.labels.index(label) for label in "cae"]
    logits = fit.scale * (fit.weights[rows].astype(np.float64) @ one.embedding + fit.bias[rows])
    expected = logits - np.log(np.exp(logits).sum())
    np.testing.assert_allclose(DiscriminantRanker(memory).rank([one])[0].scores, expected, atol=1e-4)


def test_a_class_of_texts_keeps_the_probability_of_its_similarity(memory: Memory) -> None:
    mixed = query(4, ["told", "a", "b"])
    assert memory.discriminant is not None
    shares = np.exp(memory.discriminant.fit.cosines * np.array([c.similarity for c in mixed.candidates]))
    shares /= shares.sum()
    (ranking,) = DiscriminantRanker(memory).rank([mixed])
    found = np.exp(ranking.scores.astype(np.float64))
    assert found[0] == pytest.approx(shares[0], rel=1e-4)
    pictured = query(4, ["a", "b"])
    alone = np.exp(DiscriminantRanker(memory).rank([Query(NO_PIXELS, mixed.embedding, pictured.candidates)])[0].scores)
    np.testing.assert_allclose(found[1:] / found[1:].sum(), alone, rtol=1e-3)


def test_classes_of_texts_alone_are_ordered_by_similarity(memory: Memory) -> None:
    (ranking,) = DiscriminantRanker(memory).rank([query(5, ["said", "told", "unheard of"])])
    assert (np.diff(ranking.scores) < 0).all()


def test_a_memory_without_pictures_says_what_to_do(names_bundle: Path) -> None:
    told = r"holds no pictures, or an earlier release built it.*rar-export compact"
    with Recognizer.open(names_bundle, "cpu") as recognizer, pytest.raises(InputError, match=told):
        recognizer.recognize(np.zeros((9, 9, 3), np.uint8), rank="discriminant")


def test_it_ranks_pictures_and_a_class_that_was_just_added(
    pictures_bundle: Path, writable: Callable[[Path], Path], class_pictures: list[Path]
) -> None:
    with Recognizer.open(writable(pictures_bundle), "cpu") as recognizer:
        results = recognizer.recognize(class_pictures, k=4, rank="discriminant")
        assert [result.label for result in results] == [path.parent.name for path in class_pictures]
        assert {result.ranked_by for result in results} == {"discriminant"}
        noise = np.random.default_rng(1).integers(0, 256, (50, 50, 3), np.uint8)
        recognizer.memory.add([noise, noise[::-1].copy()], "noise")
        (found,) = recognizer.recognize(noise, k=5, rank="discriminant")
        assert (found.label, found.ranked_by) == ("noise", "discriminant")


def test_regions_are_ranked_without_being_drawn(pictures_bundle: Path, class_pictures: list[Path]) -> None:
    with Recognizer.open(pictures_bundle, "cpu") as recognizer:
        (result,) = recognizer.recognize_regions(class_pictures[0], [[0, 0, 100, 80]], k=4, rank="discriminant")
        assert result.ranked_by == "discriminant"


def test_the_command_ranks_by_it(
    pictures_bundle: Path, class_pictures: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(pictures_bundle), str(class_pictures[0]), "--rank", "discriminant", "--provider", "cpu"]) == 0
    assert "ranked by discriminant" in capsys.readouterr().out


def test_a_memory_whose_pictures_are_removed_meanwhile_keeps_the_retrieval_s_order(
    tmp_path: Path, pictures_bundle: Path, writable: Callable[[Path], Path]
) -> None:
    own = Memory.open(writable(pictures_bundle), text_weight=1.0)
    ranker = DiscriminantRanker(own)
    for label in own.labels:
        own.remove(label)
    own.compact()
    (ranking,) = ranker.rank([Query(NO_PIXELS, np.zeros(32, np.float32), [Candidate("a", 0.5), Candidate("b", 0.4)])])
    assert ranking.fallback
    assert ranking.scores.tolist() == [0, 0]
    own.close()


def _few(name: str) -> tuple[Floats, list[int]]:
    chance = np.random.default_rng(7)
    several = unit(chance.normal(size=(6, WIDTH)))
    return {
        "one class": (several, [0] * 6),
        "one picture": (several[:1], [0]),
        "a class of one picture": (several, [0, 0, 0, 1, 1, 2]),
        "one picture a class": (several, [0, 1, 2, 3, 4, 5]),
        "duplicates only": (np.repeat(several[:2], 3, axis=0), [0, 0, 0, 1, 1, 1]),
        "zero variance": (np.repeat(several[:1], 6, axis=0), [0, 0, 1, 1, 2, 2]),
        "fewer pictures than dimensions": (several[:4], [0, 0, 1, 1]),
    }[name]


@pytest.mark.parametrize(
    "name",
    [
        "one class",
        "one picture",
        "a class of one picture",
        "one picture a class",
        "duplicates only",
        "zero variance",
        "fewer pictures than dimensions",
    ],
)
def test_however_little_a_memory_holds_its_pictures_are_ranked_and_find_themselves(name: str, tmp_path: Path) -> None:
    vectors, labels = _few(name)
    names = [f"class {number}" for number in range(max(labels) + 1)]
    with stage(tmp_path / "b", "memory") as staging:
        staging.info.update(text_weight=0.0, pool=1, encoder="one")
        add_part(staging, "pictures", vectors, np.array(labels, np.int32), 1)
        write_fit(staging.folder / "pictures", len(names))
        write_json(staging.folder / "labels.json", names)
    own = Memory.open(tmp_path / "b")
    found = own.search(vectors, len(names))
    queries = [Query(NO_PIXELS, vector, row) for vector, row in zip(vectors, found, strict=True)]
    for query, label, ranking in zip(queries, labels, DiscriminantRanker(own).rank(queries), strict=True):
        assert np.isfinite(ranking.scores).all()
        assert np.exp(ranking.scores.astype(np.float64)).sum() == pytest.approx(1, abs=1e-5)
        of_label = dict(zip((c.label for c in query.candidates), ranking.scores.tolist(), strict=True))
        # Equal pictures of several classes are told apart by nobody.
        assert of_label[f"class {label}"] >= max(of_label.values()) - 1e-3


def test_with_one_picture_a_class_similarity_speaks_with_it(tmp_path: Path) -> None:
    vectors = unit(np.random.default_rng(3).normal(size=(9, WIDTH)))
    with stage(tmp_path / "b", "memory") as staging:
        staging.info.update(text_weight=0.0, pool=1, encoder="one")
        add_part(staging, "pictures", vectors, np.arange(9, dtype=np.int32), 4)
        write_fit(staging.folder / "pictures", 9)
        write_json(staging.folder / "labels.json", list("abcdefghi"))
    own = Memory.open(tmp_path / "b")
    assert own.discriminant is not None
    fit, one = own.discriminant.fit, query(5, ["a", "b", "c"])
    assert fit.lean > 0
    logits = fit.scale * own.discriminant.logits(one.embedding[None], [["a", "b", "c"]])[0].astype(np.float64)
    logits += fit.lean * one.similarities
    expected = logits - logits.max() - np.log(np.exp(logits - logits.max()).sum())
    np.testing.assert_allclose(DiscriminantRanker(own).rank([one])[0].scores, expected, atol=1e-4)
