"""Training pictures as a model sees them: prepared each time, or features that were computed beforehand."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from rar.export.finetune.pictures import FeaturePictures, PixelPictures, compute, squash
from rar.export.finetune.views import random_view
from rar.export.pictures.labelled import LabelledImage
from rar.runtime import Bundle, ExportError, ImageError
from rar.runtime.encoder.clip import Clip
from rar.runtime.picture.load import load_image


@pytest.fixture(scope="module")
def clip(features_bundle: Path) -> Clip:
    return Clip(Bundle.open(features_bundle), "cpu", 1)


@pytest.fixture(scope="module")
def paths(pictures: list[LabelledImage]) -> list[str]:
    """Twelve: more than one batch."""
    return [str(image.path) for image in pictures]


def test_the_first_features_are_the_picture_s_and_the_others_those_of_its_views(
    clip: Clip, paths: list[str], tmp_path: Path
) -> None:
    found = compute(clip, paths, 2, 7, tmp_path / "features.npy")
    assert (found.shape, found.dtype) == ((12, 3, 1, 32), np.float16)
    for number, path in enumerate(paths):
        pixels, chance = load_image(path), np.random.default_rng([7, 2, number])
        views = [random_view(pixels, chance) for _ in range(2)]
        tensors = np.concatenate([clip.preprocess([pixels]), squash(clip.preprocess)(views)])
        np.testing.assert_allclose(found[number], clip.encode(tensors)[1], atol=2e-3)
    assert os.listdir(tmp_path) == ["features.npy"]


def test_what_is_computed_is_not_computed_again(clip: Clip, paths: list[str], tmp_path: Path) -> None:
    file = tmp_path / "features.npy"
    first, written = np.array(compute(clip, paths, 1, 0, file)), file.stat().st_mtime_ns
    np.testing.assert_array_equal(compute(clip, paths, 1, 0, file), first)
    assert file.stat().st_mtime_ns == written
    for other, views in ((paths[1:], 1), (paths, 2)):
        with pytest.raises(ExportError, match="features of other pictures; delete it"):
            compute(clip, other, views, 0, file)


def test_no_views(clip: Clip, paths: list[str], tmp_path: Path) -> None:
    assert compute(clip, paths[:1], 0, 0, tmp_path / "features.npy").shape == (1, 1, 1, 32)


def test_an_unreadable_picture_leaves_no_half_of_a_file(clip: Clip, paths: list[str], tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="nowhere"):
        compute(clip, [*paths, "nowhere.jpg"], 1, 0, tmp_path / "features.npy")
    assert os.listdir(tmp_path) == []


def test_features_of_random_views_or_of_the_picture_itself() -> None:
    features = np.arange(3 * 4 * 2, dtype=np.float16).reshape(3, 4, 1, 2)
    pictures = FeaturePictures(["a", "b", "c"], features)
    np.testing.assert_array_equal(pictures(["c", "a"], None), features[[2, 0], 0])
    shown = [pictures(["b"], np.random.default_rng(seed))[0, 0, 0] for seed in range(40)]
    assert set(shown) == set(features[1, :, 0, 0].tolist())
    assert pictures(["b"], None).dtype == np.float32
    np.testing.assert_array_equal(pictures.all(["b", "a"]), features[[1, 0]])


def test_pixels_are_augmented_only_where_a_view_is_asked_for(clip: Clip, paths: list[str]) -> None:
    own = clip.preprocess([load_image(path) for path in paths[:2]])
    augmented, plain = PixelPictures(clip.preprocess, True), PixelPictures(clip.preprocess, False)
    for found in (augmented(paths[:2], None), plain(paths[:2], np.random.default_rng(0))):
        np.testing.assert_array_equal(found, own)
    view = augmented(paths[:2], np.random.default_rng(0))
    assert view.shape == own.shape
    assert np.abs(view - own).max() > 0.1
    np.testing.assert_array_equal(view, augmented(paths[:2], np.random.default_rng(0)))
