"""The GRAIN ranker against its definition, term by term, on an exported encoder with regions."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from memories import unit

from rar.export.cli import main
from rar.export.memory.build import MemorySource, build_memory
from rar.export.pictures.labelled import read_images
from rar.export.tune.fit import rankers, tune
from rar.runtime import Bundle, BundleError, Candidate, GrainOptions, InputError, Memory, Recognizer
from rar.runtime.encoder.clip import Clip, GrainRegions
from rar.runtime.memory.info import MemoryInfo
from rar.runtime.picture.load import load_image
from rar.runtime.rank.grain import Grain
from rar.runtime.rank.protocol import Query
from rar.runtime.rank.tuning import Tuning

Floats = npt.NDArray[np.float32]

LABELS = ["rocket", "grass", "cat", "coffee"]
DESCRIPTIONS = {
    "cat": ["a furry animal with whiskers", "pointed ears", "a nose"],
    "coffee": ["a cup of hot brown drink", "a white cup on a saucer"],
    "rocket": ["a tall vehicle on a launch pad"],
}


@pytest.fixture(scope="module")
def bundle(micro_bundle: Path, labelled_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of four classes, three of them with descriptions. Shared: copy before writing."""
    out = Path(shutil.copytree(micro_bundle, tmp_path_factory.mktemp("own") / "bundle"))
    source = MemorySource(images=read_images(labelled_folder), descriptions=DESCRIPTIONS)
    build_memory(Bundle.open(out), source, dim="none", text_weight=0.0, rank="grain", provider="cpu")
    return out


@pytest.fixture(scope="module")
def clip(bundle: Path) -> Clip:
    return Clip(Bundle.open(bundle), "cpu")


@pytest.fixture(scope="module")
def memory(bundle: Path) -> Memory:
    return Memory.open(bundle)


def by_definition(query: Query, texts: dict[str, dict[str, Floats]], alpha: float, normalize: bool) -> list[float]:
    """alpha <image, class> + (1 - alpha) mean_q max_j <region_q, description_j>, loop by loop."""
    assert query.regions is not None
    scores = []
    for candidate in query.candidates:
        own = texts[candidate.label]
        total = sum(np.asarray(vector, np.float64) for vector in own.values()) / len(own)
        if normalize:
            total = total / np.sqrt((total**2).sum())
        described = {text: vector for text, vector in own.items() if text != candidate.label} or own
        best = [
            max(float(np.dot(region.astype(np.float64), vector)) for vector in described.values())
            for region in query.regions.embeddings
        ]
        scores.append(alpha * float(query.embedding @ total) + (1 - alpha) * sum(best) / len(best))
    return scores


def query(clip: Clip, path: Path, labels: list[str]) -> Query:
    pixels = load_image(path)
    seen = clip.see(clip.preprocess([pixels]))
    assert seen.regions is not None
    return Query(pixels, seen.embeddings[0], [Candidate(label, 0.0) for label in labels], regions=seen.regions[0])


class TestEncoder:
    def test_one_pass_gives_all_that_is_known(self, clip: Clip, class_pictures: list[Path]) -> None:
        pixels = clip.preprocess([load_image(path) for path in class_pictures[:5]])
        seen = clip.see(pixels)
        assert clip.has_regions
        assert seen.features is None
        assert seen.regions is not None
        np.testing.assert_allclose(seen.embeddings, clip.embed_pixels(pixels), atol=1e-6)
        for regions in seen.regions:
            assert regions.embeddings.shape == (3, clip.dim)
            np.testing.assert_allclose(np.linalg.norm(regions.embeddings, axis=1), 1, atol=1e-5)
            x0, y0, x1, y1 = regions.boxes.T
            assert ((x0 >= 0) & (x0 <= x1) & (x1 <= 1) & (y0 >= 0) & (y0 <= y1) & (y1 <= 1)).all()

    def test_another_encoder_has_none(self, pictures_bundle: Path, class_pictures: list[Path]) -> None:
        clip = Clip(Bundle.open(pictures_bundle), "cpu")
        assert not clip.has_regions
        assert clip.see(clip.preprocess([load_image(class_pictures[0])])).regions is None
        with pytest.raises(InputError, match="gives no regions, which GRAIN ranks by; export one with"):
            Recognizer.open(pictures_bundle, "cpu").recognize(class_pictures[:1], k=2, rank="grain")


class TestScore:
    @pytest.mark.parametrize("normalize", [False, True])
    @pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
    def test_equals_the_definition(
        self, alpha: float, normalize: bool, clip: Clip, memory: Memory, class_pictures: list[Path]
    ) -> None:
        texts = {label: dict(memory.texts(label)) for label in LABELS}
        assert len(texts["cat"]) == 4
        assert len(texts["grass"]) == 1  # its name
        ranker = Grain(clip, memory, GrainOptions(alpha, normalize))
        queries = [
            query(clip, path, labels) for path, labels in zip(class_pictures, [LABELS, LABELS[2:]], strict=False)
        ]
        for asked, found in zip(queries, ranker.rank(queries), strict=True):
            np.testing.assert_allclose(found.scores, by_definition(asked, texts, alpha, normalize), atol=1e-5)

    @given(st.integers(0, 9999), st.integers(1, 6), st.floats(0, 1))
    def test_equals_the_definition_on_any_vectors(
        self, clip: Clip, memory: Memory, seed: int, regions: int, alpha: float
    ) -> None:
        chance = np.random.default_rng(seed)
        boxes = np.sort(chance.uniform(0, 1, (regions, 2, 2)), axis=1).reshape(regions, 4).astype(np.float32)
        found = GrainRegions(unit(chance.normal(size=(regions, clip.dim))), boxes)
        candidates = [Candidate(label, 0.5) for label in chance.permutation(LABELS)[: int(chance.integers(1, 5))]]
        pixels = np.zeros((30, 50, 3), np.uint8)
        asked = Query(pixels, unit(chance.normal(size=clip.dim)), candidates, regions=found)
        (ranking,) = Grain(clip, memory, GrainOptions(alpha)).rank([asked])
        texts = {label: dict(memory.texts(label)) for label in LABELS}
        np.testing.assert_allclose(ranking.scores, by_definition(asked, texts, alpha, False), atol=1e-5)
        assert [region.score for region in ranking.regions] == sorted((r.score for r in ranking.regions), reverse=True)
        for region in ranking.regions:
            place = int(np.abs(boxes * (50, 30, 50, 30) - region.box).sum(1).argmin())
            near = {
                (label, text): float(found.embeddings[place] @ vector)
                for label in (candidate.label for candidate in candidates)
                for text, vector in texts[label].items()
                if text != label or len(texts[label]) == 1
            }
            assert (region.label, region.description) == max(near, key=lambda key: near[key])
            assert region.score == pytest.approx(max(near.values()), abs=1e-5)

    def test_a_memory_that_was_changed(self, bundle: Path, writable: Callable[[Path], Path], clip: Clip) -> None:
        own = writable(bundle)
        recognizer = Recognizer.open(own, "cpu")
        picture = np.full((40, 60, 3), 90, np.uint8)
        before = recognizer.recognize([picture], k=4)[0]
        recognizer.memory.relabel("cat", "tomcat")
        after = recognizer.recognize([picture], k=4)[0]
        assert {c.label for c in after.candidates} == {"tomcat", "rocket", "grass", "coffee"}
        scores = {c.label: c.rank_score for c in before.candidates}
        unchanged = {c.label: c.rank_score for c in after.candidates if c.label != "tomcat"}
        assert unchanged == {label: scores[label] for label in unchanged}

    @pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan")])
    def test_alpha_out_of_range(self, alpha: float) -> None:
        with pytest.raises(InputError, match="alpha"):
            GrainOptions(alpha)

    def test_a_query_without_regions(self, clip: Clip, memory: Memory) -> None:
        bare = Query(np.zeros((9, 9, 3), np.uint8), np.zeros(clip.dim, np.float32), [Candidate("cat", 0.1)])
        with pytest.raises(InputError, match="pass them with each query"):
            Grain(clip, memory).rank([bare])


class TestRecognizer:
    def test_results_carry_the_regions(self, bundle: Path, class_pictures: list[Path]) -> None:
        recognizer = Recognizer.open(bundle, "cpu")
        assert recognizer.default_rank == "grain"
        for path, result in zip(class_pictures, recognizer.recognize(class_pictures, k=3), strict=True):
            height, width = load_image(path).shape[:2]
            assert result.ranked_by == "grain"
            assert len(result.regions) == 3
            for region in result.regions:
                assert region.label in {candidate.label for candidate in result.candidates}
                assert region.description in DESCRIPTIONS.get(region.label, [region.label])
                x0, y0, x1, y1 = region.box
                assert 0 <= x0 <= x1 <= width
                assert 0 <= y0 <= y1 <= height

    def test_retrieval_and_wca_carry_none(self, bundle: Path, class_pictures: list[Path]) -> None:
        recognizer = Recognizer.open(bundle, "cpu")
        for rank in ("none", "wca"):
            result = recognizer.recognize(class_pictures[:1], k=2, rank=rank)[0]  # type: ignore[arg-type]
            assert (result.regions, result.error) == ((), None)

    def test_the_command_prints_them(
        self, bundle: Path, class_pictures: list[Path], capsys: pytest.CaptureFixture[str]
    ) -> None:
        from rar.runtime.cli.recognize import main as recognize

        assert recognize([str(bundle), str(class_pictures[0]), "--rank", "grain", "--k", "2", "--json"]) == 0
        row = json.loads(capsys.readouterr().out)
        assert row["ranked_by"] == "grain"
        assert {"label", "box", "description", "score"} == row["regions"][0].keys()


class TestTuning:
    def test_alpha_is_fitted_and_used(
        self, bundle: Path, labelled_folder: Path, writable: Callable[[Path], Path], class_pictures: list[Path]
    ) -> None:
        own = writable(bundle)
        images = read_images(labelled_folder)
        measured = tune(own, images, k=3, provider="cpu").measured
        tried = {row["alpha"]: row for row in measured["rankers"] if row["rank"] == "grain"}
        assert list(tried) == [0, 0.25, 0.5, 0.75, 1]
        recognizer = Recognizer.open(own, "cpu")
        for settings, ranker in rankers(recognizer, own, None):
            if settings.get("alpha") == 0.25:
                queries = [one for one in recognizer.queries((i.path for i in images), 3) if isinstance(one, Query)]
                best = [r.order(q.candidates)[0].label for q, r in zip(queries, ranker.rank(queries), strict=True)]
                hits = np.mean([found == image.label for found, image in zip(best, images, strict=True)])
                assert tried[0.25]["top1"] == pytest.approx(100 * hits, abs=0.01)

    def test_what_is_stored_holds_for_its_alpha(
        self, bundle: Path, writable: Callable[[Path], Path], class_pictures: list[Path]
    ) -> None:
        from rar.runtime.bundle.change import annotate

        own = writable(bundle)
        annotate(own, "memory", tune={"rank": "grain", "alpha": 0.25, "fusion": 2.0, "gate": 0.1})
        tuning = Tuning.of(MemoryInfo.of(Bundle.open(own)).tune)
        assert tuning is not None
        assert tuning.options == GrainOptions(0.25)
        assert tuning.fits("grain", GrainOptions(0.25))
        assert not tuning.fits("grain", GrainOptions(0.5))
        assert not tuning.fits("wca", None)
        stored = Recognizer.open(own, "cpu").recognize(class_pictures[:3], k=4)
        for found, result in zip(
            stored,
            Recognizer.open(bundle, "cpu", grain=GrainOptions(0.25)).recognize(class_pictures[:3], k=4),
            strict=True,
        ):
            alone = {c.label: c.rank_score for c in result.candidates}
            for candidate in found.candidates:
                fused = (alone[candidate.label] + 2 * candidate.similarity) / 3  # type: ignore[operator]
                assert candidate.rank_score == pytest.approx(fused, abs=1e-5)

    @pytest.mark.parametrize("alpha", [None, "x", 1.5, [1]])
    def test_a_malformed_alpha(self, alpha: Any, bundle: Path, writable: Callable[[Path], Path]) -> None:
        from rar.runtime.bundle.change import annotate

        own = writable(bundle)
        annotate(own, "memory", tune={"rank": "grain", "alpha": alpha})
        with pytest.raises(BundleError, match="tune is malformed"):
            Recognizer.open(own, "cpu")


class TestMemory:
    def test_classes_without_descriptions_are_named(
        self, micro_bundle: Path, writable: Callable[[Path], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        own = writable(micro_bundle)
        (tmp_path / "names.txt").write_text("cat\ndog\nowl\n")
        (tmp_path / "texts.json").write_text(json.dumps({"cat": ["whiskers"]}))
        argv = ["memory", str(own), "--classes", str(tmp_path / "names.txt"), "--rank", "grain"]
        assert main([*argv, "--descriptions", str(tmp_path / "texts.json")]) == 0
        assert "2 classes have no description, as 'dog'" in capsys.readouterr().out
        (tmp_path / "texts.json").write_text(json.dumps({"cat": ["whiskers"], "eel": ["long"]}))
        assert main([*argv, "--descriptions", str(tmp_path / "texts.json")]) == 2
        assert "descriptions name 'eel'" in capsys.readouterr().err
