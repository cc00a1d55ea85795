"""Tuning: what is fitted does on the tuning pictures what is said of it, and the runtime reads what is stored."""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rar.export.cli import main
from rar.export.memory.build import MemorySource, build_memory
from rar.export.pictures.labelled import LabelledImage, read_images
from rar.export.tune import fit
from rar.export.tune.fit import rankers, retrieve, tune
from rar.export.tune.judged import judge
from rar.runtime import Bundle, BundleError, InputError, Memory, Recognizer
from rar.runtime.rank.mllm.ranker import MllmOptions


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
        tuned = tune(own, truth, k=3, loss=10, provider="cpu", threads=1, weigh=False)
        measured = tuned.measured
        assert measured["retrieval"] < 100
        assert {row.get("mode") for row in measured["rankers"]} == {None, "likelihood", "choice", "generate"}
        assert all(row["fused_top1"] >= measured["retrieval"] for row in measured["rankers"])
        assert (tuned.default, info(own)["rank"]) == ("mllm", "mllm")
        assert info(own)["tune"] == tuned.stored()

        recognizer = Recognizer.open(own, "cpu", threads=1)
        assert recognizer.default_rank == "mllm"
        assert recognizer.tuning is not None
        assert (recognizer.tuning.fusion, recognizer.tuning.gate) == (tuned.tuning.fusion, tuned.tuning.gate)
        results = recognizer.recognize(paths, k=3)
        hits = [result.label == image.label for result, image in zip(results, truth, strict=True)]
        assert round(100 * float(np.mean(hits)), 2) == measured["rankers"][self.best(measured)]["fused_top1"]
        gated = recognizer.recognize(paths, k=3, gate="unsure")
        skipped = [result.skipped == "gate" for result in gated]
        gate = measured["gates"][tuned.tuning.gate_by]
        assert np.mean(skipped) == pytest.approx(gate["skipped"])
        hits = [result.label == image.label for result, image in zip(gated, truth, strict=True)]
        assert round(100 * float(np.mean(hits)), 2) == gate["top1"]

    def best(self, measured: dict[str, Any]) -> int:
        return int(np.argmax([row["fused_top1"] for row in measured["rankers"]]))

    def test_a_ranker_that_gains_nothing_is_not_the_default(
        self, without_mllm: Path, pictures: list[LabelledImage]
    ) -> None:
        assert info(without_mllm)["rank"] == "wca"
        tuned = tune(without_mllm, pictures, k=3, provider="cpu")  # they are in the memory: retrieval is right
        assert tuned.measured["retrieval"] == 100
        assert (tuned.tuning.unused, tuned.default) == (("discriminant", "wca"), "none")
        assert all(row["fusion"] is None for row in tuned.measured["rankers"])
        recognizer = Recognizer.open(without_mllm, "cpu")
        assert recognizer.default_rank == "none"
        # Where it is asked for, it does not run.
        for rank in ("wca", "discriminant"):
            results = recognizer.recognize([image.path for image in pictures], k=3, rank=rank)
            assert [result.label for result in results] == [image.label for image in pictures]
            assert {(result.ranked_by, result.skipped) for result in results} == {(None, "gains nothing")}

    def test_what_is_refused_is_fitted_where_there_are_enough_pictures(
        self, without_mllm: Path, pictures: list[LabelledImage]
    ) -> None:
        few = tune(without_mllm, pictures, k=3, provider="cpu", threads=1, weigh=False)
        assert few.tuning.strangers is None
        tuned = tune(without_mllm, 2 * pictures, k=3, provider="cpu", threads=1, weigh=False, false_rejections=25)
        measured = tuned.measured["unknown"]
        assert measured["pictures"] == 24
        with Recognizer.open(without_mllm, "cpu", threads=1) as recognizer:
            assert recognizer.tuning is not None
            assert recognizer.tuning.strangers == tuned.tuning.strangers
            results = recognizer.recognize([image.path for image in pictures], rank="none", unknown="reject")
        refused = 100 * float(np.mean([result.refused for result in results]))
        assert refused == pytest.approx(measured["false_rejections"], abs=0.01)
        assert refused <= 25

    @pytest.mark.parametrize("k", [1, 99])
    def test_k_is_at_most_the_classes(self, without_mllm: Path, pictures: list[LabelledImage], k: int) -> None:
        tuned = tune(without_mllm, pictures[:4], k=k, provider="cpu")
        assert tuned.measured["k"] == min(k, 4)
        assert Recognizer.open(without_mllm, "cpu").recognize(pictures[0].path, k=1, rank="wca", gate="unsure")

    def test_the_other_parts_of_the_bundle_stay_as_they_are(
        self, without_mllm: Path, pictures: list[LabelledImage]
    ) -> None:
        def part(path: Path) -> str:
            return path.relative_to(without_mllm).parts[0]

        def files() -> dict[Path, bytes]:
            return {p: p.read_bytes() for p in without_mllm.rglob("*") if p.is_file() and part(p) != "bundle.json"}

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
        (wca,) = (one for settings, one in rankers(recognizer, without_mllm, None) if settings["rank"] == "wca")
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
        self,
        without_mllm: Path,
        pictures: list[LabelledImage],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        real = Recognizer.open
        monkeypatch.setattr(Memory, "discriminant", None)  # as in a memory of an earlier release

        def no_texts(*args: Any, **settings: Any) -> Recognizer:
            recognizer = real(*args, **settings)
            del recognizer.memory.parts["texts"]  # every memory that is built here has some
            return recognizer

        monkeypatch.setattr(Recognizer, "open", no_texts)
        with pytest.raises(InputError, match="nothing ranks here; add pictures to the memory, an MLLM"):
            tune(without_mllm, pictures, provider="cpu")

    def test_a_hubs_cache_is_refused_before_anything_is_fitted(
        self, tiny_bundle: Path, pictures: list[LabelledImage], tmp_path: Path
    ) -> None:
        cached = tmp_path / "models--user--bundle" / "snapshots" / ("a" * 40)
        shutil.copytree(tiny_bundle, cached)  # has no memory, which is looked at later
        with pytest.raises(BundleError, match="rar-export pull user/bundle FOLDER"):
            tune(cached, pictures)

    def test_no_pictures(self, without_mllm: Path) -> None:
        with pytest.raises(InputError, match="needs held-out pictures"):
            tune(without_mllm, [], provider="cpu")

    @pytest.mark.parametrize("loss", [-0.1, 100, float("nan")])
    def test_a_loss_that_cannot_be(self, without_mllm: Path, pictures: list[LabelledImage], loss: float) -> None:
        with pytest.raises(InputError, match="percentage points"):
            tune(without_mllm, pictures, loss=loss, provider="cpu")

    @pytest.mark.parametrize("rate", [-1, 100, float("nan")])
    def test_false_rejections_that_cannot_be(
        self, without_mllm: Path, pictures: list[LabelledImage], rate: float
    ) -> None:
        with pytest.raises(InputError, match="false_rejections"):
            tune(without_mllm, pictures, k=2, false_rejections=rate)

    def test_k_0(self, without_mllm: Path, pictures: list[LabelledImage]) -> None:
        with pytest.raises(InputError, match="k=0"):
            tune(without_mllm, pictures, k=0, provider="cpu")


class TestManyCandidates:
    def test_a_mode_without_enough_letters_is_left_out_and_the_others_are_tried(
        self, own: Path, pictures: list[LabelledImage], replace_file: Callable[..., Path],
        caplog: pytest.LogCaptureFixture,
    ) -> None:  # fmt: skip
        """As k=27 is beyond Z: here the model has three letters."""
        settings = json.loads((own / "mllm" / "prompt.json").read_text())
        settings["letters"] = {letter: settings["letters"][letter] for letter in "ABC"}
        replace_file(own, "mllm", "prompt.json", json.dumps(settings).encode())
        tuned = tune(own, pictures, k=4, provider="cpu", threads=1, weigh=False)
        assert {row.get("mode") for row in tuned.measured["rankers"]} == {None, "likelihood", "generate"}
        assert "letters for 3 candidates, not for 4" in caplog.text

    def test_what_was_fitted_to_another_memory_is_not_stored(
        self, without_mllm: Path, pictures: list[LabelledImage], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def built_anew(*given: Any, **settings: Any) -> Any:
            source = MemorySource(images=pictures, descriptions={"cat": ["whiskers"], "rocket": ["a vehicle"]})
            build_memory(Bundle.open(without_mllm), source, dim="8", rank="none", provider="cpu")
            return real(*given, **settings)

        real = fit.judge
        monkeypatch.setattr(fit, "judge", built_anew)
        with pytest.raises(BundleError, match="built anew meanwhile"):
            tune(without_mllm, pictures, k=2, provider="cpu", threads=1, weigh=False)
        assert "tune" not in info(without_mllm)


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
        assert lines[1].startswith("discriminant")
        assert lines[2].startswith("wca")
        assert "not used: gains nothing here" in lines[2]
        assert "100 % skip the ranker" in lines[3]
        assert "retrieval alone" in lines[4]

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
