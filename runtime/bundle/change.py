"""Changes a bundle: components are written beside the live ones and come alive when the manifest is replaced.

So a reader or a crash sees the old bundle or the new one. All changes of a manifest go through `changing`: the bundle
is locked, the manifest read, compared with what the change was made for, and replaced.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from ..errors import BundleError
from .files import fsync, make_folder, sha256, write_json
from .hub import check_own
from .lock import folder_lock
from .manifest import MANIFEST, Bundle, Component, FileRecord, exists, read_manifest, to_json
from .unfinished import is_left, is_live, sweep_killed, unfinished

_ABSENT = object()


@dataclass
class Staging:
    """A component being written; `info` is stored beside its files when it is committed."""

    folder: Path
    info: dict[str, Any] = field(default_factory=dict)


@contextmanager
def changing(root: Path) -> Iterator[dict[str, Component]]:
    """The one way to change a manifest: what the block leaves in the dictionary replaces it, if that differs.

    Other processes and threads wait meanwhile, so the block takes milliseconds.

    Raises:
        BundleError: The manifest cannot be read, or the bundle lies in a hub's cache.
    """
    check_own(root)
    with folder_lock(root):
        components = read_manifest(root) if exists(root) else {}
        before = dict(components)
        yield components
        if components != before:
            write_json(root / MANIFEST, to_json(components))


@contextmanager
def stage(
    root: str | os.PathLike[str],
    name: str,
    *,
    onto: Component | None = None,
    check: Callable[[], object] = lambda: None,
) -> Iterator[Staging]:
    """Writes one component of a new or existing bundle, all of it or nothing.

    Args:
        root: The bundle's folder; made if absent.
        name: The component's name, also the name of its folder (`engines/...` lies a level deeper). An existing
            component of that name is replaced.
        onto: The live component that the new one continues. Then it must still be live at the end, and entries of its
            info that were set meanwhile are kept.
        check: Called when no other process can change the bundle any more, just before the component becomes live. It
            raises if the component must not.

    Yields:
        The staging folder to write the files into.

    Raises:
        BundleError: The folder is not empty and not a bundle, its manifest cannot be read, or it lies in a hub's cache;
            or `onto` was replaced meanwhile.

    Example:
        >>> with stage("bundle", "memory") as staging:
        ...     np.save(staging.folder / "vectors.npy", vectors)
        ...     staging.info["dim"] = 512
    """
    root = Path(root)
    check_own(root)
    if root.exists() and not root.is_dir():
        raise BundleError(f"{root}: is a file; name a folder for the bundle")
    if root.is_dir() and not exists(root) and not all(is_left(path.name) for path in root.iterdir()):
        raise BundleError(f"{root}: is not empty and holds no {MANIFEST}; name a new folder or a bundle")
    made = not root.exists()
    if not made:
        sweep_killed(root, name)  # errors in the manifest are raised before anything is written
    make_folder(root)
    try:
        with unfinished(root, name) as folder:
            staging = Staging(folder)
            yield staging
            records = flush(folder)
            _commit(root, name, staging, records, onto, check)
    except BaseException:
        if made:
            with suppress(OSError):  # another component was written meanwhile
                root.rmdir()
        raise
    if made:
        fsync(root.parent)


def flush(folder: Path) -> dict[str, FileRecord]:
    """Flushes a folder with all that is in it to the disk; the records of its files, their paths relative to it."""
    records = {}
    for path in sorted(folder.rglob("*")):
        fsync(path)
        if path.is_file():
            inner = path.relative_to(folder).as_posix()
            records[inner] = FileRecord(inner, path.stat().st_size, sha256(path))
    folder.chmod(0o755)
    fsync(folder)
    return records


def _commit(
    root: Path,
    name: str,
    staging: Staging,
    records: dict[str, FileRecord],
    onto: Component | None,
    check: Callable[[], object],
) -> None:
    """Renames a finished folder, names it in the manifest, and deletes what it replaces."""
    placed: Path | None = None
    try:
        with changing(root) as components:
            live = components.get(name)
            check()
            info = staging.info if onto is None else _onto(root, name, onto, live, staging.info)
            if live is not None and (root / f"{name}.log").exists():
                _tell_apart(staging.folder, records, live)
            if not exists(root):
                # Or a process that is killed before the next one would leave a folder that is no bundle.
                write_json(root / MANIFEST, to_json({}))
            target = _free_folder(root, name)
            _make_parent(root, target.parent)
            placed = target
            os.replace(staging.folder, target)
            fsync(target.parent)
            fsync(root)
            place = target.relative_to(root)
            files = {inner: replace(one, path=(place / inner).as_posix()) for inner, one in records.items()}
            components[name] = Component(files, info)
    except BaseException:
        if placed is not None:
            _take_back(root, placed)
        raise
    with folder_lock(root):
        components = read_manifest(root)
        for old in _folders(live) if live is not None else ():
            # A stranger's link on the way would have another folder deleted.
            if not is_live(old, components) and (root / old).resolve() == root.resolve() / old:
                shutil.rmtree(root / old, ignore_errors=True)


def _take_back(root: Path, folder: Path) -> None:
    """Deletes a folder that did not become live."""
    with folder_lock(root):
        components = read_manifest(root)
        if is_live(folder.relative_to(root), components):  # the process was stopped after the last step
            return
        shutil.rmtree(folder, ignore_errors=True)
        if folder.parent != root:
            with suppress(OSError):  # it holds others
                folder.parent.rmdir()
        if not components:
            (root / MANIFEST).unlink()


def _onto(root: Path, name: str, onto: Component, live: Component | None, info: Mapping[str, Any]) -> dict[str, Any]:
    """The live component's info with what the new one changes of it."""
    if live is None or live.files != onto.files:
        raise BundleError(f"{root}: {name} was replaced meanwhile by another process; nothing was changed")
    changed = {key: value for key, value in info.items() if onto.info.get(key, _ABSENT) != value}
    return {**live.info, **changed}


def _tell_apart(folder: Path, records: dict[str, FileRecord], live: Component) -> None:
    """Makes a component's fingerprint differ from the live one's, to which a log of changes belongs.

    Otherwise a process that is killed before it deletes the log would leave the new component with the old changes.
    """
    if Component(records, {}).fingerprint == live.fingerprint:
        path = folder / "again"
        path.write_text(secrets.token_hex(16))
        fsync(path)
        fsync(folder)
        records[path.name] = FileRecord(path.name, path.stat().st_size, sha256(path))


def annotate(root: str | os.PathLike[str], name: str, *, made_for: Component | None = None, **info: Any) -> None:
    """Sets entries in a component's info; its files stay as they are.

    Args:
        root: The bundle.
        name: The component.
        made_for: The component that the entries were made for; what was built anew since does not get them.
        **info: The entries.

    Raises:
        BundleError: There is no such component, it was built anew, or the manifest cannot be written.
    """
    root = Path(root)
    Bundle.open(root).component(name)
    try:
        with changing(root) as components:
            live = components.get(name)
            if live is None or (made_for is not None and live.info.get("built") != made_for.info.get("built")):
                raise BundleError(f"{root}: {name} was built anew meanwhile, so this is not for it; do it again")
            components[name] = replace(live, info={**live.info, **info})
    except OSError as error:
        raise BundleError(f"{root}: cannot be written ({error.strerror}); it is as it was") from error


def _make_parent(root: Path, parent: Path) -> None:
    """Makes the folder that a component's folder lies in, if it is not the bundle's own."""
    if parent != root and parent.is_symlink():  # a stranger's link would have the component written elsewhere
        raise BundleError(f"{parent}: is a link; put a folder there")
    parent.mkdir(exist_ok=True)


def _folders(component: Component) -> set[PurePosixPath]:
    """The folders of the bundle, relative to it, that hold a component's files under their own names."""
    folders = set()
    for name, record in component.files.items():
        path, inner = PurePosixPath(record.path), PurePosixPath(name)
        if path.parts[-len(inner.parts) :] == inner.parts and len(path.parts) > len(inner.parts):
            folders.add(PurePosixPath(*path.parts[: -len(inner.parts)]))
    return folders


def _free_folder(root: Path, name: str) -> Path:
    """`name`, or `name-2`, `name-3`, ... where the live component, or anything else, still occupies it."""
    folder, number = root / name, 2
    while os.path.lexists(folder):
        folder, number = root / f"{name}-{number}", number + 1
    return folder
