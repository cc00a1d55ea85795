"""A window's averages are the plain mean of each frame's log-probabilities."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rar.runtime import Candidate, InputError
from rar.runtime.video import Window

LABELS = "abcdef"
Frame = dict[str, float]

frames = st.lists(
    st.dictionaries(st.sampled_from(LABELS), st.floats(-1, 1, width=16), min_size=1, max_size=4), min_size=1, max_size=8
)


def candidates(frame: Frame, ranked: bool) -> list[Candidate]:
    order = sorted(frame.items(), key=lambda pair: -pair[1])
    return [Candidate(label, 0.5 if ranked else score, score if ranked else None) for label, score in order]


def expected(seen: Sequence[Frame], scale: float) -> Frame:
    rows = []
    for frame in seen:
        total = sum(math.exp(scale * score) for score in frame.values())
        rows.append({label: scale * score - math.log(total) for label, score in frame.items()})
    return {
        label: float(np.mean([row.get(label, min(row.values())) for row in rows]))
        for label in {x for r in rows for x in r}
    }


@given(frames, st.integers(1, 5), st.sampled_from([None, 1.0, 3.5]))
def test_it_is_the_mean_over_the_last_frames(seen: list[Frame], size: int, log_weight: float | None) -> None:
    window = Window(size)
    for i, frame in enumerate(seen):
        found = window.add(candidates(frame, ranked=log_weight is not None), log_weight)
        last = seen[max(0, i + 1 - size) : i + 1]
        assert len(window) == len(last)
        assert {one.label: one.log_probability for one in found} == pytest.approx(expected(last, log_weight or 100.0))
        means = [one.log_probability for one in found]
        assert means == sorted(means, reverse=True)


def test_one_frame_that_errs_does_not_change_the_answer() -> None:
    window = Window(5)
    right, wrong = [Candidate("a", 0.8), Candidate("b", 0.78)], [Candidate("b", 0.8), Candidate("a", 0.79)]
    for frame in (right, right, wrong, right):
        best = window.add(frame)[0]
        assert best.label == "a"


def test_a_frame_without_an_answer_changes_nothing() -> None:
    window = Window(2)
    assert window.add([]) == []
    before = window.add([Candidate("a", 0.8), Candidate("b", 0.1)])
    assert window.add([]) == before
    assert len(window) == 1


@pytest.mark.parametrize("size", [0, -3])
def test_a_size_that_cannot_be(size: int) -> None:
    with pytest.raises(InputError, match=f"window={size}"):
        Window(size)
