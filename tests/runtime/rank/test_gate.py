"""How sure an order is, and bundles whose gate was fitted to what this release does not measure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rar.runtime import Candidate, InputError, Query, Recognizer
from rar.runtime.bundle.change import annotate
from rar.runtime.rank.gate import sureness
from rar.runtime.rank.protocol import Weights


def test_a_gate_by_the_probe_of_an_earlier_release_is_fitted_anew(
    pictures_bundle: Path, writable: Callable[[Path], Path], class_pictures: list[Path]
) -> None:
    root = writable(pictures_bundle)
    annotate(root, "memory", tune={"rank": "wca", "fusion": 1.0, "gate": 0.0, "gate_by": "probe"})
    with Recognizer.open(root, "cpu") as recognizer:
        assert {one.ranked_by for one in recognizer.recognize(class_pictures, k=3, rank="wca")} == {"wca"}
        with pytest.raises(InputError, match="run `rar-export tune`"):
            recognizer.recognize(class_pictures, k=3, rank="wca", gate="unsure")


def test_the_fused_margin_is_that_of_evidence_and_similarity() -> None:
    candidates = [Candidate("a", 0.5), Candidate("b", 0.75)]
    evidence = np.array([-0.2, -1.7], np.float32)
    one = Query(np.zeros((1, 1, 3), np.uint8), np.ones(2, np.float32), candidates, evidence=evidence)
    margin = ((-0.2 + 2 * 0.5) - (-1.7 + 2 * 0.75)) / 3
    alone = replace(one, candidates=one.candidates[:1], evidence=np.zeros(1, np.float32))
    without = replace(one, evidence=None)
    assert sureness([one, alone, without], Weights(2.0)).tolist() == pytest.approx([margin, np.inf, -np.inf])
