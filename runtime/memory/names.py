"""One rule for the names of classes and tags, on every way into a memory: build, add, relabel, tags, descriptions.

A name is Unicode text, not blank, of at most 4,096 characters, and composed (NFC): `café` written as `e` and an accent
is the same class as with the one letter.
"""

from __future__ import annotations

import unicodedata

MAX_NAME = 4096


def composed(name: str) -> str:
    """The name in Unicode's composed form, NFC."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def class_name(name: object, what: str = "class name") -> str:
    """A new name as the memory keeps it, composed.

    Args:
        name: As it was given.
        what: What it is called in messages.

    Raises:
        ValueError: It cannot be a name.
    """
    return check_name(composed(name) if isinstance(name, str) else name, what)


def check_name(name: object, what: str = "class name") -> str:
    """Checks that a name can stand in a memory, and in its log.

    Raises:
        ValueError: It is not a text, blank, too long, or cannot be written as UTF-8.
    """
    if not isinstance(name, str):
        raise ValueError(f"the {what} {name!r} is no text")
    if not name.strip():
        raise ValueError(f"a {what} is blank")
    if len(name) > MAX_NAME:
        raise ValueError(f"the {what} {name[:40]!r}… has {len(name)} characters; {MAX_NAME} are the most")
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"the {what} {name!r} is not Unicode text; rename it") from error
    return name
