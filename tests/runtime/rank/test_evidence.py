"""Candidates are drawn by the discriminant out of what the search proposes, and results say what came of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from rar.export.cli import main as export
from rar.export.interchange import Embeddings
from rar.export.memory.build import MemorySource, build_memory
from rar.runtime import Bundle, Memory, Recognizer, WcaOptions
from rar.runtime.bundle.change import annotate
from rar.runtime.bundle.copy import copy
from rar.runtime.cli.recognize import main
from rar.runtime.rank.discriminant import log_probabilities
from rar.runtime.rank.evidence import WIDER, draw
from rar.runtime.result import Result

Floats = npt.NDArray[np.float32]
WIDTH = 32
CLASSES = [f"class {number:02}" for number in range(30)]


def pictures(each: int, seed: int) -> tuple[Floats, list[str]]:
    """Vectors of 30 classes that differ in 24 directions; in the 8 others pictures of one class vary much more."""
    chance = np.random.default_rng(seed)
    centres = np.random.default_rng(1).normal(size=(30, WIDTH)) * ([0.3] * 24 + [0.0] * 8)
    labels = np.repeat(np.arange(30), each)
    vectors = centres[labels] + chance.normal(size=(len(labels), WIDTH)) * ([0.12] * 24 + [1.0] * 8)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32), [CLASSES[i] for i in labels]


@pytest.fixture(scope="module")
def varied(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A memory in which the discriminant gains, and whose default ranker nobody chose. Shared: copy before writing."""
    out = tmp_path_factory.mktemp("varied") / "bundle"
    root = copy(Bundle.open(tiny_bundle), out, without=None)
    vectors, labels = pictures(8, 0)
    build_memory(root, MemorySource(embeddings=Embeddings.of(vectors, labels)), provider="cpu")
    return out


def test_the_likeliest_of_what_the_search_proposes_are_kept_in_its_order(varied: Path) -> None:
    memory = Memory.open(varied)
    queries, truth = pictures(2, 5)
    assert memory.discriminant is not None
    proposed = memory.search(queries, WIDER * 5)
    drawn = draw(memory.discriminant, queries, proposed, 5)
    labels = [[candidate.label for candidate in row] for row in proposed]
    similarities = np.array([[candidate.similarity for candidate in row] for row in proposed], np.float32)
    likely = log_probabilities(memory.discriminant, queries, labels, similarities)
    for row, chances, (kept, evidence) in zip(proposed, likely, drawn, strict=True):
        best = sorted(np.argsort(-chances, kind="stable")[:5].tolist())
        assert kept == [row[place] for place in best]
        assert np.exp(evidence.astype(np.float64)).sum() == pytest.approx(1, abs=1e-5)
        np.testing.assert_allclose(np.diff(evidence), np.diff(chances[best]), atol=1e-4)
    retrieved = np.mean([own in row[:5] for row, own in zip(labels, truth, strict=True)])
    found = np.mean([own in [c.label for c in kept] for (kept, _), own in zip(drawn, truth, strict=True)])
    assert found > retrieved + 0.05


def test_rows_of_any_length_are_drawn_from(varied: Path) -> None:
    memory = Memory.open(varied)
    assert memory.discriminant is not None
    queries, _ = pictures(1, 6)
    proposed = [row[: i % 5] for i, row in enumerate(memory.search(queries, 4))]
    for row, (kept, evidence) in zip(proposed, draw(memory.discriminant, queries, proposed, 3), strict=True):
        assert len(kept) == len(evidence) == min(3, len(row))
    assert draw(memory.discriminant, queries[:0], [], 3) == []


def recognised(bundle: Path, count: int = 6, **asked: Any) -> list[Result]:
    noise = np.random.default_rng(2).integers(0, 256, (count, 60, 60, 3), np.uint8)
    with Recognizer.open(bundle, "cpu") as recognizer:
        return recognizer.recognize(list(noise), **asked)


def test_where_it_gains_it_is_the_default_and_says_so(varied: Path) -> None:
    assert Bundle.open(varied).component("memory").info["rank"] == "discriminant"
    for result in recognised(varied):
        assert (result.ranked_by, result.skipped) == ("discriminant", None)
        finals = [candidate.rank_score for candidate in result.candidates]
        assert result.score == finals[0] == max(finals)  # type: ignore[type-var]
        assert result.probability == pytest.approx(np.exp(finals[0]), rel=1e-3)  # type: ignore[arg-type]
        similar = [candidate.similarity for candidate in result.retrieved]
        assert similar == sorted(similar, reverse=True)


def test_who_asks_for_the_retrieval_s_order_gets_it(varied: Path) -> None:
    memory = Memory.open(varied)
    for result in recognised(varied, rank="none"):
        assert result.ranked_by is None
        assert [c.label for c in result.candidates] == [c.label for c in result.retrieved]
        assert result.probability is not None
        similar = np.array([candidate.similarity for candidate in result.candidates])
        assert memory.discriminant is not None
        shares = np.exp(memory.discriminant.fit.cosines * (similar - similar[0]))
        assert result.probability == pytest.approx(1 / shares.sum(), rel=1e-5)


def test_where_it_gains_nothing_or_was_not_asked_for_the_candidates_are_the_retrieval_s(
    pictures_bundle: Path, class_pictures: list[Path]
) -> None:
    with Recognizer.open(pictures_bundle, "cpu", wca=WcaOptions(crops=4)) as recognizer:
        discriminant = recognizer.memory.discriminant
        assert discriminant is not None
        assert not discriminant.fit.gains
        assert recognizer.first_opinion("wca") is None
        assert recognizer.first_opinion("discriminant") is not None
        by_wca = recognizer.recognize(class_pictures[:3], k=2, rank="wca")
        plain = recognizer.recognize(class_pictures[:3], k=2, rank="none")
        for one, other in zip(by_wca, plain, strict=True):
            assert one.retrieved == other.retrieved


def test_a_ranker_that_gains_nothing_does_not_run_and_the_result_says_so(
    varied: Path, writable: Callable[[Path], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = writable(varied)
    annotate(own, "memory", tune={"rank": "wca", "fusion": None, "unused": ["wca", "mllm"]})
    for result in recognised(own, rank="wca"):
        assert (result.ranked_by, result.skipped) == ("discriminant", "gains nothing")
        assert "rank" not in result.timings
    for result in recognised(own, rank="mllm"):  # which is not even there
        assert result.skipped == "gains nothing"
    with Recognizer.open(own, "cpu", wca=WcaOptions(crops=2)) as recognizer:  # who sets it by hand wants it to run
        assert not recognizer._plan(rank="wca").useless
    from PIL import Image

    Image.new("RGB", (40, 40), (9, 99, 200)).save(tmp_path / "p.png")
    assert main([str(own), str(tmp_path / "p.png"), "--rank", "wca", "--provider", "cpu"]) == 0
    assert "ranked by discriminant (the ranker asked for is not used: gains nothing here)" in capsys.readouterr().out
    assert main([str(own), str(tmp_path / "p.png"), "--rank", "wca", "--provider", "cpu", "--json"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert row["skipped"] == "gains nothing"
    assert 0 < row["probability"] <= 1


def test_an_enormous_weight_of_an_earlier_release_is_read_as_off(
    pictures_bundle: Path, writable: Callable[[Path], Path], class_pictures: list[Path]
) -> None:
    own = writable(pictures_bundle)
    annotate(own, "memory", rank="wca", tune={"rank": "wca", "fusion": 1e12, "gate": 3e-6})
    with Recognizer.open(own, "cpu") as recognizer:
        (result,) = recognizer.recognize(class_pictures[0])
    assert (result.ranked_by, result.skipped) == (None, "gains nothing")
    assert list(result.candidates) == list(result.retrieved)


def test_held_out_pictures_overrule_what_the_memory_s_own_say(varied: Path, writable: Callable[[Path], Path]) -> None:
    own = writable(varied)
    annotate(own, "memory", tune={"rank": "wca", "fusion": None, "alone": True})
    with Recognizer.open(own, "cpu") as recognizer:
        assert recognizer.first_opinion("mllm") is None
    annotate(own, "memory", tune={"rank": "wca", "fusion": None, "first": {"fusion": 3.0, "sharpness": 5.0}})
    with Recognizer.open(own, "cpu") as recognizer:
        first = recognizer.first_opinion("mllm")
        assert first is not None
        assert (first.weights.similarity, first.sharpness) == (3.0, 5.0)
        noise = np.random.default_rng(2).integers(0, 256, (60, 60, 3), np.uint8)
        (result,) = recognizer.recognize(noise)
        finals = np.array([candidate.rank_score for candidate in result.candidates], np.float64)
        assert result.probability == pytest.approx(1 / np.exp(5 * (finals - finals[0])).sum(), rel=1e-5)


def test_one_that_grows_into_gaining_becomes_the_default_when_it_is_compacted(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    root = copy(Bundle.open(tiny_bundle), tmp_path / "own", without=None)
    vectors, labels = pictures(8, 0)
    build_memory(root, MemorySource(embeddings=Embeddings.of(vectors[:3], labels[:3])), provider="cpu")
    assert Bundle.open(root.root).component("memory").info["rank"] == "none"
    memory = Memory.open(root.root)
    memory.add(vectors[3:], labels[3:])
    memory.save()
    memory.close()
    assert Bundle.open(root.root).component("memory").info["rank"] == "discriminant"


@pytest.mark.parametrize("rank", ["none", "wca"])
def test_a_default_that_was_chosen_stays(tiny_bundle: Path, tmp_path: Path, rank: str) -> None:
    root = copy(Bundle.open(tiny_bundle), tmp_path / "own", without=None)
    vectors, labels = pictures(8, 0)
    build_memory(root, MemorySource(embeddings=Embeddings.of(vectors, labels)), rank=rank, provider="cpu")
    memory = Memory.open(root.root)
    memory.add(vectors[:1], labels[:1])
    memory.compact()
    memory.close()
    assert Bundle.open(root.root).component("memory").info["rank"] == rank


def test_building_a_memory_tells_what_the_discriminant_gains(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vectors, labels = pictures(8, 0)
    np.save(tmp_path / "v.npy", vectors)
    (tmp_path / "l.txt").write_text("\n".join(labels), encoding="utf-8")
    given = ["--embeddings", str(tmp_path / "v.npy"), "--labels", str(tmp_path / "l.txt"), "--out", str(tmp_path / "c")]
    assert export(["memory", str(tiny_bundle), *given, "--provider", "cpu"]) == 0
    assert "default ranker: discriminant" in capsys.readouterr().out


def test_the_gate_by_the_fused_score_leaves_the_sure_pictures_to_the_discriminant(
    varied: Path, writable: Callable[[Path], Path]
) -> None:
    own = writable(varied)
    fitted = {"rank": "wca", "fusion": 1.0, "first": {"fusion": 2.0, "sharpness": 4.0}, "gate_by": "fused"}
    annotate(own, "memory", tune={**fitted, "gate": 0.0})
    sure = recognised(own, rank="wca", gate="unsure")
    assert {(result.ranked_by, result.skipped) for result in sure} == {("discriminant", "gate")}
    finals = [[candidate.rank_score for candidate in result.candidates] for result in sure]
    margins = sorted(row[0] - row[1] for row in finals)  # type: ignore[operator]
    annotate(own, "memory", tune={**fitted, "gate": (margins[2] + margins[3]) / 2})
    gated = recognised(own, rank="wca", gate="unsure")
    ranked = recognised(own, rank="wca")
    assert [result.ranked_by for result in ranked] == ["wca"] * 6
    for one, row, first, full in zip(gated, finals, sure, ranked, strict=True):
        if row[0] - row[1] < (margins[2] + margins[3]) / 2:  # type: ignore[operator]
            assert (one.ranked_by, one.skipped, one.label) == ("wca", None, full.label)
        else:
            assert (one.ranked_by, one.skipped, one.label) == ("discriminant", "gate", first.label)
    assert sum(one.skipped == "gate" for one in gated) == 3


def test_a_deadline_that_has_passed_leaves_all_to_the_discriminant(
    varied: Path, writable: Callable[[Path], Path]
) -> None:
    own = writable(varied)
    annotate(own, "memory", tune={"rank": "wca", "fusion": 1.0, "first": {"fusion": 2.0, "sharpness": 4.0}})
    for result in recognised(own, rank="wca", deadline_ms=1e-6):
        assert (result.ranked_by, result.skipped) == ("discriminant", "deadline")
