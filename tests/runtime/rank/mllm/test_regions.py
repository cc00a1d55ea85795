"""An MLLM orders what was found in boxes, and its scores say how sure a detection is."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from boxes import BOXES, mosaic

from rar.runtime import Recognizer

from .conftest import Golden


def test_log_probabilities_and_fitted_similarity_make_the_share_of_the_class(
    smolvlm: Golden, writable: Callable[[Path], Path], edit_manifest: Callable[..., None], labelled_folder: Path
) -> None:
    own = writable(smolvlm.bundle)
    tune = {"rank": "mllm", "mode": "likelihood", "debias": "rotate", "fusion": 2.0}
    edit_manifest(own, lambda manifest: manifest["components"]["memory"]["info"].update(tune=tune))
    recognizer, frame = Recognizer.open(own, "cpu", threads=1), mosaic(labelled_folder)
    look = {"k": 3, "rank": "mllm", "grow": 1.2, "blur": 0.1}
    plain = recognizer.recognize_regions(frame, BOXES[:2], **look)  # type: ignore[arg-type]
    scored = recognizer.recognize_regions(frame, BOXES[:2], scores=[0.3, 1.0], fusion=0.25, **look)  # type: ignore[arg-type]
    for before, after, proposal in zip(plain, scored, (0.3, 1.0), strict=True):
        assert before.ranked_by == "mllm"
        finals = [candidate.rank_score for candidate in before.candidates]
        # The mean of score and similarity with weights 1 and 2, times 3: log p + 2 s.
        logs = 3 * np.array(finals)
        share = np.exp(logs[0]) / np.exp(logs).sum()
        assert after.score == pytest.approx(proposal**0.25 * share**0.75, rel=1e-4)
