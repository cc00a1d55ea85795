"""RAR's ranking (arXiv 2403.13805, section 3.3): the MLLM sees the picture and the k retrieved names."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from ...bundle.manifest import Bundle
from ...errors import InputError
from ...stages import in_stage
from ..protocol import Flag, Needs, Opened, Query, RankerOptions, Ranking, Spec
from .info import MllmInfo
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
from .tree import Tree

Floats = npt.NDArray[np.float32]
Debias: TypeAlias = Literal["rotate", "calibrate", "none"]
_LOG = logging.getLogger("rar")

# Characters of a name that the model is asked about. Attention's cost grows with the square of the prompt, and the
# pictures of a batch share its memory.
_LONGEST_NAME = 256


@dataclass(frozen=True)
class MllmOptions:
    """Settings of the MLLM ranker.

    Attributes:
        mode: `choice` reads the probabilities of the candidates' letters. `likelihood` reads the mean log-probability
            of each name's tokens (with the end token, so that a name and its prefix differ). `generate` reads the list
            that the model writes: the paper's way, and the slowest.
        debias: How `choice` removes the model's bias to some letters. `rotate` averages the log-probabilities over the
            k rotations of the candidates, so that each stands at each letter once. `calibrate` subtracts the letters'
            log-probabilities for the same picture with every name replaced by one neutral text (arXiv 2102.09690): one
            more question instead of k - 1. `none` uses them unchanged.

    Raises:
        InputError: The mode or debias is unknown.
    """

    mode: Mode = "likelihood"
    debias: Debias = "rotate"

    def __post_init__(self) -> None:
        for name, value, known in (("mode", self.mode, get_args(Mode)), ("debias", self.debias, get_args(Debias))):
            if value not in known:
                raise InputError(f"{name} {value!r} is unknown; choose {', '.join(known)}")

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> MllmOptions:
        """See `RankerOptions`."""
        return cls(stored["mode"], stored.get("debias", cls.debias))

    def stored(self) -> dict[str, Any]:
        """See `RankerOptions`."""
        return {"mode": self.mode, "debias": self.debias}

    def same(self, other: RankerOptions) -> bool:
        """See `RankerOptions`; only `choice` looks at `debias`."""
        return self == other or (isinstance(other, MllmOptions) and self.mode == other.mode != "choice")


class MllmRanker:
    """The ranker over a loaded MLLM. Scores are log-probabilities over a picture's candidates.

    Raises:
        InputError: The model has no such mode.
    """

    def __init__(self, model: Mllm, options: MllmOptions | None = None) -> None:
        self._model = model
        self._options = options or MllmOptions()
        self._head = model.prompt.head(self._options.mode)

    @property
    def most(self) -> int | None:
        """The most candidates that it can rank; None for any number."""
        return len(self._model.prompt.letters) if self._options.mode == "choice" else None

    def rank(self, queries: Sequence[Query]) -> list[Ranking]:
        """One ranking per query; a picture with one candidate needs no call of the model.

        A picture is not asked about if a candidate's name has over 256 characters, or its prompt does not fit the
        model's context: that would cost the whole batch its time. It keeps the retrieval's order, marked as a fallback.

        Raises:
            InputError: A prompt has more candidates than letters.
            BundleError: The model's files do not fit each other.
        """
        rankings = [Ranking.unranked(len(query.candidates)) for query in queries]
        asked = [i for i, query in enumerate(queries) if len(query.candidates) > 1 and _is_short(query)]
        rank = self._generate if self._options.mode == "generate" else self._score
        for i, ranking in zip(asked, rank([queries[i] for i in asked]), strict=True):
            rankings[i] = ranking or rankings[i]
        if unasked := sum(ranking.fallback for ranking in rankings):
            _LOG.info("%d of %d pictures have no usable answer of the MLLM", unasked, len(queries))
        return rankings

    def _score(self, queries: Sequence[Query]) -> list[Ranking | None]:
        with in_stage("prompt"):
            questions = [self._question(_names(query)) for query in queries]
            fit = [i for i, question in enumerate(questions) if self._fits(_length(question.tree))]
        rankings: list[Ranking | None] = [None] * len(queries)
        if not fit:
            return rankings
        with in_stage("vision"):
            pictures = self._model.see([queries[i] for i in fit])
        logits = self._model.decoder.logits(self._head, [questions[i].tree for i in fit], pictures)
        for i, rows in zip(fit, logits, strict=True):
            with in_stage("score"):
                rankings[i] = Ranking(self._scores(questions[i], rows))
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

    def _generate(self, queries: Sequence[Query]) -> list[Ranking | None]:
        prompt, decoder = self._model.prompt, self._model.decoder
        with in_stage("prompt"):
            asked = [ask_list(prompt, _names(query)) for query in queries]
            fit = [i for i, (tree, limit) in enumerate(asked) if self._fits(len(tree) + limit)]
        rankings: list[Ranking | None] = [None] * len(queries)
        if not fit:
            return rankings
        names = [_names(queries[i]) for i in fit]
        with in_stage("vision"):
            pictures = self._model.see([queries[i] for i in fit])

        def done(index: int, written: list[int]) -> bool:
            if written[-1] in prompt.stop_ids:
                return True
            # Only a bracket can close a list.
            return "]" in prompt.decode(written[-1:]) and is_closed(prompt.decode(written), names[index])

        trees, limits = zip(*(asked[i] for i in fit), strict=True)
        answers = decoder.greedy(self._head, trees, pictures, limits, done)
        for i, answer, labels in zip(fit, answers, names, strict=True):
            rankings[i] = _ranking(prompt.decode(answer), labels)
        return rankings

    def _fits(self, tokens: int) -> bool:
        return len(self._head) + tokens <= self._model.prompt.context


def _length(tree: Tree) -> int:
    """Tokens of a tree's longest branch."""
    segments = tree.segments
    return max(sum(len(segments[ancestor].ids) for ancestor in tree.ancestors(index)) for index in range(len(segments)))


def _is_short(query: Query) -> bool:
    return all(len(candidate.label) <= _LONGEST_NAME for candidate in query.candidates)


def _names(query: Query) -> list[str]:
    return [candidate.label for candidate in query.candidates]


def _ranking(text: str, names: Sequence[str]) -> Ranking:
    places = parse_list(text, names)
    if places is None:
        return Ranking.unranked(len(names))
    return Ranking(place_scores(places, len(names)))


def _open(opened: Opened, options: MllmOptions) -> MllmRanker:
    return MllmRanker(Mllm(opened.bundle, opened.clip, opened.threads), options)


def _needs(bundle: Bundle) -> Needs:
    return "features" if MllmInfo.of(bundle).vision_input == "image_features" else "pixels"


def _trials(opened: Opened) -> Iterator[tuple[MllmOptions, MllmRanker]]:
    if "mllm" not in opened.bundle.components:
        return
    model = Mllm(opened.bundle, opened.clip, opened.threads)
    for options in (
        MllmOptions("likelihood"),
        MllmOptions("choice", "rotate"),
        MllmOptions("choice", "calibrate"),
        MllmOptions("generate"),
    ):
        if options.mode in model.prompt.modes:
            yield options, MllmRanker(model, options)


_FLAGS = (Flag("mode", "how the MLLM ranks (default: the bundle's own choice)", get_args(Mode)),)

SPEC = Spec(MllmOptions, _open, _needs, _trials, log_probabilities=True, flags=_FLAGS)
