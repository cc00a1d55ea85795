"""Augmented views: parts of the picture, of bounded size and shape, the same for the same seed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rar.export.finetune.pictures import squash
from rar.export.finetune.views import _colour, random_view
from rar.runtime import Preprocess


@given(st.integers(1, 70), st.integers(1, 70), st.integers(0, 999))
def test_any_picture_has_views_within_it(noise: Callable[..., Any], height: int, width: int, seed: int) -> None:
    view = random_view(noise(height, width), np.random.default_rng(seed))
    assert view.dtype == np.uint8
    assert 1 <= view.shape[0] <= height
    assert 1 <= view.shape[1] <= width
    assert view.shape[2] == 3


def test_views_keep_to_the_share_and_the_ratio(noise: Callable[..., Any]) -> None:
    picture, chance = noise(200, 200), np.random.default_rng(0)
    for _ in range(200):
        height, width, _channels = random_view(picture, chance).shape
        assert 0.29 <= height * width / 200**2 <= 1
        assert 0.74 <= width / height <= 1.36


def test_a_view_is_a_part_of_the_picture_or_its_mirror_image(
    noise: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rar.export.finetune.views._COLOUR", (1.0, 1.0))
    picture, mirrored = noise(24, 24), 0
    for seed in range(30):
        view = random_view(picture, np.random.default_rng(seed))
        parts = np.lib.stride_tricks.sliding_window_view(picture, view.shape)
        plain, turned = (bool((parts == part).all((-3, -2, -1)).any()) for part in (view, view[:, ::-1]))
        assert plain or turned
        mirrored += turned and not plain
    assert 5 < mirrored < 25


def test_the_same_seed_gives_the_same_view(noise: Callable[..., Any]) -> None:
    same, again, other = (random_view(noise(50, 60), np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(same, again)
    assert same.shape != other.shape or (same != other).any()


def test_colours_change_as_named(noise: Callable[..., Any]) -> None:
    view = noise(20, 30) // 3 + 80
    np.testing.assert_array_equal(_colour(view, 1, 1, 1), view)
    assert np.abs(_colour(view, 0.5, 1, 1) - view / 2).max() <= 0.5
    flat = _colour(view, 1, 0, 1).astype(float).mean(2)
    assert flat.std() < 20
    assert (_colour(view, 1, 1, 0).max(2) == _colour(view, 1, 1, 0).min(2)).all()  # grey
    assert _colour(np.full((2, 2, 3), 255, np.uint8), 1.4, 1.4, 1.4).max() == 255  # bounded, not wrapped


def test_a_view_is_squashed_whole(noise: Callable[..., Any]) -> None:
    own = Preprocess(size=16, mean=(0.4, 0.5, 0.6), std=(0.2, 0.2, 0.2), filter="bilinear", shortest_edge=20)
    prepared = squash(own)
    assert (prepared.fit, prepared.size, prepared.mean, prepared.filter) == ("squash", 16, own.mean, "bilinear")
    wide = np.zeros((10, 40, 3), np.uint8)
    wide[:, 36:] = 255  # at the edge, which a crop would cut off
    assert prepared([wide])[0, 0, :, -1].min() > own([wide])[0, 0, :, -1].max()
