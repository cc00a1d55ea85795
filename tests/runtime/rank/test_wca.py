"""WCA against its definition, summed crop by crop and description by description."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from memories import add_part, unit

from rar.export.memory.build import MemorySource, build_memory
from rar.runtime import Bundle, Candidate, InputError, Memory, Recognizer, WcaOptions
from rar.runtime.bundle.change import stage
from rar.runtime.bundle.files import write_json
from rar.runtime.encoder.clip import Clip
from rar.runtime.picture.load import load_image
from rar.runtime.rank.protocol import Query
from rar.runtime.rank.wca import Wca, random_crops, weighted_sum

Floats = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.uint8]

# The paper's form: weights from unscaled cosines, and the plain double sum.
PAPER = WcaOptions(image_scale=1.0, text_scale=1.0, normalize=False)


def double_sum(crops: Floats, whole: Floats, texts: Floats, name: Floats, options: WcaOptions) -> float:
    """The paper's s = sum_i sum_j w_i v_j <crop_i, text_j>, term by term; divided by both sums' lengths if asked."""
    image, text = crops.astype(np.float64), texts.astype(np.float64)
    w = np.exp(options.image_scale * (image @ whole.astype(np.float64)))
    v = np.exp(options.text_scale * (text @ name.astype(np.float64)))
    w, v = w / w.sum(), v / v.sum()
    total = 0.0
    for i in range(len(image)):
        for j in range(len(text)):
            total += w[i] * v[j] * float(np.dot(image[i], text[j]))
    if options.normalize:
        total /= np.sqrt(sum(w[i] * w[j] * np.dot(image[i], image[j]) for i in range(len(w)) for j in range(len(w))))
        total /= np.sqrt(sum(v[i] * v[j] * np.dot(text[i], text[j]) for i in range(len(v)) for j in range(len(v))))
    return float(total)


@pytest.fixture(scope="module")
def clip(pictures_bundle: Path) -> Clip:
    return Clip(Bundle.open(pictures_bundle), "cpu")


@pytest.fixture(scope="module")
def memory(pictures_bundle: Path) -> Memory:
    return Memory.open(pictures_bundle)


def query(clip: Clip, pixels: Pixels, labels: list[str]) -> Query:
    embedding = clip.embed_pixels(clip.preprocess([pixels]))[0]
    return Query(pixels, embedding, [Candidate(label, 0.0) for label in labels])


def scores_of(ranker: Wca, queries: list[Query]) -> list[npt.NDArray[np.floating[Any]]]:
    return [np.asarray(ranking.scores) for ranking in ranker.rank(queries)]


def texts_of(memory: Memory, label: str) -> tuple[Floats, Floats]:
    """A class's descriptions (its name where it has none) and its name, as they are stored."""
    (source, name), *descriptions = memory.texts(label)
    assert source == label
    return np.stack([vector for _, vector in descriptions] or [name]), name


scales = st.floats(0, 60)

LABELS = ["rocket", "grass", "cat", "coffee"]
OPTIONS = [
    WcaOptions(crops=9),
    WcaOptions(crops=9, normalize=False),
    PAPER,
    WcaOptions(crops=1, alpha=1.0, beta=1.0),
    WcaOptions(crops=5, alpha=0.1, beta=0.2, image_scale=0.0, text_scale=100.0, seed=3),
]


class TestScore:
    @pytest.mark.parametrize("options", OPTIONS, ids=str)
    def test_equals_the_double_sum_of_the_exported_encoder(
        self, clip: Clip, memory: Memory, class_pictures: list[Path], options: WcaOptions
    ) -> None:
        pixels = load_image(class_pictures[0])
        asked = query(clip, pixels, LABELS)
        (scores,) = scores_of(Wca(clip, memory, options), [asked])
        crops = clip.embed_pixels(clip.preprocess([crop.copy() for crop in random_crops(pixels, options)]))
        expected = [double_sum(crops, asked.embedding, *texts_of(memory, label), options) for label in LABELS]
        np.testing.assert_allclose(scores, expected, atol=1e-5)

    @given(st.integers(1, 12), st.integers(1, 8), st.integers(0, 999), st.booleans(), scales, scales)
    def test_the_factored_form_equals_the_double_sum(
        self, crops: int, texts: int, seed: int, normalize: bool, image_scale: float, text_scale: float
    ) -> None:
        chance = np.random.default_rng(seed)
        image, text = unit(chance.normal(size=(crops, 16)) + 0.5), unit(chance.normal(size=(texts, 16)) + 0.5)
        whole, name = unit(chance.normal(size=16)), unit(chance.normal(size=16))
        options = WcaOptions(image_scale=image_scale, text_scale=text_scale, normalize=normalize)
        ours = weighted_sum(image, whole, image_scale, normalize) @ weighted_sum(text, name, text_scale, normalize)
        assert float(ours) == pytest.approx(double_sum(image, whole, text, name, options), abs=1e-5)

    def test_a_large_scale_picks_the_nearest_and_zero_the_mean(self) -> None:
        vectors = unit(np.random.default_rng(0).normal(size=(5, 8)))
        np.testing.assert_allclose(weighted_sum(vectors, vectors[3], 1e4, False), vectors[3], atol=1e-6)
        np.testing.assert_allclose(weighted_sum(vectors, vectors[3], 0.0, False), vectors.mean(0), atol=1e-6)

    def test_normalised_sums_have_unit_length(self) -> None:
        vectors = unit(np.random.default_rng(0).normal(size=(5, 8)))
        assert np.linalg.norm(weighted_sum(vectors, vectors[0], 5.0, True)) == pytest.approx(1, abs=1e-6)

    def test_a_class_without_descriptions_is_described_by_its_name(
        self, clip: Clip, memory: Memory, class_pictures: list[Path]
    ) -> None:
        assert (memory.parts["texts"].labels == memory.labels.index("grass")).sum() == 1
        options = WcaOptions(crops=3)
        pixels = load_image(class_pictures[0])
        asked = query(clip, pixels, ["grass"])
        crops = clip.embed_pixels(clip.preprocess(random_crops(pixels, options)))
        image = weighted_sum(crops, asked.embedding, options.image_scale, True)
        name = texts_of(memory, "grass")[1]
        expected = float(image @ (name / np.linalg.norm(name)))
        assert scores_of(Wca(clip, memory, options), [asked])[0][0] == pytest.approx(expected, abs=1e-5)


class TestCandidates:
    def test_only_the_candidates_are_scored_in_their_order(
        self, clip: Clip, memory: Memory, class_pictures: list[Path]
    ) -> None:
        ranker = Wca(clip, memory, WcaOptions(crops=3))
        pixels = load_image(class_pictures[0])
        (all_four,) = scores_of(ranker, [query(clip, pixels, LABELS)])
        (two,) = scores_of(ranker, [query(clip, pixels, [LABELS[2], LABELS[0]])])
        assert two.shape == (2,)
        np.testing.assert_allclose(two, all_four[[2, 0]], atol=1e-6)

    def test_a_picture_scores_the_same_in_any_batch(
        self, clip: Clip, memory: Memory, class_pictures: list[Path]
    ) -> None:
        queries = [query(clip, load_image(path), LABELS) for path in class_pictures]
        options = WcaOptions(crops=7)
        together = scores_of(Wca(clip, memory, options), queries)
        for asked, expected in zip(queries, together, strict=True):
            np.testing.assert_allclose(scores_of(Wca(clip, memory, options), [asked])[0], expected, atol=1e-5)
        backwards = scores_of(Wca(clip, memory, options), queries[::-1])[::-1]
        np.testing.assert_allclose(backwards, together, atol=1e-5)

    def test_the_seed_counts(self, clip: Clip, memory: Memory, class_pictures: list[Path]) -> None:
        asked = [query(clip, load_image(class_pictures[0]), LABELS)]
        first, again, other = (
            scores_of(Wca(clip, memory, WcaOptions(crops=3, seed=seed)), asked)[0] for seed in (0, 0, 1)
        )
        np.testing.assert_array_equal(first, again)
        assert not np.array_equal(first, other)

    def test_candidates_of_unequal_number(self, clip: Clip, memory: Memory, class_pictures: list[Path]) -> None:
        pixels = load_image(class_pictures[0])
        scores = scores_of(Wca(clip, memory, WcaOptions(crops=2)), [query(clip, pixels, LABELS[:n]) for n in (1, 4, 2)])
        assert [len(row) for row in scores] == [1, 4, 2]

    def test_ranking_keeps_the_candidates(self, pictures_bundle: Path, class_pictures: list[Path]) -> None:
        recognizer = Recognizer.open(pictures_bundle, "cpu", wca=WcaOptions(crops=5))
        for result in recognizer.recognize(class_pictures, k=3):
            assert sorted(c.label for c in result.candidates) == sorted(c.label for c in result.retrieved)
            scores = [c.rank_score for c in result.candidates]
            assert None not in scores
            assert scores == sorted(scores, reverse=True)  # type: ignore[type-var]
            assert result.score == scores[0]
            similarity = {c.label: c.similarity for c in result.retrieved}
            assert all(c.similarity == similarity[c.label] for c in result.candidates)


class TestTexts:
    def own(self, root: Path, tiny_bundle: Path, text_labels: npt.NDArray[np.int32] | None) -> Path:
        """Pictures of two classes, and texts of those that are named."""
        shutil.copytree(tiny_bundle, root)
        vectors = unit(np.random.default_rng(0).normal(size=(4, 32)))
        with stage(root, "memory") as staging:
            encoder = Bundle.open(root).component("clip").fingerprint
            staging.info.update(text_weight=0.0, pool=1, encoder=encoder, rank="none")
            add_part(staging, "pictures", vectors, np.array([0, 0, 1, 1], np.int32))
            if text_labels is not None:
                add_part(staging, "texts", vectors[: len(text_labels)], text_labels)
            write_json(staging.folder / "labels.json", ["a", "b"])
        return root

    def test_a_memory_without_texts(self, tmp_path: Path, tiny_bundle: Path, class_pictures: list[Path]) -> None:
        recognizer = Recognizer.open(self.own(tmp_path / "own", tiny_bundle, None), "cpu")
        with pytest.raises(InputError, match="WCA needs texts"):
            recognizer.recognize(class_pictures[:1], k=1, rank="wca")
        assert recognizer.recognize(class_pictures[:1], k=1)[0].label in ("a", "b")

    def test_a_class_without_text_is_described_by_its_name(
        self, tmp_path: Path, tiny_bundle: Path, class_pictures: list[Path]
    ) -> None:
        root = self.own(tmp_path / "own", tiny_bundle, np.zeros(2, np.int32))
        clip, memory = Clip(Bundle.open(root), "cpu"), Memory.open(root)
        options = WcaOptions(crops=3)
        asked = query(clip, load_image(class_pictures[0]), ["b", "gone"])
        crops = clip.embed_pixels(clip.preprocess(random_crops(asked.pixels, options)))
        image = weighted_sum(crops, asked.embedding, options.image_scale, True)
        expected = clip.embed_names(["b", "gone"]) @ image
        np.testing.assert_allclose(scores_of(Wca(clip, memory, options), [asked])[0], expected, atol=1e-5)

    def test_descriptions_are_found_by_name_not_by_order(self, tmp_path: Path, tiny_bundle: Path) -> None:
        scores = []
        for i, order in enumerate((("cat", "dog"), ("dog", "cat"))):
            root = Path(shutil.copytree(tiny_bundle, tmp_path / str(i)))
            descriptions = {"cat": ["whiskers", "a pointed ear"], "dog": ["a wet nose"]}
            source = MemorySource(classes=order, descriptions={name: descriptions[name] for name in reversed(order)})
            build_memory(Bundle.open(root), source, dim="none", provider="cpu")
            clip, memory = Clip(Bundle.open(root), "cpu"), Memory.open(root)
            pixels = np.arange(40 * 50 * 3, dtype=np.uint8).reshape(40, 50, 3)
            scores.append(scores_of(Wca(clip, memory), [query(clip, pixels, ["cat", "dog"])])[0])
        np.testing.assert_allclose(scores[0], scores[1], atol=1e-5)


class TestCrops:
    @given(
        st.integers(1, 300),
        st.integers(1, 300),
        st.integers(1, 30),
        st.floats(0.01, 1),
        st.floats(0, 1),
        st.integers(0, 99),
    )
    def test_are_square_inside_and_within_alpha_and_beta(
        self, height: int, width: int, count: int, alpha: float, share: float, seed: int
    ) -> None:
        beta = min(1.0, alpha + (1 - alpha) * share)
        pixels = np.zeros((height, width, 3), np.uint8)
        options = WcaOptions(crops=count, alpha=alpha, beta=beta, seed=seed)
        crops = random_crops(pixels, options)
        assert len(crops) == count
        shorter = min(height, width)
        for crop in crops:
            assert crop.shape[0] == crop.shape[1]
            assert max(1, int(alpha * shorter)) <= len(crop) <= max(1, beta * shorter)
            assert np.shares_memory(crop, pixels)

    def test_reach_every_corner_and_both_ends_of_the_range(self, noise: Callable[..., Pixels]) -> None:
        pixels = noise(20, 30)
        options = WcaOptions(crops=2000, alpha=0.5, beta=0.9)
        crops = random_crops(pixels, options)
        start = pixels.__array_interface__["data"][0]
        offsets = [(crop.__array_interface__["data"][0] - start) // 3 for crop in crops]
        tops, lefts, sides = [o // 30 for o in offsets], [o % 30 for o in offsets], [len(crop) for crop in crops]
        assert (min(sides), max(sides)) == (10, 17)
        assert (min(tops), min(lefts)) == (0, 0)
        assert max(top + side for top, side in zip(tops, sides, strict=True)) == 20
        assert max(left + side for left, side in zip(lefts, sides, strict=True)) == 30

    @pytest.mark.parametrize("shape", [(1, 1), (3, 20_000), (20_000, 3), (1, 7)])
    def test_extreme_pictures_are_ranked(self, clip: Clip, memory: Memory, shape: tuple[int, int]) -> None:
        pixels = np.full((*shape, 3), 90, np.uint8)
        (scores,) = scores_of(Wca(clip, memory, WcaOptions(crops=4)), [query(clip, pixels, LABELS)])
        assert np.isfinite(scores).all()

    def test_depend_on_the_picture_s_size_and_the_seed_only(self, noise: Callable[..., Pixels]) -> None:
        options = WcaOptions(crops=5)
        sides = [[len(crop) for crop in random_crops(noise(50, 60, seed), options)] for seed in (1, 2)]
        assert sides[0] == sides[1]


class TestOptions:
    def test_the_released_code_s_numbers_are_the_default(self) -> None:
        options = WcaOptions()
        assert (options.crops, options.alpha, options.beta, options.normalize) == (60, 0.5, 0.9, True)
        assert (options.image_scale, options.text_scale) == pytest.approx((54.598, 7.389), abs=1e-3)

    def test_the_paper_s_form(self) -> None:
        options = PAPER
        assert (options.image_scale, options.text_scale, options.normalize) == (1.0, 1.0, False)

    @pytest.mark.parametrize(
        "change",
        [
            {"crops": 0},
            {"crops": -1},
            {"alpha": 0.0},
            {"alpha": -0.5},
            {"alpha": 0.95},
            {"beta": 1.01},
            {"beta": 0.4},
            {"alpha": float("nan")},
            {"beta": float("nan")},
            {"beta": float("inf")},
            {"image_scale": float("nan")},
            {"text_scale": float("inf")},
            {"seed": -1},
        ],
        ids=str,
    )
    def test_out_of_range(self, change: dict[str, Any]) -> None:
        with pytest.raises(InputError):
            WcaOptions(**change)
