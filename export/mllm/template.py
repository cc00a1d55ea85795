"""A model's chat template, rendered once with markers and cut into the pieces of `prompt.json`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rar.runtime.errors import ExportError

from .model import Piece, Tokens

_MARKERS = {name: f"RAR{name}RAR" for name in ("instruction", "exemplars", "name", "question", "image")}
_ANSWER = "RARanswerRAR"
# What stands before an exemplar's picture and behind it.
_EXEMPLAR = (f"A photo of {_MARKERS['name']}: ", "\n")


@dataclass(frozen=True)
class Template:
    """A resolved chat template.

    Attributes:
        pieces: Ids, plain text and slots in the model's own order.
        lead: The text between the prompt and an answer in the model's chat, such as the space after `Assistant:`.
        tokens: See `Tokens`.
        exemplars: `template`, the pieces with a slot for exemplars, and `each`, those of an exemplar; None if the chat
            template does not show pictures between texts.
    """

    pieces: Sequence[Piece]
    lead: str
    tokens: Tokens
    exemplars: Mapping[str, Sequence[Piece]] | None = None


def resolve(
    tokenizer: Any, placeholder: str, picture: Sequence[str], token: str | None = None, *, inline: bool = False
) -> Template:
    """Resolves a tokenizer's chat template, or a plain layout if it has no template.

    Args:
        tokenizer: A fast tokenizer of transformers.
        placeholder: The template's text for a picture.
        picture: The processor's replacement for it, with `token` for each run of embeddings.
        token: The token that stands for embeddings; None if it is the placeholder.
        inline: Whether pictures may stand within a text where the chat template shows them before all texts.

    Raises:
        ExportError: The template cannot be rendered, or loses or repeats a part.
    """
    token = token or placeholder
    rendered, answered = _render(tokenizer, placeholder)
    if any(rendered.count(mark) != 1 for mark in (placeholder, _MARKERS["instruction"], _MARKERS["question"])):
        raise ExportError(
            f"the chat template does not show instruction, picture and question once: {rendered!r}"
            "; choose another model"
        )
    shown = "".join(picture).replace(token, _MARKERS["image"])
    rendered = rendered.replace(placeholder, shown)
    several = _several(tokenizer, placeholder, inline)
    bos = tokenizer.bos_token
    added = [] if bos and rendered.startswith(bos) else _prefix(tokenizer)

    def tokens(instruction: str, question: str, answer: str, names: Sequence[str] = ()) -> list[int]:
        text, left = rendered, iter(names)
        if names:
            if several is None:
                raise ValueError("the chat template has no form for exemplars")
            whole, each = (part.replace(placeholder, shown) for part in several)
            text = whole.replace(_MARKERS["exemplars"], each * len(names))
        # One pass, so that text that was filled in is never taken for a marker.
        values = {"instruction": instruction, "question": question, "image": token}
        pattern = "|".join(f"(?P<{name}>{mark})" for name, mark in _MARKERS.items())
        text = re.sub(
            pattern, lambda match: values[name] if (name := str(match.lastgroup)) in values else next(left), text
        )
        return [*added, *tokenizer(text + answer, add_special_tokens=False)["input_ids"]]

    def pieces(text: str) -> list[Piece]:
        space = [" "] if _begins_with_space(tokenizer, text) else []
        return _merge([{"ids": added}, *space, *_cut(tokenizer, text)])

    exemplars = None
    if several is not None:
        whole, each = (part.replace(placeholder, shown) for part in several)
        exemplars = {"template": pieces(whole), "each": _merge(_cut(tokenizer, each))}
    return Template(pieces(rendered), _lead(rendered, answered), tokens, exemplars)


def plain_tokenizer(tokenizer: Any) -> Any:
    """The tokenizer as a `tokenizers` object that encodes a part of a prompt exactly as within the whole.

    Sentencepiece's dummy prefix is removed if it belongs only to the beginning of a text; `resolve` writes it into the
    first piece.

    Raises:
        ExportError: The tokenizer has no `tokenizers` form.
    """
    import tokenizers

    if not getattr(tokenizer, "is_fast", False):
        raise ExportError(
            f"{type(tokenizer).__name__} has no tokenizer.json form; choose a model with a fast tokenizer"
        )
    settings = json.loads(tokenizer.backend_tokenizer.to_str())
    for part in _metaspaces(settings["pre_tokenizer"]):
        if part["prepend_scheme"] == "first":
            part["prepend_scheme"] = "never"
    plain = tokenizers.Tokenizer.from_str(json.dumps(settings))
    plain.no_truncation()
    plain.no_padding()
    return plain


def _render(tokenizer: Any, placeholder: str) -> tuple[str, str]:
    """The prompt with markers, and the same prompt followed by an answer of the model."""
    instruction, question = _MARKERS["instruction"], _MARKERS["question"]
    if not tokenizer.chat_template:
        prompt = f"{instruction}\n{placeholder}\n{question}\nAnswer:"
        return prompt, f"{prompt} {_ANSWER}"
    parts = [{"type": "text", "text": instruction}, {"type": "image"}, {"type": "text", "text": question}]
    problem: Exception | None = None
    # Templates of multimodal processors take parts; those of plain language models a string.
    for content, answer in (
        (parts, [{"type": "text", "text": _ANSWER}]),
        (f"{instruction}\n{placeholder}\n{question}", _ANSWER),
    ):
        asked = [{"role": "user", "content": content}]
        try:
            prompt = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
            answered = tokenizer.apply_chat_template([*asked, {"role": "assistant", "content": answer}], tokenize=False)
        except ExportError:
            raise
        except Exception as error:  # a template is a program and may raise anything
            problem = error
            continue
        if instruction in prompt and placeholder in prompt and question in prompt and question in answered:
            return prompt, answered
    raise ExportError(f"the chat template shows no picture beside a text ({problem}); give the model its own template")


def _several(tokenizer: Any, placeholder: str, inline: bool) -> tuple[str, str] | None:
    """The prompt with a marker where exemplars go, and an exemplar; None if the template has no such form."""
    if not tokenizer.chat_template:
        return None
    mark, instruction, question = (_MARKERS[name] for name in ("exemplars", "instruction", "question"))
    before, behind = _EXEMPLAR
    each = [before, None, behind]

    def rendered(*parts: str | None) -> str:
        """The chat of these texts; None is a picture."""
        content = [{"type": "image"} if part is None else {"type": "text", "text": part} for part in parts]
        asked = [{"role": "user", "content": content}]
        return str(tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True))

    try:
        if inline:
            whole, one, two = rendered(f"{instruction}\n{mark}{placeholder}\n{question}"), "", ""
        else:
            whole, one, two = (
                rendered(instruction, *between, None, question) for between in ([mark], each, [*each, *each])
            )
    except ExportError:
        raise
    except Exception:  # a template is a program and may raise anything
        return None
    if any(whole.count(once) != 1 for once in (mark, placeholder, instruction, question)):
        return None
    if inline:
        return whole, f"{before}{placeholder}{behind}"
    start, end = whole.split(mark)
    exemplar = one[len(start) : len(one) - len(end)]
    if one != start + exemplar + end or two != start + 2 * exemplar + end:
        return None
    found = exemplar.count(_MARKERS["name"]), exemplar.count(placeholder)
    return (whole, exemplar) if found == (1, 1) else None


def _lead(prompt: str, answered: str) -> str:
    # Only one of the two contains the expanded picture; the relevant text follows the question.
    question = _MARKERS["question"]
    tail, full = prompt.split(question)[1], answered.split(question)[1]
    if full.startswith(tail) and _ANSWER in full:
        return full[len(tail) :].split(_ANSWER)[0]
    return "" if not tail or tail[-1].isspace() else " "


def _prefix(tokenizer: Any) -> list[int]:
    """The tokenizer's prefix of every text: `<s>` or nothing."""
    with_special, without = (tokenizer("a", add_special_tokens=special)["input_ids"] for special in (True, False))
    for start in range(len(with_special)):
        if with_special[start : start + len(without)] == without:
            return list(with_special[:start])
    return []


def _metaspaces(pre_tokenizer: Any) -> list[dict[str, Any]]:
    parts = (pre_tokenizer or {}).get("pretokenizers", [pre_tokenizer])
    return [part for part in parts if part and part["type"] == "Metaspace"]


def _begins_with_space(tokenizer: Any, rendered: str) -> bool:
    settings = json.loads(tokenizer.backend_tokenizer.to_str())
    first = any(part["prepend_scheme"] == "first" for part in _metaspaces(settings["pre_tokenizer"]))
    special = any(rendered.startswith(token.content) for token in tokenizer.added_tokens_decoder.values())
    return first and not special and not rendered.startswith(" ")


def _cut(tokenizer: Any, rendered: str) -> list[Piece]:
    """Added tokens as ids, markers as slots, all else as text."""
    added = {token.content: (number, token) for number, token in tokenizer.added_tokens_decoder.items()}
    # The longest first, as the tokenizer itself matches them.
    names = sorted([*added, *_MARKERS.values()], key=len, reverse=True)
    pieces: list[Piece] = []
    strip = False
    for part in re.split(f"({'|'.join(map(re.escape, names))})", rendered):
        slot = next((name for name, mark in _MARKERS.items() if mark == part), None)
        if slot is not None:
            # The picture's own token may take the spaces beside it, like any other.
            pieces.append({"slot": slot})
            strip = False
        elif part in added:
            number, token = added[part]
            if token.lstrip and pieces and isinstance(pieces[-1], str):
                pieces[-1] = pieces[-1].rstrip()
            pieces.append({"ids": [number]})
            strip = token.rstrip
        else:
            pieces.append(part.lstrip() if strip else part)
            strip = False
    return pieces


def _merge(pieces: Sequence[Piece]) -> list[Piece]:
    """Joins neighbouring ids and neighbouring texts; drops empty pieces."""
    merged: list[Piece] = []
    for piece in pieces:
        last = merged[-1] if merged else None
        if isinstance(piece, str) and isinstance(last, str):
            merged[-1] = last + piece
        elif isinstance(piece, dict) and isinstance(last, dict) and "ids" in piece and "ids" in last:
            last["ids"] = [*last["ids"], *piece["ids"]]
        elif piece and piece != {"ids": []}:
            merged.append(dict(piece) if isinstance(piece, dict) else piece)
    return merged
