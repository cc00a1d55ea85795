"""Finds the pictures in folders, and counts what is none."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import InputError
from .formats import suffixes, unread

# Folders that programs leave behind: previews, copies and waste. Names that begin with a dot are hidden too.
_HIDDEN = frozenset(
    {"__macosx", "@eadir", "@recycle", "#recycle", "#snapshot", "$recycle.bin", "system volume information"}
)
_HIDDEN_ONES = "hidden"
_NOTHING = "links to nothing, or no files"


@dataclass(frozen=True)
class Found:
    """What a folder holds.

    Attributes:
        images: The picture files, sorted.
        passed: How many files and hidden folders were passed over, by kind: a suffix, or `hidden`.
    """

    images: list[Path]
    passed: Counter[str] = field(default_factory=Counter)

    def told(self) -> str:
        """What was passed over, in words; empty if there is nothing."""
        return told(self.passed)


def told(passed: Counter[str]) -> str:
    """What was passed over, in words; empty if there is nothing."""
    return ", ".join(f"{count} {kind}" for kind, count in sorted(passed.items()))


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is not the user's own: `.cache`, `._cat.jpg`, `@eaDir`, `__MACOSX`."""
    return name.startswith(".") or name.lower() in _HIDDEN


def look(folder: Path) -> Found:
    """The picture files under a folder, by suffix; those of linked folders too.

    Hidden files and folders are passed over. A folder that several links lead to is taken once.

    Raises:
        InputError: The folder is missing.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; check the path")
    found = Found([])
    seen: set[tuple[int, int]] = set()
    for root, folders, files in os.walk(folder, followlinks=True):
        status = os.stat(root)
        if (status.st_dev, status.st_ino) in seen:  # a link to a folder above it would go on for ever
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        found.passed[_HIDDEN_ONES] += sum(map(is_hidden, [*folders, *files]))
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        for path in (Path(root, name) for name in files if not is_hidden(name)):
            if path.suffix.lower() not in suffixes():
                found.passed[unread(path)] += 1
            elif not path.is_file():
                found.passed[_NOTHING] += 1
            else:
                found.images.append(path)
    found.images.sort()
    return Found(found.images, +found.passed)


def find(folder: Path) -> Found:
    """As `look`, for a folder that must hold a picture.

    Raises:
        InputError: The folder is missing or holds no picture.
    """
    found = look(folder)
    if not found.images:
        beside = f"; passed over: {found.told()}" if found.passed else ""
        raise InputError(
            f"{folder}: holds no picture ({', '.join(sorted(suffixes()))}){beside}"
            "; name a folder that does, or its pictures"
        )
    return found


def find_images(folder: Path) -> list[Path]:
    """The pictures that `find` finds.

    Raises:
        InputError: As `find`.
    """
    return find(folder).images
