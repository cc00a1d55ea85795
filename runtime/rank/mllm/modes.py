"""Each mode's question as a tree, and the scores from its logits; ranking and training share this code."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .prompt import LETTERS, Mode, Prompt, clean, list_names
from .tree import Segment, Tree, fork

Floats = npt.NDArray[np.float32]

# Replaces every candidate when the letters' own bias is measured.
NEUTRAL = "an object"


@dataclass(frozen=True)
class Question:
    """A tree and the tokens that are looked up in its logits.

    Attributes:
        tree: The picture's tree.
        rows: For each answer, the tree's places that predict its tokens.
        targets: For each answer, its tokens.
    """

    tree: Tree
    rows: Sequence[Sequence[int]]
    targets: Sequence[Sequence[int]]


def ask_choice(prompt: Prompt, orders: Sequence[Sequence[str]], shown: Sequence[int] | None = None) -> Question:
    """Lettered questions about one picture, one branch each; all letters of each are looked up.

    Args:
        prompt: The prompt format.
        orders: For each branch the names in the order of their letters, all of one length.
        shown: The ids between the head and the question; None for the picture's.

    Returns:
        Rows and targets have one entry per branch; the targets are the letters.
    """
    common, rests = fork([prompt.tail("choice", names) for names in orders])
    stem = [*(prompt.picture("choice") if shown is None else shown), *common]
    segments = [Segment(stem), *(Segment(rest, 0) for rest in rests)]
    tree = Tree(segments, [(branch, len(rest) - 1) for branch, rest in enumerate(rests, 1)])
    letters = [prompt.letters[letter] for letter in LETTERS[: len(orders[0])]]
    return Question(tree, [[branch] * len(letters) for branch in range(len(orders))], [letters] * len(orders))


def ask_likelihood(prompt: Prompt, names: Sequence[str], shown: Sequence[int] | None = None) -> Question:
    """Every name as an answer, one branch each; its tokens and the end token are looked up; `shown` as `ask_choice`."""
    return ask_answers(prompt, "likelihood", names, [clean(name) for name in names], shown)


def ask_answers(
    prompt: Prompt, mode: Mode, names: Sequence[str], answers: Sequence[str], shown: Sequence[int] | None = None
) -> Question:
    """Given answers to a mode's question, one branch each after picture and question; `shown` as for `ask_choice`."""
    tail, rests = prompt.answers(mode, names, answers)
    segments = [Segment([*(prompt.picture(mode) if shown is None else shown), *tail])]
    places = [(0, len(segments[0].ids) - 1)]
    rows = []
    for rest in rests:
        # The last token is only ever predicted.
        scored = len(rest) - 1
        rows.append([0, *range(len(places), len(places) + scored)])
        if scored:
            places += [(len(segments), offset) for offset in range(scored)]
            segments.append(Segment(rest[:-1], 0))
    return Question(Tree(segments, places), rows, rests)


def ask_list(prompt: Prompt, names: Sequence[str], shown: Sequence[int] | None = None) -> tuple[Tree, int]:
    """The paper's question, and the most tokens that its answer may take; `shown` as `ask_choice`.

    The limit is 1.5 times the candidates' own list, to allow for other quotes and spaces.
    """
    stem = prompt.picture("generate") if shown is None else shown
    segment = Segment([*stem, *prompt.tail("generate", names)])
    (ids,) = prompt.text([list_names("generate", names)])
    return Tree([segment], [(0, len(segment.ids) - 1)]), len(ids) * 3 // 2 + 8


def log_softmax(logits: npt.NDArray[np.floating]) -> Floats:
    """Along the last axis; float32."""
    shifted = logits - logits.max(-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)), np.float32)


def answer_scores(question: Question, logits: Floats) -> Floats:
    """Mean log-probability of each answer's tokens, the end token included: float32 [answers].

    Args:
        question: The question.
        logits: float32 [M, V], of the tree's places.
    """
    # Only the targets' probabilities are needed, so the vocabulary is summed and not normalised.
    largest = logits.max(-1)
    totals = largest + np.log(np.exp(logits - largest[:, None]).sum(-1))
    means = [(logits[rows, targets] - totals[rows]).mean() for rows, targets in _pairs(question)]
    return np.array(means, np.float32)


def letter_scores(question: Question, logits: Floats) -> Floats:
    """Log-probabilities over the letters in each branch: float32 [branches, letters]."""
    return log_softmax(np.stack([logits[rows, targets] for rows, targets in _pairs(question)]))


def rotations(k: int) -> npt.NDArray[np.int64]:
    """All k rotations of k candidates: int64 [k, k], row r has candidate (r + letter) mod k at each letter."""
    return (np.arange(k)[:, None] + np.arange(k)) % k


def mean_of_rotations(scores: Floats) -> Floats:
    """Scores of the letters in each rotation, [k, k] -> log-probability of each candidate [k].

    Each candidate stands at each letter once, so a letter's bias adds the same to all of them.
    """
    k = len(scores)
    of_candidates = np.empty_like(scores)
    of_candidates[np.arange(k)[:, None], rotations(k)] = scores
    return log_softmax(of_candidates.mean(0))


def place_scores(places: Sequence[int], k: int) -> Floats:
    """Log-probabilities from an order: the candidate at rank r gets a share of 1 / (r + 1).

    Args:
        places: Candidates, best first; missing ones follow in their own order.
        k: The number of candidates.
    """
    order = [*places, *(candidate for candidate in range(k) if candidate not in set(places))]
    scores = np.empty(k, np.float32)
    scores[order] = -np.log(np.arange(1, k + 1))
    return log_softmax(scores)


def _pairs(question: Question) -> list[tuple[list[int], list[int]]]:
    return [(list(rows), list(targets)) for rows, targets in zip(question.rows, question.targets, strict=True)]
