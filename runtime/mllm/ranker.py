"""RAR's ranking (arXiv 2403.13805, section 3.3): the MLLM sees the picture and the k retrieved names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from ..rank import Query, Ranking
from ..stages import stage
from .model import Mllm
from .modes import (
    NEUTRAL,
    Question,
    answer_scores,
    ask_choice,
    ask_likelihood,
    ask_list,
    letter_scores,
    log_softmax,
    mean_of_rotations,
    place_scores,
    rotations,
)
from .parse import is_closed, parse_list
from .prompt import Mode

Floats = npt.NDArray[np.float32]
Debias: TypeAlias = Literal["rotate", "calibrate", "none"]


@dataclass(frozen=True)
class MllmOptions:
    """Settings of the MLLM ranker.

    Attributes:
        mode: `choice` reads the probabilities of the candidates' letters, `likelihood` the mean log-probability of
            each name's tokens (the end token counted, so that a name and its beginning differ), `generate` the list
            that the model writes: the paper's way, and the slowest.
        debias: How `choice` frees itself of a liking for some letters. `rotate` averages the log-probabilities over
            the k rotations of the candidates, so that each has stood at each letter. `calibrate` subtracts the
            letters' log-probabilities where the same picture is asked about with every name replaced by one neutral
            text (arXiv 2102.09690): one more question instead of k - 1. `none` takes them as they are.

    Raises:
        InputError: An unknown mode or debias.
    """

    mode: Mode = "likelihood"
    debias: Debias = "rotate"

    def __post_init__(self) -> None:
        for name, value, known in (("mode", self.mode, get_args(Mode)), ("debias", self.debias, get_args(Debias))):
            if value not in known:
                raise InputError(f"{name} {value!r} is unknown; choose {', '.join(known)}")


class MllmRanker:
    """The ranker over a loaded MLLM. Scores are log-probabilities over a picture's candidates.

    Raises:
        InputError: The model has no such mode.
    """

    def __init__(self, model: Mllm, options: MllmOptions | None = None) -> None:
        self._model = model
        self._options = options or MllmOptions()
        self._head = model.prompt.head(self._options.mode)

    def rank(self, queries: Sequence[Query]) -> list[Ranking]:
        """One ranking a query; a picture with one candidate asks the model nothing.

        Raises:
            InputError: A prompt is longer than the model's context, or has more candidates than letters.
            BundleError: The model's files do not fit each other.
        """
        asked = [query for query in queries if len(query.candidates) > 1]
        rank = self._generate if self._options.mode == "generate" else self._score
        found = iter(rank(asked) if asked else [])
        return [next(found) if len(query.candidates) > 1 else Ranking(np.zeros(1, np.float32)) for query in queries]

    def _score(self, queries: Sequence[Query]) -> list[Ranking]:
        with stage("prompt"):
            questions = [self._question(_names(query)) for query in queries]
            for question in questions:
                self._check(question)
        with stage("vision"):
            pictures = self._model.see(queries)
        rankings = []
        logits = self._model.decoder.logits(self._head, [question.tree for question in questions], pictures)
        for question, own in zip(questions, logits, strict=True):
            with stage("score"):
                rankings.append(Ranking(self._scores(question, own)))
        return rankings

    def _question(self, names: Sequence[str]) -> Question:
        prompt, debias = self._model.prompt, self._options.debias
        if self._options.mode == "likelihood":
            return ask_likelihood(prompt, names)
        if debias == "rotate":
            return ask_choice(prompt, [[names[i] for i in order] for order in rotations(len(names))])
        return ask_choice(prompt, [names, [NEUTRAL] * len(names)] if debias == "calibrate" else [names])

    def _scores(self, question: Question, logits: Floats) -> Floats:
        if self._options.mode == "likelihood":
            return log_softmax(answer_scores(question, logits))
        letters = letter_scores(question, logits)
        if self._options.debias == "rotate":
            return mean_of_rotations(letters)
        return log_softmax(letters[0] - letters[1]) if self._options.debias == "calibrate" else letters[0]

    def _generate(self, queries: Sequence[Query]) -> list[Ranking]:
        prompt, decoder = self._model.prompt, self._model.decoder
        names = [_names(query) for query in queries]
        with stage("prompt"):
            trees, limits = zip(*(ask_list(prompt, own) for own in names), strict=True)
            for tree, limit in zip(trees, limits, strict=True):
                prompt.check(len(self._head) + len(tree) + limit)
        with stage("vision"):
            pictures = self._model.see(queries)

        def done(index: int, written: list[int]) -> bool:
            if written[-1] in prompt.stop_ids:
                return True
            # Only a bracket can close a list.
            return "]" in prompt.decode(written[-1:]) and is_closed(prompt.decode(written), names[index])

        answers = decoder.greedy(self._head, trees, pictures, limits, done)
        return [_ranking(prompt.decode(answer), own) for answer, own in zip(answers, names, strict=True)]

    def _check(self, question: Question) -> None:
        segments = question.tree.segments
        lengths = (
            sum(len(segments[ancestor].ids) for ancestor in question.tree.ancestors(index))
            for index in range(len(segments))
        )
        self._model.prompt.check(len(self._head) + max(lengths))


def _names(query: Query) -> list[str]:
    return [candidate.label for candidate in query.candidates]


def _ranking(text: str, names: Sequence[str]) -> Ranking:
    places = parse_list(text, names)
    if places is None:  # nothing was said, so all are alike
        return Ranking(log_softmax(np.zeros(len(names))), fallback=True)
    return Ranking(place_scores(places, len(names)))
