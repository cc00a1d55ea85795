"""Builds token ids from candidate names: fills the chat template so that names stay data.

A prompt is head, picture and tail. The head is constant in each mode, so its KV is cached. The tail holds the
candidates. Names are tokenised without special tokens. Exemplars, pictures of the candidates with their names, stand
between the head and the picture.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import tokenizers

from ...encoder.tokenizer import PlainText
from ...errors import BundleError, InputError
from .tree import PICTURE, Positions, shared

Mode: TypeAlias = Literal["choice", "likelihood", "generate"]

# Texts of each mode; a fine-tuned model has its own. The third is the paper's prompt
# (Liuziyu77/RAR, Few_shot/retrieve_and_rerank.py), split at the picture.
MODES: Mapping[Mode, Mapping[str, str]] = {
    "choice": {
        "instruction": "Please play the role of a classification expert.",
        "question": "Which of these categories is shown in the image?\n{candidates}\n"
        "Answer with the letter of the category only.",
        "answer": "",
    },
    "likelihood": {
        "instruction": "Please play the role of a classification expert.",
        "question": "Which of these categories is shown in the image? {candidates}\n"
        "Answer with the name of the category only.",
        "answer": "",
    },
    "generate": {
        "instruction": "Please play the role of a classification expert.",
        "question": "Sort the provided {k} categories from high to low according to the top {k} similarity with the "
        "input image. Here are the optional categories:{candidates}. Answer with the sorted list only.",
        "answer": "",
    },
}

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

# More than any model's context: what a stranger's prompt may have us count out.
_LONGEST = 1 << 24

# Characters that break a line or cannot be encoded: control characters, Unicode's line ends, lone surrogates.
_BREAKS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


@dataclass(frozen=True)
class Slot:
    """A slot in the template: `instruction`, `exemplars`, `image` or `question`; an exemplar has `name` and `image`."""

    name: str


# A piece of a filled template: text to tokenise, or ids, which may include `PICTURE`.
_Run: TypeAlias = "str | list[int]"


def clean(name: str) -> str:
    """A candidate's name as prompts show it: control characters and newlines become spaces."""
    return _BREAKS.sub(" ", name)


def list_names(mode: Mode, names: Sequence[str]) -> str:
    """The candidates as a question shows them: lettered lines, or a JSON list, whose quotes separate the names."""
    cleaned = [clean(name) for name in names]
    if mode == "choice":
        return "\n".join(f"{letter}. {name}" for letter, name in zip(LETTERS, cleaned, strict=False))
    return json.dumps(cleaned, ensure_ascii=False)


@dataclass(frozen=True)
class Prompt:
    """A model's prompt format: `mllm/prompt.json`.

    Attributes:
        template: The chat template's pieces in order: token ids, text, or a slot.
        modes: Texts of each mode: instruction, question (`{candidates}` and `{k}` are replaced), answer.
        lead: The text between the template's end and an answer, such as a space after `Assistant:`.
        stop_ids: Tokens that end an answer; names are scored and trained with the first.
        letters: The token of each letter as it follows the prompt of `choice`.
        image_tokens: Embeddings of a picture, shared equally by the image slots.
        context: Tokens that the model can hold.
        positions: How the model counts positions.
        text: The model's tokenizer.
        exemplar: The pieces of an exemplar, a candidate's name and picture, where the template has a slot for them.
        several: The template with that slot; None if the model takes one picture.
    """

    template: Sequence[_Run | Slot]
    modes: Mapping[str, Mapping[str, str]]
    lead: str
    stop_ids: Sequence[int]
    letters: Mapping[str, int]
    image_tokens: int
    context: int
    positions: Positions
    text: PlainText
    exemplar: Sequence[_Run | Slot] = ()
    several: Sequence[_Run | Slot] | None = None

    @classmethod
    def from_dict(cls, settings: Any, tokenizer: tokenizers.Tokenizer) -> Prompt:
        """Reads the settings of a `prompt.json`.

        Args:
            settings: The parsed JSON.
            tokenizer: The model's tokenizer, without truncation or padding.

        Raises:
            BundleError: The settings are malformed; the message says what.
        """
        try:
            template = [_part(part) for part in settings["template"]]
            slots = _slots(template)
            if slots.count("question") != 1 or "image" not in slots or "image" in slots[slots.index("question") :]:
                raise ValueError(f"the template's slots are {slots}; it needs images, then one question")
            if not {"exemplars", "name"}.isdisjoint(slots):
                raise ValueError(f"the template's slots are {slots}; exemplars have a template of their own")
            several, exemplar = _exemplars(settings, slots.count("image"))
            grid = (settings.get("image_positions") or {}).get("grid")
            positions = Positions(
                int(settings.get("position_dims", 1)),
                grid and (int(grid[0]), int(grid[1])),
                bool(settings.get("whole_picture", False)),
            )
            prompt = cls(
                template,
                {
                    name: {key: str(texts.get(key, "")) for key in ("instruction", "question", "answer")}
                    for name, texts in settings["modes"].items()
                },
                str(settings.get("lead", "")),
                [int(stop) for stop in settings["stop_ids"]],
                {str(letter): int(token) for letter, token in settings["letters"].items()},
                int(settings["image_tokens"]),
                int(settings["context"]),
                positions,
                _plain(tokenizer, settings),
                exemplar,
                several,
            )
            share, rest = divmod(prompt.image_tokens, slots.count("image"))
            if rest or share < 1 or not prompt.stop_ids or positions.dims not in (1, 3):
                raise ValueError("image_tokens, stop_ids or position_dims cannot be")
            if not prompt.image_tokens < prompt.context <= _LONGEST:
                raise ValueError(f"{prompt.image_tokens} image_tokens in a context of {prompt.context} cannot be")
            if positions.grid and (slots.count("image") > 1 or positions.grid[0] * positions.grid[1] != share):
                raise ValueError(f"a grid of {positions.grid} is not one image slot of {share} tokens")
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
            raise BundleError(f"mllm/prompt.json: malformed ({error!r}); export the model again") from error
        return prompt

    def of_several(self) -> Prompt:
        """The format of prompts with exemplars.

        Raises:
            InputError: The model has none.
        """
        if self.several is None:
            raise InputError(
                "exemplars need an MLLM that takes several pictures, with a form for them in mllm/prompt.json; export "
                "one of such a family, or export it again with this release, or rank without exemplars"
            )
        return replace(self, template=self.several)

    def head(self, mode: Mode) -> list[int]:
        """The ids before the picture, and before exemplars: constant in a mode."""
        return self._ids(self._fill(mode, ())[0])

    def opening(self, mode: Mode, exemplars: Sequence[str] = ()) -> list[int]:
        """The ids from the prompt's beginning to the picture's end.

        Args:
            mode: The mode.
            exemplars: The names beside exemplars, whose pictures precede the picture; none without `of_several`.
        """
        before, shown, _ = self._fill(mode, (), exemplars)
        if before and shown and isinstance(before[-1], str) and isinstance(shown[0], str):
            # Both are one text, and are tokenised as one.
            before, shown = [*before[:-1], before[-1] + shown[0]], shown[1:]
        return self._ids([*before, *shown])

    def picture(self, mode: Mode) -> list[int]:
        """The ids of the picture: `PICTURE` for each embedding, and the ids between its slots."""
        return self._ids(self._fill(mode, ())[1])

    def tail(self, mode: Mode, names: Sequence[str]) -> list[int]:
        """The ids after the picture, up to the model's answer.

        Raises:
            InputError: `choice` has more candidates than letters.
        """
        return self._ids(self._fill(mode, names)[2])

    def answers(self, mode: Mode, names: Sequence[str], answers: Sequence[str]) -> tuple[list[int], list[list[int]]]:
        """The tail, and each answer's tokens after it, the end token included.

        Prompt and answer are tokenised as one text. If the tokenizer merges the two at the seam, the merged token
        belongs to the answer, unless all answers share it.

        Args:
            mode: The mode.
            names: The candidates that the question shows.
            answers: One or more answers as the chat shows them, with cleaned names.

        Returns:
            The ids after the picture that all answers share, and each answer's remaining ids, at least the end token.
        """
        runs = self._fill(mode, names)[2]
        seam = ""
        if runs and isinstance(runs[-1], str):
            seam, runs = runs[-1], runs[:-1]
        plain, *whole = self.text([seam, *(f"{seam}{self.lead}{answer}" for answer in answers)])
        common = shared([plain, *whole], min(len(ids) for ids in (plain, *whole)))
        return self._ids(runs) + plain[:common], [[*ids[common:], self.stop_ids[0]] for ids in whole]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of generated tokens, without special tokens."""
        return str(self.text.tokenizer.decode(list(ids)))

    def check(self, tokens: int) -> None:
        """Checks that a prompt fits the context: head, picture, tail and answer.

        Raises:
            InputError: The model's context is shorter than the prompt.
        """
        if tokens > self.context:
            raise InputError(
                f"the prompt takes {tokens} tokens, but the model's context holds {self.context}; "
                "ask for fewer candidates (k) or shorten the names"
            )

    def _fill(
        self, mode: Mode, names: Sequence[str], exemplars: Sequence[str] = ()
    ) -> tuple[list[_Run], list[_Run], list[_Run]]:
        """The filled template before, in and after the pictures; neighbouring texts are joined in each.

        Raises:
            InputError: The model was exported without this mode, or there are more candidates than letters.
        """
        if mode == "choice" and len(names) > len(self.letters):
            raise InputError(
                f"choice has {len(self.letters)} letters for {len(names)} candidates; ask for fewer, or use likelihood"
            )
        if (texts := self.modes.get(mode)) is None:
            raise InputError(f"the bundle's MLLM has no mode {mode!r}; choose {', '.join(self.modes)}")
        # {k} first, so that a name that contains it is not changed
        question = texts["question"].replace("{k}", str(len(names))).replace("{candidates}", list_names(mode, names))
        slots = self.template.count(Slot("image"))
        filled: dict[str, _Run] = {
            "instruction": texts["instruction"],
            "image": [PICTURE] * (self.image_tokens // slots),
            "question": question,
        }
        pieces: list[tuple[_Run, bool]] = []  # and whether a picture begins or ends there
        for part in (*self.template, texts["answer"]):
            if part == Slot("exemplars"):
                pieces.append(("", True))
                for name in exemplars:
                    named = {**filled, "name": clean(name)}
                    pieces += [(named[one.name] if isinstance(one, Slot) else one, True) for one in self.exemplar]
            else:
                run = filled[part.name] if isinstance(part, Slot) else part
                pieces.append((run, part == Slot("image")))
        seen = [place for place, (_, picture) in enumerate(pieces) if picture]
        runs = [run for run, _ in pieces]
        return _joined(runs[: seen[0]]), _joined(runs[seen[0] : seen[-1] + 1]), _joined(runs[seen[-1] + 1 :])

    def _ids(self, runs: Sequence[_Run]) -> list[int]:
        ids: list[int] = []
        for run in runs:
            ids += self.text([run])[0] if isinstance(run, str) else run
        return ids


def _joined(runs: Sequence[_Run]) -> list[_Run]:
    """Without empty runs; neighbouring texts are one."""
    joined: list[_Run] = []
    for run in runs:
        if isinstance(run, str) and joined and isinstance(joined[-1], str):
            joined[-1] += run
        elif run:
            joined.append(run)
    return joined


def _plain(tokenizer: tokenizers.Tokenizer, settings: Any) -> PlainText:
    """The tokenizer of texts in which no name yields an end token, unless the prompt's own words do."""
    several = settings.get("exemplars") or {"template": [], "each": []}
    pieces = [*settings["template"], *several["template"], *several["each"]]
    words = [part for part in pieces if isinstance(part, str)]
    words += [str(text) for texts in settings["modes"].values() for text in texts.values()]
    "".join([*words, str(settings.get("lead", ""))]).encode()  # a lone surrogate cannot be tokenised
    spoken = {token for ids in PlainText(tokenizer)(words) for token in ids}
    return PlainText(tokenizer, {int(stop) for stop in settings["stop_ids"]} - spoken)


def _part(part: Any) -> _Run | Slot:
    if isinstance(part, str):
        return part
    if "ids" in part:
        return [int(token) for token in part["ids"]]
    if part["slot"] not in ("instruction", "exemplars", "image", "question", "name"):
        raise ValueError(f"unknown slot {part['slot']!r}")
    return Slot(part["slot"])


def _slots(pieces: Sequence[_Run | Slot]) -> list[str]:
    return [part.name for part in pieces if isinstance(part, Slot)]


def _exemplars(settings: Any, images: int) -> tuple[list[_Run | Slot] | None, list[_Run | Slot]]:
    """The template with a slot for exemplars, None without one, and the pieces of an exemplar."""
    if (found := settings.get("exemplars")) is None:
        return None, []
    template, exemplar = ([_part(part) for part in found[name]] for name in ("template", "each"))
    slots, own = _slots(template), _slots(exemplar)
    shown = ["image"] * images
    if slots != [*(["instruction"] if "instruction" in slots else []), "exemplars", *shown, "question"]:
        raise ValueError(f"the slots of the template with exemplars are {slots}")
    if own != ["name", *shown]:
        raise ValueError(f"the slots of an exemplar are {own}; it needs a name, then images")
    return template, exemplar
