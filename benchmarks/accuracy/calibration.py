"""How far a final score can be taken for a probability: reliability, expected calibration error, temperature.

The confidence in an answer is its share in the softmax over the picture's k candidates of scale times score. An MLLM's
scores are log-probabilities, whose scale is 1; cosines have none of their own, so that CLIP's logit scale, 100, is
taken. A picture whose true class was not retrieved counts as a wrong answer, whatever ranked it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]
Bools = npt.NDArray[np.bool_]

BINS = 15
_SCALES = np.geomspace(1e-3, 1e4, 281)


def reliability(confidence: Floats, right: Bools, bins: int = BINS) -> dict[str, Any]:
    """The reliability diagram and its summary (Guo et al. 2017, arXiv 1706.04599).

    Args:
        confidence: [N], from 0 to 1.
        right: bool [N], whether the answer was.
        bins: The number of bins of equal width; a confidence on an edge belongs to the lower one.

    Returns:
        `ece`, the expected calibration error in points: the mean gap between confidence and accuracy over the bins,
        weighed by their counts; `brier`, the mean squared difference of confidence and outcome; and `bins`, those that
        are not empty, each with `low`, `high`, `count`, mean `confidence` and `accuracy` in percent.
    """
    edges = np.linspace(0, 1, bins + 1)
    places = np.searchsorted(edges[1:-1], confidence)
    rows = []
    for place in np.unique(places):
        in_bin = places == place
        rows.append(
            {
                "low": 100 * float(edges[place]),
                "high": 100 * float(edges[place + 1]),
                "count": int(in_bin.sum()),
                "confidence": 100 * float(confidence[in_bin].mean()),
                "accuracy": 100 * float(right[in_bin].mean()),
            }
        )
    gaps = [row["count"] * abs(row["confidence"] - row["accuracy"]) for row in rows]
    return {"ece": sum(gaps) / len(right), "brier": float(np.square(confidence - right).mean()), "bins": rows}


def confidences(scores: Floats, scale: float) -> npt.NDArray[np.float64]:
    """The best candidate's probability: float64 [N].

    Args:
        scores: [N, k].
        scale: What they are multiplied by before the softmax.
    """
    logits = scale * np.asarray(scores, np.float64)
    return np.asarray(1 / np.exp(logits - logits.max(1, keepdims=True)).sum(1))


def fit_scale(scores: Floats, right: Bools) -> float:
    """The scale at which the confidence predicts best whether the answer is right (temperature scaling, Guo et al.).

    Args:
        scores: [N, k].
        right: bool [N].

    Returns:
        The scale of a grid from 0.001 to 10,000 with the least cross-entropy.
    """
    losses = []
    for scale in _SCALES:
        chance = np.clip(confidences(scores, float(scale)), 1e-12, 1 - 1e-12)
        losses.append(-np.where(right, np.log(chance), np.log1p(-chance)).mean())
    return float(_SCALES[int(np.argmin(losses))])


def calibration(scores: Floats, right: Bools, scale: float) -> dict[str, Any]:
    """Reliability as the scores are, and with a scale that was fitted on other pictures.

    Args:
        scores: [N, k], final scores of the candidates.
        right: bool [N], whether the best is the true class.
        scale: Theirs.

    Returns:
        `scale`; `as_is`, the reliability with it; `fitted_scales`, one fitted on every second picture and one on the
        others; `fitted`, the reliability of each picture with the scale that the other half gave (None below 4).
    """
    rows: dict[str, Any] = {"scale": scale, "as_is": reliability(confidences(scores, scale), right)}
    if len(right) < 4:
        return rows | {"fitted_scales": None, "fitted": None}
    even = np.arange(len(right)) % 2 == 0
    scales = [fit_scale(scores[half], right[half]) for half in (even, ~even)]
    held_out = np.where(even, confidences(scores, scales[1]), confidences(scores, scales[0]))
    return rows | {"fitted_scales": scales, "fitted": reliability(held_out, right)}
