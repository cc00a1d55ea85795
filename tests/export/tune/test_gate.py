"""The gate's margin: it costs no more than stated, and what it skips is what the runtime skips."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from judgements import cases, judged

from rar.export.tune.gate import fit_gate
from rar.export.tune.judged import Judged
from rar.runtime.rank.protocol import Weights
from rar.runtime.rank.tuning import Fused


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

    def test_a_picture_that_is_never_sure_is_ranked(self) -> None:
        found = judged([[0.9, 0.1]] * 3, [[-9, 0]] * 3, [0, 0, 1])
        gate = fit_gate(found, 0.0, 0.0, np.array([2, 1, -np.inf], np.float32))
        assert gate == {"margin": 1.5, "skipped": pytest.approx(1 / 3), "top1": 66.67}

    def test_what_is_skipped_is_answered_by_the_discriminant_where_that_comes_first(self) -> None:
        # Retrieval is wrong; evidence and ranker are right.
        one = judged([[0.9, 0.1]] * 4, [[-9, 0]] * 4, [1] * 4)
        both = Judged(one.similarity, one.scores, one.right, evidence=np.array([[-5, 0]] * 4, np.float32))
        margins = np.full(4, 5, np.float32)
        assert fit_gate(both, 0.0, 0.0, margins)["skipped"] == 0
        gate = fit_gate(both, 0.0, 0.0, margins, Fused(Weights(0.1)))
        assert (gate["skipped"], gate["top1"]) == (1, 100)
