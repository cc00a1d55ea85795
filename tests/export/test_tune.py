"""Tuning: what is fitted does on the tuning pictures what is said of it, and the runtime reads what is stored."""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rar.export.cli import main
from rar.export.labelled import LabelledImage, read_images
from rar.export.tune import Judged, fit_fusion, fit_gate, gains, judge, rankers, retrieve, settle_fusion, tune
from rar.runtime import Candidate, InputError, Recognizer
from rar.runtime.mllm.ranker import MllmOptions
from rar.runtime.rank import Ranking


def judged(similarity: Sequence[Sequence[float]], scores: Sequence[Sequence[float]], right: Sequence[int]) -> Judged:
    """`right`: the true class's place among the candidates, -1 where retrieval missed it."""
    places = np.array(right)[:, None] == np.arange(len(similarity[0]))
    return Judged(np.array(similarity, np.float32), np.array(scores, np.float32), places)


@st.composite
def cases(draw: st.DrawFn) -> Judged:
    """Few distinct similarities, so that margins and sums are often equal; scores of any sureness."""
    count, k = draw(st.integers(1, 25)), draw(st.integers(1, 5))
    grid = st.integers(1, 32).map(lambda i: i / 32) | st.floats(1 / 64, 1, width=32)
    row = st.lists(grid, min_size=k, max_size=k).map(lambda values: sorted(values, reverse=True))
    similarity = draw(st.lists(row, min_size=count, max_size=count))
    score = st.integers(-8, 0).map(float) | st.floats(-200, 0, width=32)
    scores = draw(st.lists(st.lists(score, min_size=k, max_size=k), min_size=count, max_size=count))
    return judged(similarity, scores, draw(st.lists(st.integers(-1, k - 1), min_size=count, max_size=count)))


class TestFusion:
    @settings(max_examples=300)
    @given(cases())
    def test_it_never_has_fewer_right_than_retrieval_or_the_ranker_alone(self, found: Judged) -> None:
        fused = found.top1(fit_fusion(found))
        assert fused >= found.right[:, 0].mean()
        assert fused >= found.top1(0.0)

    @given(cases(), st.sampled_from([0.0, 1.0, 55.5, 1e12]))
    def test_it_is_judged_as_the_runtime_orders(self, found: Judged, fusion: float) -> None:
        names = [str(i) for i in range(found.scores.shape[1])]
        for similarity, scores, right, hit in zip(
            found.similarity, found.scores, found.right, found.hits(fusion), strict=True
        ):
            candidates = [Candidate(n, s) for n, s in zip(names, similarity.tolist(), strict=True)]
            best = Ranking(scores).order(candidates, fusion)[0].label
            assert right[names.index(best)] == hit

    def test_a_ranker_that_is_always_right_needs_no_similarity(self) -> None:
        found = judged([[0.9, 0.1]] * 4, [[-9, 0]] * 4, [1] * 4)
        fusion = fit_fusion(found)
        assert found.top1(fusion) == 1
        assert fusion * 0.8 < 9

    def test_one_that_is_sure_and_wrong_is_overruled_even_between_near_twins(self) -> None:
        found = judged([[0.50001, 0.5]] * 3, [[-100, 0]] * 3, [0] * 3)
        assert found.top1(0.0) == 0
        assert found.top1(fit_fusion(found)) == 1

    def test_two_that_err_on_different_pictures_help_each_other(self) -> None:
        # Retrieval is sure where it is right; so is the ranker.
        found = judged([[0.9, 0.4], [0.71, 0.7]], [[-1, -0.5], [-4, 0]], [0, 1])
        assert found.right[:, 0].mean() == found.top1(0.0) == 0.5
        assert found.top1(fit_fusion(found)) == 1


class TestSettledFusion:
    def test_one_picture_more_is_within_chance_and_leaves_retrieval_alone(self) -> None:
        found = judged([[0.9, 0.4], [0.71, 0.7]], [[-1, -0.5], [-4, 0]], [0, 1])
        assert not gains(found, fit_fusion(found))
        fusion = settle_fusion(found)
        assert found.hits(fusion).tolist() == found.right[:, 0].tolist()

    def test_many_pictures_more_are_kept(self) -> None:
        found = judged([[0.71, 0.7]] * 9, [[-4, 0]] * 9, [1] * 9)
        assert settle_fusion(found) == fit_fusion(found)
        assert found.top1(settle_fusion(found)) == 1

    @given(cases())
    def test_it_never_has_fewer_right_than_retrieval(self, found: Judged) -> None:
        assert found.top1(settle_fusion(found)) >= found.right[:, 0].mean()


def similarity_margins(found: Judged) -> npt.NDArray[np.float32]:
    own = found.similarity
    return own[:, 0] - own[:, 1] if own.shape[1] > 1 else np.full(len(own), np.inf, np.float32)


class TestGate:
    def answer(self, found: Judged, fusion: float, margin: float) -> float:
        """Top-1 as the runtime would have it: retrieval's order from the margin on."""
        sure = similarity_margins(found) >= np.float32(margin)
        return float(np.where(sure, found.right[:, 0], found.hits(fusion)).mean())

    @settings(max_examples=300)
    @given(cases(), st.sampled_from([0.0, 2.0, 100.0]), st.sampled_from([0.0, 0.3, 4.0, 10.0, 50.0]))
    def test_it_never_loses_more_than_stated(self, found: Judged, fusion: float, loss: float) -> None:
        fusion = fusion if found.similarity.shape[1] > 1 else 0.0
        gate = fit_gate(found, fusion, loss, similarity_margins(found))
        lost = found.top1(fusion) - self.answer(found, fusion, gate["margin"])
        assert 100 * lost <= loss + 1e-6
        assert gate["top1"] == pytest.approx(100 * self.answer(found, fusion, gate["margin"]), abs=0.01)

    @given(cases(), st.sampled_from([0.0, 4.0, 10.0]))
    def test_of_what_keeps_to_the_loss_nine_tenths_are_skipped(self, found: Judged, loss: float) -> None:
        margins = similarity_margins(found)
        skipped = fit_gate(found, 2.0, loss, margins)["skipped"]
        if found.similarity.shape[1] == 1:
            return
        lost = {margin: 100 * (found.top1(2.0) - self.answer(found, 2.0, margin)) for margin in margins.astype(float)}
        shares = [0.0, *(float((margins >= margin).mean()) for margin in lost if lost[margin] <= loss + 1e-6)]
        most = max(shares)
        reached = most if most == 1 else max(share for share in shares if share <= 0.9 * most + 1e-9)
        assert skipped == pytest.approx(reached)

    def test_a_ranker_that_only_helps_is_never_left_out(self) -> None:
        found = judged([[0.9, 0.1], [0.6, 0.5]], [[-9, 0]] * 2, [1, 1])
        gate = fit_gate(found, 0.0, 0.0, similarity_margins(found))
        assert gate["skipped"] == 0
        assert gate["margin"] > 0.8
        assert gate["top1"] == 100

    def test_one_that_never_helps_always_is(self) -> None:
        found = judged([[0.9, 0.1], [0.6, 0.5]], [[0, -9]] * 2, [0, 0])
        gate = fit_gate(found, 0.0, 0.0, similarity_margins(found))
        assert gate == {"margin": pytest.approx(0.1), "skipped": 1.0, "top1": 100.0}

    def test_pictures_of_one_margin_stand_together(self) -> None:
        # Of four equal ones two may be lost, but no margin tells these from the others.
        found = judged([[0.75, 0.5]] * 4, [[-9, 0]] * 4, [1] * 4)
        assert fit_gate(found, 0.0, 50.0, similarity_margins(found))["skipped"] == 0

    def test_a_class_the_probe_does_not_know_is_ranked(self) -> None:
        found = judged([[0.9, 0.1]] * 3, [[-9, 0]] * 3, [0, 0, 1])
        gate = fit_gate(found, 0.0, 0.0, np.array([2, 1, -np.inf], np.float32))
        assert gate == {"margin": 1.5, "skipped": pytest.approx(1 / 3), "top1": 66.67}


@pytest.fixture(scope="module")
def ranking_bundle(pictures_bundle: Path, tiny_llava: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A memory of pictures and texts, and a tiny random MLLM. Shared: copy before writing."""
    from rar.export.mllm.export import export_mllm
    from rar.export.mllm.source import load

    out = Path(shutil.copytree(pictures_bundle, tmp_path_factory.mktemp("ranking") / "bundle"))
    export_mllm(load(str(tiny_llava)), out)
    return out


@pytest.fixture
def own(ranking_bundle: Path, writable: Callable[[Path], Path]) -> Path:
    return writable(ranking_bundle)


@pytest.fixture
def without_mllm(pictures_bundle: Path, writable: Callable[[Path], Path]) -> Path:
    return writable(pictures_bundle)


@pytest.fixture(scope="module")
def pictures(labelled_folder: Path) -> list[LabelledImage]:
    return read_images(labelled_folder)


def info(bundle: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((bundle / "bundle.json").read_text())["components"]["memory"]["info"]
    return found


class TestTune:
    def test_the_runtime_reads_what_is_stored_and_answers_as_measured(
        self, own: Path, pictures: list[LabelledImage]
    ) -> None:
        options = MllmOptions("choice", "rotate")
        paths = [image.path for image in pictures]
        answers = Recognizer.open(own, "cpu", mllm=options).recognize(paths, k=3, rank="mllm")
        # The truth is what one of the rankers says, so there is something to gain.
        truth = [LabelledImage(path, str(answer.label)) for path, answer in zip(paths, answers, strict=True)]
        stored = tune(own, truth, k=3, loss=10, provider="cpu", threads=1, weigh=False)
        measured = stored["measured"]
        assert measured["retrieval"] < 100
        assert {row.get("mode") for row in measured["rankers"]} == {None, "likelihood", "choice", "generate"}
        assert all(row["fused_top1"] >= measured["retrieval"] for row in measured["rankers"])
        assert (stored["default"], info(own)["rank"]) == ("mllm", "mllm")
        assert info(own)["tune"] == {key: value for key, value in stored.items() if key != "default"}

        recognizer = Recognizer.open(own, "cpu", threads=1)
        assert recognizer.default_rank == "mllm"
        assert recognizer.tuning is not None
        assert (recognizer.tuning.fusion, recognizer.tuning.gate) == (stored["fusion"], stored["gate"])
        results = recognizer.recognize(paths, k=3)
        hits = [result.label == image.label for result, image in zip(results, truth, strict=True)]
        assert round(100 * float(np.mean(hits)), 2) == measured["rankers"][self.best(measured)]["fused_top1"]
        gated = recognizer.recognize(paths, k=3, gate="unsure")
        skipped = [result.skipped == "gate" for result in gated]
        gate = measured["gates"][stored["gate_by"]]
        assert np.mean(skipped) == pytest.approx(gate["skipped"])
        hits = [result.label == image.label for result, image in zip(gated, truth, strict=True)]
        assert round(100 * float(np.mean(hits)), 2) == gate["top1"]

    def best(self, measured: dict[str, Any]) -> int:
        return int(np.argmax([row["fused_top1"] for row in measured["rankers"]]))

    def test_a_ranker_that_gains_nothing_is_not_the_default(
        self, without_mllm: Path, pictures: list[LabelledImage]
    ) -> None:
        assert info(without_mllm)["rank"] == "wca"
        stored = tune(without_mllm, pictures, k=3, provider="cpu")  # they are in the memory: retrieval is right
        assert stored["measured"]["retrieval"] == 100
        assert (stored["rank"], stored["default"]) == ("wca", "none")
        recognizer = Recognizer.open(without_mllm, "cpu")
        assert recognizer.default_rank == "none"
        # Where it is asked for, it does no harm.
        results = recognizer.recognize([image.path for image in pictures], k=3, rank="wca")
        assert [result.label for result in results] == [image.label for image in pictures]

    @pytest.mark.parametrize("k", [1, 99])
    def test_k_is_at_most_the_classes(self, without_mllm: Path, pictures: list[LabelledImage], k: int) -> None:
        stored = tune(without_mllm, pictures[:4], k=k, provider="cpu")
        assert stored["measured"]["k"] == min(k, 4)
        assert Recognizer.open(without_mllm, "cpu").recognize(pictures[0].path, k=1, rank="wca", gate="unsure")

    def test_the_other_parts_of_the_bundle_stay_as_they_are(
        self, without_mllm: Path, pictures: list[LabelledImage]
    ) -> None:
        def part(path: Path) -> str:
            return path.relative_to(without_mllm).parts[0]

        def files() -> dict[Path, bytes]:
            return {
                p: p.read_bytes()
                for p in without_mllm.rglob("*")
                if p.is_file() and part(p) not in ("bundle.json", "probe")
            }

        before = files()
        tune(without_mllm, pictures[:3], provider="cpu")
        tune(without_mllm, pictures[3:], provider="cpu")
        assert files() == before
        assert info(without_mllm)["tune"]["measured"]["pictures"] == 9

    def test_pictures_are_decoded_as_they_are_ranked(self, without_mllm: Path, pictures: list[LabelledImage]) -> None:
        recognizer = Recognizer.open(without_mllm, "cpu")
        queries = retrieve(recognizer, pictures, 3)
        assert len(queries) == 12
        assert [query.pixels.shape for query in queries[:2]] == [(80, 100, 3)] * 2
        assert queries[-1].candidates[0].label == pictures[-1].label
        ((_, wca),) = rankers(recognizer, without_mllm, None)
        truth = [image.label for image in pictures]
        expected = wca.rank([query for query in recognizer.queries([i.path for i in pictures], 3) if query])  # type: ignore[misc]
        np.testing.assert_allclose(judge(wca, queries, truth).scores, [r.scores for r in expected], atol=1e-5)


class TestRefusals:
    @pytest.fixture(autouse=True)
    def _the_manifest_stays(self, without_mllm: Path) -> Any:
        before = (without_mllm / "bundle.json").read_bytes()
        yield
        assert (without_mllm / "bundle.json").read_bytes() == before

    def test_a_class_that_the_memory_lacks(self, without_mllm: Path, pictures: list[LabelledImage]) -> None:
        with pytest.raises(InputError, match="the memory has no class 'zebra'"):
            tune(without_mllm, [*pictures, LabelledImage(pictures[0].path, "zebra")], provider="cpu")

    def test_an_unreadable_picture(self, without_mllm: Path, pictures: list[LabelledImage], tmp_path: Path) -> None:
        (tmp_path / "broken.jpg").write_bytes(b"no picture")
        with pytest.raises(InputError, match=r"broken\.jpg.*mend or remove"):
            tune(without_mllm, [*pictures, LabelledImage(tmp_path / "broken.jpg", "cat")], provider="cpu")

    def test_nothing_ranks(
        self, without_mllm: Path, pictures: list[LabelledImage], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real = Recognizer.open

        def no_texts(*args: Any, **settings: Any) -> Recognizer:
            recognizer = real(*args, **settings)
            del recognizer.memory.parts["texts"]  # every memory that is built here has some
            return recognizer

        monkeypatch.setattr(Recognizer, "open", no_texts)
        with pytest.raises(InputError, match="nothing ranks here; add an MLLM"):
            tune(without_mllm, pictures, provider="cpu")

    def test_no_pictures(self, without_mllm: Path) -> None:
        with pytest.raises(InputError, match="needs held-out pictures"):
            tune(without_mllm, [], provider="cpu")

    @pytest.mark.parametrize("loss", [-0.1, 100, float("nan")])
    def test_a_loss_that_cannot_be(self, without_mllm: Path, pictures: list[LabelledImage], loss: float) -> None:
        with pytest.raises(InputError, match="percentage points"):
            tune(without_mllm, pictures, loss=loss, provider="cpu")

    def test_k_0(self, without_mllm: Path, pictures: list[LabelledImage]) -> None:
        with pytest.raises(InputError, match="k=0"):
            tune(without_mllm, pictures, k=0, provider="cpu")


class TestCommand:
    def test_it_prints_each_ranker_and_the_gate(
        self, without_mllm: Path, pictures: list[LabelledImage], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with (tmp_path / "val.csv").open("w", newline="") as file:
            rows = [(os.path.relpath(image.path, tmp_path), image.label) for image in pictures]
            csv.writer(file).writerows([("path", "label"), *rows])
        assert main(["tune", str(without_mllm), "--val", str(tmp_path / "val.csv"), "--k", "3"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0] == "12 pictures, k=3: retrieval 100.0, true class among the candidates 100.0"
        assert lines[1].startswith("wca")
        assert "100 % skip the ranker" in lines[2]
        assert "retrieval alone" in lines[3]

    def test_help(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as end:
            main(["tune", "--help"])
        assert end.value.code == 0
        assert "--val SRC" in capsys.readouterr().out

    @pytest.mark.parametrize("extra", [["--val", "nowhere"], ["--val", ".", "--loss", "-1"]])
    def test_bad_input_is_one_line(
        self, without_mllm: Path, capsys: pytest.CaptureFixture[str], extra: list[str]
    ) -> None:
        assert main(["tune", str(without_mllm), *extra]) == 2
        out, err = capsys.readouterr()
        assert (out, len(err.splitlines())) == ("", 1)
