"""RAR's ranking (arXiv 2403.13805, section 3.3): the MLLM sees the picture and the k retrieved names."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from ...bundle.manifest import Bundle
from ...errors import BundleError, InputError, RarError
from ...stages import in_stage
from ..protocol import Flag, Needs, Opened, Query, RankerOptions, Ranking, Spec
from .exemplars import COMPONENT, Exemplars
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
from .openings import Opening, Openings, by_head
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
        exemplars: How many pictures of its class are shown beside each candidate's name, those of the bundle's
            `exemplars` that are most similar to the picture. A class without any appears by name only. RAR shows none.

    Raises:
        InputError: The mode or debias is unknown, or `exemplars` is no number from 0 on.
    """

    mode: Mode = "likelihood"
    debias: Debias = "rotate"
    exemplars: int = 0

    def __post_init__(self) -> None:
        for name, value, known in (("mode", self.mode, get_args(Mode)), ("debias", self.debias, get_args(Debias))):
            if value not in known:
                raise InputError(f"{name} {value!r} is unknown; choose {', '.join(known)}")
        if type(self.exemplars) is not int or self.exemplars < 0:
            raise InputError(f"exemplars={self.exemplars!r}; give how many pictures a candidate, 0 for names alone")

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> MllmOptions:
        """See `RankerOptions`."""
        return cls(stored["mode"], stored.get("debias", cls.debias), stored.get("exemplars", 0))

    def stored(self) -> dict[str, Any]:
        """See `RankerOptions`."""
        exemplars = {"exemplars": self.exemplars} if self.exemplars else {}
        return {"mode": self.mode, "debias": self.debias, **exemplars}

    def same(self, other: RankerOptions) -> bool:
        """See `RankerOptions`; only `choice` looks at `debias`."""
        if not isinstance(other, MllmOptions) or self.exemplars != other.exemplars:
            return False
        return self.mode == other.mode and (self.mode != "choice" or self.debias == other.debias)


class MllmRanker:
    """The ranker over a loaded MLLM. Scores are log-probabilities over a picture's candidates.

    Args:
        model: The MLLM.
        options: Settings; None for the defaults.

    Raises:
        InputError: The model has no such mode, or takes no exemplars, or the bundle holds none.
        BundleError: The bundle's exemplars do not fit its model, or are damaged.
    """

    def __init__(self, model: Mllm, options: MllmOptions | None = None) -> None:
        self._model = model
        self._options = options = options or MllmOptions()
        self._prompt = model.prompt.of_several() if options.exemplars else model.prompt
        kept = Exemplars.open(model.bundle, self._prompt) if options.exemplars else None
        self._openings = Openings(self._prompt, options.mode, kept, options.exemplars)

    @property
    def most(self) -> int | None:
        """The most candidates that it can rank; None for any number."""
        return len(self._prompt.letters) if self._options.mode == "choice" else None

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
            openings = self._openings.of(queries)
            questions = [self._question(_names(q), o.ids) for q, o in zip(queries, openings, strict=True)]
            fit = [i for i, asked in enumerate(questions) if self._fits(openings[i], _length(asked.tree))]
        rankings: list[Ranking | None] = [None] * len(queries)
        if not fit:
            return rankings
        with in_stage("vision"):
            pictures = dict(zip(fit, self._model.see([queries[i] for i in fit]), strict=True))
        for group in by_head(openings, fit):
            first = openings[group[0]]
            logits = self._model.decoder.logits(
                first.head,
                [questions[i].tree for i in group],
                [_shown(openings[i], pictures[i]) for i in group],
                first.before,
            )
            for i, rows in zip(group, logits, strict=True):
                with in_stage("score"):
                    rankings[i] = Ranking(self._scores(questions[i], rows))
        return rankings

    def _question(self, names: Sequence[str], shown: Sequence[int]) -> Question:
        prompt, debias = self._prompt, self._options.debias
        if self._options.mode == "likelihood":
            return ask_likelihood(prompt, names, shown)
        if debias == "rotate":
            return ask_choice(prompt, [[names[i] for i in order] for order in rotations(len(names))], shown)
        return ask_choice(prompt, [names, [NEUTRAL] * len(names)] if debias == "calibrate" else [names], shown)

    def _scores(self, question: Question, logits: Floats) -> Floats:
        if self._options.mode == "likelihood":
            return log_softmax(answer_scores(question, logits))
        letters = letter_scores(question, logits)
        if self._options.debias == "rotate":
            return mean_of_rotations(letters)
        return log_softmax(letters[0] - letters[1]) if self._options.debias == "calibrate" else letters[0]

    def _generate(self, queries: Sequence[Query]) -> list[Ranking | None]:
        prompt, decoder = self._prompt, self._model.decoder
        with in_stage("prompt"):
            openings = self._openings.of(queries)
            asked = [ask_list(prompt, _names(q), o.ids) for q, o in zip(queries, openings, strict=True)]
            fit = [i for i, (tree, limit) in enumerate(asked) if self._fits(openings[i], len(tree) + limit)]
        rankings: list[Ranking | None] = [None] * len(queries)
        if not fit:
            return rankings
        with in_stage("vision"):
            pictures = dict(zip(fit, self._model.see([queries[i] for i in fit]), strict=True))
        for group in by_head(openings, fit):
            names = [_names(queries[i]) for i in group]

            def done(index: int, written: list[int], names: list[list[str]] = names) -> bool:
                if written[-1] in prompt.stop_ids:
                    return True
                # Only a bracket can close a list.
                return "]" in prompt.decode(written[-1:]) and is_closed(prompt.decode(written), names[index])

            first = openings[group[0]]
            trees, limits = zip(*(asked[i] for i in group), strict=True)
            shown = [_shown(openings[i], pictures[i]) for i in group]
            answers = decoder.greedy(first.head, trees, shown, limits, done, first.before)
            for i, answer, labels in zip(group, answers, names, strict=True):
                rankings[i] = _ranking(prompt.decode(answer), labels)
        return rankings

    def _fits(self, opening: Opening, tokens: int) -> bool:
        return len(opening.head) + tokens <= self._prompt.context


def _shown(opening: Opening, picture: Floats) -> Floats:
    """The pictures of a tree: float32 [n * T, D].

    Raises:
        BundleError: The exemplars are of another width.
    """
    exemplars = opening.exemplars()
    if not exemplars:
        return picture
    if exemplars[0].shape != picture.shape:
        raise BundleError(
            f"exemplars of {list(exemplars[0].shape)} beside pictures of {list(picture.shape)}; make them "
            "again with `rar-export exemplars`"
        )
    return np.concatenate([*exemplars, picture])


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
    if COMPONENT in opened.bundle.components and "likelihood" in model.prompt.modes:
        options = MllmOptions("likelihood", exemplars=1)
        try:
            ranker = MllmRanker(model, options)
        except RarError as error:  # they are of another encoder or MLLM: what else was measured must not be lost
            _LOG.warning("exemplars are not tried: %s", error)
        else:
            yield options, ranker


_FLAGS = (
    Flag("mode", "how the MLLM ranks (default: the bundle's own choice; likelihood with --exemplars)", get_args(Mode)),
    Flag(
        "exemplars",
        "pictures of its class that the MLLM sees beside each name (default: the bundle's own choice; 0 with --mode)",
    ),
)

SPEC = Spec(MllmOptions, _open, _needs, _trials, log_probabilities=True, flags=_FLAGS)
