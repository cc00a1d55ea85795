"""Writes `prompt.json`, and checks that the runtime's ids are those of the model's own tokenizer."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any, cast

import tokenizers

from rar.runtime.errors import ExportError
from rar.runtime.rank.mllm.prompt import LETTERS, MODES, Mode, Prompt, list_names
from rar.runtime.rank.mllm.tree import PICTURE

from .model import Spoken

# Labels like those of data sets; none contains a token of a chat template.
LABELS = (
    "apple", "Granny Smith", "crème brûlée", "747-400", "Chevrolet Silverado 1500 Hybrid Crew Cab 2012",
    "black-footed albatross", "O'Neill", "oat milk (barista)", "3.5% fat yoghurt", "烤鸭", "pão de queijo", "C-130",
)  # fmt: skip


def prompt_settings(mllm: Spoken, modes: Mapping[str, Mapping[str, str]] | None = None) -> dict[str, Any]:
    """The content of `prompt.json`.

    Args:
        mllm: The model.
        modes: Texts of the modes a fine-tuned model was trained with; None for the defaults.

    Raises:
        ExportError: A letter is more than one token, or the modes are malformed.
    """
    texts = {str(mode): parts for mode, parts in MODES.items()} if modes is None else modes
    settings: dict[str, Any] = {
        "template": list(mllm.template),
        "lead": mllm.lead,
        "stop_ids": list(mllm.stop_ids),
        "letters": dict.fromkeys(LETTERS if "choice" in texts else "", 0),
        "image_tokens": mllm.image_tokens,
        "context": mllm.context,
        "position_dims": mllm.position_dims,
        "image_positions": dict(mllm.image_positions) if mllm.image_positions else None,
        "whole_picture": mllm.whole_picture,
        **({"exemplars": dict(mllm.exemplars)} if mllm.exemplars else {}),
        "modes": {mode: dict(parts) for mode, parts in texts.items()},
    }
    if "choice" in texts:
        prompt = read_prompt(settings, mllm.tokenizer)
        _, rests = prompt.answers("choice", LABELS[:5], list(LETTERS))
        # Each rest is the letter's tokens and the end; two letters of one length may still share a first token.
        tokens = {letter: rest[:-1] for letter, rest in zip(LETTERS, rests, strict=True)}
        if any(len(ids) != 1 for ids in tokens.values()):
            raise ExportError(
                f"the tokenizer writes letters as several tokens ({tokens['A']} for A), as choice cannot"
                "; choose another model"
            )
        settings["letters"] = {letter: ids[0] for letter, ids in tokens.items()}
    return settings


def read_prompt(settings: Mapping[str, Any], tokenizer: tokenizers.Tokenizer) -> Prompt:
    """The prompt as the runtime will read it; the tokenizer is copied, because its settings are changed."""
    return Prompt.from_dict(settings, tokenizers.Tokenizer.from_str(tokenizer.to_str()))


def compare_tokens(mllm: Spoken, prompt: Prompt, count: int = 20) -> dict[str, int]:
    """Compares the runtime's ids with the model's own tokenizer on whole prompts with harmless labels.

    Returns:
        The number of compared prompts; all are equal.

    Raises:
        ExportError: The ids of a prompt differ.
    """
    if mllm.reference_tokens is None:
        return {"equal": 0, "count": 0}
    chance = random.Random(0)  # noqa: S311  # test material, not a secret
    compared = 0
    for name, texts in prompt.modes.items():
        mode = cast(Mode, name)
        for _ in range(count):
            names = chance.sample(LABELS, chance.randint(2, 8))
            question = texts["question"].replace("{k}", str(len(names)))
            question = question.replace("{candidates}", list_names(mode, names))
            asked = [(prompt, names[:0])] if prompt.several is None else [(prompt, []), (prompt.of_several(), names)]
            for form, shown in asked:
                ids = [*form.opening(mode, shown), *form.tail(mode, names)]
                theirs = mllm.reference_tokens(texts["instruction"], question, texts["answer"], shown)
                if _squeeze(ids, PICTURE) != _squeeze(theirs, mllm.image_token):
                    raise ExportError(
                        f"the runtime's ids of a {mode} prompt with {len(shown)} exemplars are not those of the "
                        f"model's own tokenizer: {_squeeze(ids, PICTURE)} where it has "
                        f"{_squeeze(theirs, mllm.image_token)}; please report this model"
                    )
            compared += 1
    return {"equal": compared, "count": compared}


def _squeeze(ids: list[int], picture: int) -> list[int | None]:
    """Replaces each run of a picture's tokens by one None."""
    squeezed: list[int | None] = []
    for token in ids:
        if token != picture:
            squeezed.append(token)
        elif not squeezed or squeezed[-1] is not None:
            squeezed.append(None)
    return squeezed
