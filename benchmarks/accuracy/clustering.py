"""Accuracy where the answers' names are not the truth's: cACC and sACC of RAR's table 1 (FineR, arXiv 2401.13837)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

# Texts -> one vector each, float [N, d], of any length but zero.
Embed: TypeAlias = Callable[[Sequence[str]], npt.NDArray[np.floating[Any]]]


def clustering_accuracy(truth: Sequence[str], answers: Sequence[str]) -> float:
    """cACC: the share of pictures that are right when each answer stands for the class that suits it best.

    No two answers stand for one class: the Hungarian algorithm finds the assignment with the most pictures right.
    Answers' names do not matter.

    Args:
        truth: The true class of each picture.
        answers: What each was called.

    Returns:
        0 to 1.

    Raises:
        ValueError: No pictures, or not as many answers.
    """
    from scipy.optimize import linear_sum_assignment

    _check(truth, answers)
    classes, rows = np.unique(np.asarray(truth, np.str_), return_inverse=True)
    names, columns = np.unique(np.asarray(answers, np.str_), return_inverse=True)
    counts = np.zeros((len(classes), len(names)), np.int64)
    np.add.at(counts, (rows, columns), 1)
    best = linear_sum_assignment(counts, maximize=True)
    return float(counts[best].sum() / len(truth))


def semantic_accuracy(truth: Sequence[str], answers: Sequence[str], embed: Embed | None = None) -> float:
    """sACC: how near in meaning the answers are to the truth, the mean cosine of their names' embeddings.

    Args:
        truth: The true class of each picture.
        answers: What each was called.
        embed: The sentence encoder; None for all-MiniLM-L6-v2 of the starter. RAR's table has all-mpnet-base-v2:
            figures of two encoders do not compare.

    Returns:
        -1 to 1.

    Raises:
        ValueError: No pictures, or not as many answers.
        ExportError: The package of MiniLM is missing.
    """
    _check(truth, answers)
    names = sorted({*truth, *answers})
    vectors = np.asarray((embed or minilm())(names), np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    places = {name: place for place, name in enumerate(names)}
    pairs = zip(truth, answers, strict=True)
    return float(np.mean([vectors[places[true]] @ vectors[places[answer]] for true, answer in pairs]))


def minilm() -> Embed:
    """The starter's sentence encoder, in PyTorch.

    Raises:
        ExportError: A package of the `starter` extra is missing.
    """
    import torch

    from rar.export.starter.towers import load

    encoder = load()
    tokenizer = encoder.runtime_tokenizer()

    def embed(texts: Sequence[str]) -> npt.NDArray[np.floating[Any]]:
        with torch.inference_mode():
            embeddings: npt.NDArray[np.floating[Any]] = encoder.text_tower(torch.from_numpy(tokenizer(texts))).numpy()
        return embeddings

    return embed


def _check(truth: Sequence[str], answers: Sequence[str]) -> None:
    if not truth or len(truth) != len(answers):
        raise ValueError(f"{len(answers)} answers to {len(truth)} pictures; give one for each, and one or more")
