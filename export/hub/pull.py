"""Makes a folder of a bundle that lies in a repository of a model hub."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from rar.runtime.bundle.copy import copy
from rar.runtime.bundle.files import fsync, make_folder
from rar.runtime.bundle.hub import fetch
from rar.runtime.bundle.manifest import MANIFEST, Bundle
from rar.runtime.bundle.unfinished import unfinished
from rar.runtime.errors import BundleError, InputError


def pull(repo: str, out: str | os.PathLike[str], revision: str | None = None) -> tuple[Bundle, str]:
    """Writes a bundle of a repository to a new folder, all of it or nothing.

    It is fetched into the hub's cache first, so a second try goes on where the first one was stopped.

    Args:
        repo: `user/name`.
        out: The new folder.
        revision: A commit of 40 hex digits, a branch or a tag; None for the branch `main`.

    Returns:
        The bundle there, and its commit.

    Raises:
        InputError: The folder is there already, or as `fetch`.
        BundleError: The folder cannot be written, or as `fetch`.
    """
    target = Path(os.path.abspath(out))
    if os.path.lexists(target) and (target.is_symlink() or not target.is_dir() or any(target.iterdir())):
        raise InputError(f"{target}: exists already; name a new folder")
    cached = fetch(repo, revision)
    make_folder(target.parent)
    try:
        with unfinished(target.parent, target.name) as folder:
            copy(Bundle.open(cached), folder, without=None)
            shutil.copyfile(
                cached / MANIFEST, folder / MANIFEST
            )  # byte for byte, so that its hash is the published one
            fsync(folder / MANIFEST)
            Bundle.open(folder)  # or it would stay, and could not be opened
            os.replace(folder, target)
        fsync(target.parent)
    except OSError as error:
        raise BundleError(f"{target}: cannot be written ({error}); name another folder") from error
    return Bundle.open(target), cached.name
