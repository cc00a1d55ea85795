"""Judged rankings, made up for the tests."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from hypothesis import strategies as st

from rar.export.tune.judged import Judged


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
