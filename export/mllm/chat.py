"""A model's tokenizer and chat template from its files alone, without transformers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers

from rar.runtime.bundle.regular import read_regular
from rar.runtime.errors import ExportError

from ..encoder.folder import read_json, read_tokenizer

_LARGEST_TEMPLATE = 1 << 20
# A template is a stranger's program. More than any chat; what it would multiply up to this never is one string.
_LONGEST_CHAT = 1 << 20


class FileTokenizer:
    """The part of transformers' fast tokenizers that `template.resolve` uses.

    Args:
        folder: Holds `tokenizer.json`, `tokenizer_config.json` and, in a file of its own or in that, a chat template.

    Attributes:
        backend_tokenizer: Without truncation and padding.
        chat_template: None if the folder has none.
        bos_token: The token that begins texts, if the folder names one.
        eos_token: The token that ends them, if it does.

    Raises:
        ExportError: A file is missing, too large or of another form.
    """

    is_fast = True

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.backend_tokenizer = read_tokenizer(folder / "tokenizer.json")
        self.backend_tokenizer.no_truncation()
        self.backend_tokenizer.no_padding()
        settings = read_json(folder / "tokenizer_config.json")
        # A token that is null is not defined, as in transformers: a template would write None.
        named = {name: _content(value) for name, value in settings.items() if name.endswith("_token")}
        self._names = {name: token for name, token in named.items() if token is not None}
        self.bos_token, self.eos_token = self._names.get("bos_token"), self._names.get("eos_token")
        self.chat_template = _template(folder, settings)

    @property
    def added_tokens_decoder(self) -> Mapping[int, tokenizers.AddedToken]:
        """The tokens that are found before a text is cut, by their ids."""
        return dict(self.backend_tokenizer.get_added_tokens_decoder())

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        """A text's `input_ids`."""
        return {"input_ids": list(self.backend_tokenizer.encode(text, add_special_tokens=add_special_tokens).ids)}

    def apply_chat_template(
        self, messages: Sequence[Mapping[str, Any]], tokenize: bool = False, add_generation_prompt: bool = False
    ) -> str:
        """Renders the chat in the environment that transformers has for it: no module, no attribute of Python's own.

        Raises:
            ExportError: jinja2 is not installed, or the chat is longer than any.
            Exception: Whatever the template raises.
        """
        if tokenize:
            raise ValueError("renders text")
        environment = _environment()
        values = {**self._names, "tools": None, "documents": None}
        template = environment.from_string(self.chat_template)
        chunks, length = [], 0
        for chunk in template.generate(messages=messages, add_generation_prompt=add_generation_prompt, **values):
            length += len(chunk)
            if length > _LONGEST_CHAT:
                raise ExportError(f"{self._folder}: its chat template never ends; give the model its own template")
            chunks.append(chunk)
        return "".join(chunks)


def _environment() -> Any:
    try:
        from jinja2 import TemplateError
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ImportError as error:
        raise ExportError(f"a chat template needs jinja2 ({error}); install it: pip install jinja2") from error

    class Environment(ImmutableSandboxedEnvironment):
        """Without the short ways to a number or a text of any size; longer ones are left."""

        intercepted_binops = frozenset(["*", "**"])

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            if operator == "**" or not all(isinstance(value, (int, float)) for value in (left, right)):
                raise TemplateError("multiplies texts or raises to a power")
            return super().call_binop(context, operator, left, right)

    def stop(message: str) -> None:
        raise TemplateError(message)

    def as_json(value: Any, ensure_ascii: bool = False, indent: int | None = None) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)

    environment = Environment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
    environment.filters["tojson"] = as_json
    # A date would be that of the export, for good.
    environment.globals.update(raise_exception=stop)
    return environment


def _template(folder: Path, settings: Mapping[str, Any]) -> str | None:
    """The template: a file of its own goes before the tokenizer's settings, and that before an old processor's file."""
    path = folder / "chat_template.jinja"
    if path.exists():
        try:
            return read_regular(path, _LARGEST_TEMPLATE, links=True).decode()
        except (OSError, UnicodeDecodeError) as error:
            raise ExportError(f"{path}: cannot be read ({error}); download it again") from error
    found = settings.get("chat_template")
    if found is None and (folder / "chat_template.json").exists():
        found = read_json(folder / "chat_template.json").get("chat_template")
    if isinstance(found, list):  # several by name
        named = [one.get("template") for one in found if isinstance(one, dict) and one.get("name") == "default"]
        found = named[0] if named else None
    if found is not None and not isinstance(found, str):
        raise ExportError(f"{folder}: its chat template is no text; download tokenizer_config.json again")
    return found


def _content(token: Any) -> str | None:
    """A token's text; it is written as such or as an object."""
    token = token.get("content") if isinstance(token, dict) else token
    return token if isinstance(token, str) else None
