"""Folders of a bundle that a process is writing, and what is left of them when it is killed."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path, PurePath, PurePosixPath

from .lock import Lock, folder_lock, open_folder
from .manifest import MANIFEST, Component, exists, read_manifest

# Folders that `unfinished` makes: the component's name, and what `tempfile` puts behind it.
UNFINISHED = re.compile(r"\.[a-z][\w.-]*-[a-z0-9_]{8}", re.ASCII)


@contextmanager
def unfinished(root: Path, name: str) -> Iterator[Path]:
    """A folder in a bundle for files that are not finished. It is removed at the end, unless it was renamed.

    It is locked as long as the process lives, so that `stage` and `sweep` know what a killed process left.

    Args:
        root: The bundle.
        name: The component that is written; a slash in it becomes a hyphen.
    """
    with folder_lock(root):
        folder = Path(tempfile.mkdtemp(prefix=f".{name.replace('/', '-')}-", dir=root))
        lock = Lock(lambda: open_folder(folder))
        with suppress(OSError):  # a file system without locks
            lock.take(wait=False)
    try:
        yield folder
    finally:
        if lock.lies_at(folder):
            shutil.rmtree(folder, ignore_errors=True)
        lock.close()


def sweep(root: Path, name: str) -> None:
    """Deletes what a killed process left of a component: unfinished folders and files, and replaced folders.

    The caller makes sure that nobody else writes files of the component beside the manifest, such as its log.

    Args:
        root: The bundle.
        name: The component's name, without a slash.
    """
    left = re.compile(rf"\.{re.escape(name)}[-.].+|{re.escape(name)}(-\d+)?")
    with folder_lock(root):
        components = read_manifest(root)
        for path in root.iterdir():
            if not left.fullmatch(path.name) or is_live(PurePosixPath(path.name), components):
                continue
            if path.is_dir() and not path.is_symlink():
                _remove_unlocked(path)
            else:
                path.unlink(missing_ok=True)


def sweep_killed(root: Path, name: str) -> None:
    """Deletes what killed exports left: unfinished folders of any component, and folders of this one."""
    replaced = re.compile(rf"{re.escape(PurePosixPath(name).name)}(-\d+)?")
    parent = (root / name).parent
    with folder_lock(root):
        components = read_manifest(root) if exists(root) else {}
        for path in root.iterdir():
            if _is_manifest(path.name):  # only who holds this lock writes it
                path.unlink(missing_ok=True)
            elif UNFINISHED.fullmatch(path.name) and path.is_dir() and not path.is_symlink():
                _remove_unlocked(path)
        if not exists(root) or not parent.is_dir() or parent.is_symlink():
            return
        for path in parent.iterdir():
            live = is_live(path.relative_to(root), components)
            if replaced.fullmatch(path.name) and not live and path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)


def is_left(name: str) -> bool:
    """Whether a name is one that a killed export leaves: of an unfinished folder, or of a manifest half written."""
    return UNFINISHED.fullmatch(name) is not None or _is_manifest(name)


def _is_manifest(name: str) -> bool:
    return name.startswith(f".{MANIFEST}.")


def _remove_unlocked(folder: Path) -> None:
    """Deletes a folder unless a process holds its lock."""
    try:
        lock = Lock(lambda: open_folder(folder))
        lock.take(wait=False)
    except OSError:
        return
    shutil.rmtree(folder, ignore_errors=True)
    lock.close()


def is_live(folder: PurePath, components: Mapping[str, Component]) -> bool:
    """Whether a component has files in a folder of the bundle; the folder is relative to the bundle."""
    records = (record for component in components.values() for record in component.files.values())
    return any(PurePosixPath(record.path).is_relative_to(folder) for record in records)
