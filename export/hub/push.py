"""Puts a bundle into a repository of a model hub: its manifest and the files that it lists, and nothing else."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from rar.runtime.bundle.hub import check_repo, fetch_manifest, library, refusal
from rar.runtime.bundle.manifest import MANIFEST, Bundle, FileRecord, read_manifest
from rar.runtime.errors import BundleError, InputError, RarError
from rar.runtime.memory import log
from rar.runtime.memory.view import LOG


def check_whole(path: str | os.PathLike[str]) -> None:
    """Checks that the files which a manifest lists are the whole bundle: changes of a memory lie in a log beside them.

    Raises:
        BundleError: There is no bundle, or the log cannot be read.
        InputError: The log holds changes.
    """
    bundle = Bundle.open(path)
    if "memory" not in bundle.components:
        return
    tail = log.read(bundle.root / LOG, bundle.component("memory").fingerprint)
    if tail is not None and tail.contents:
        raise InputError(
            f"{bundle.root}: {LOG} holds {len(tail.contents)} changes of the memory that would not be pushed; fold "
            f"them in with `rar-export compact {bundle.root}`"
        )


def push(path: str | os.PathLike[str], repo: str, *, private: bool = False, message: str) -> str:
    """Uploads a bundle in one commit, which also deletes what the bundle before it listed and this one does not.

    Args:
        path: The bundle.
        repo: `user/name`; made if there is none.
        private: Makes it private.
        message: The commit's message.

    Returns:
        The commit.

    Raises:
        InputError: The name is malformed, the hub does not allow it, the repository is public and should be private, or
            the memory has changes that are not in its files.
        BundleError: The bundle is altered or was changed meanwhile, or the hub cannot be reached.
    """
    check_repo(repo)
    hub = library()
    check_whole(path)
    manifest = (Path(path) / MANIFEST).read_bytes()  # before the bundle, so that no change in between is missed
    bundle = Bundle.open(path)
    places = {
        record.path: (bundle.file(name, file), record)
        for name, component in bundle.components.items()
        for file, record in component.files.items()
    }
    try:
        api = hub.HfApi(library_name="rar-runtime")
        api.create_repo(repo, private=private or None, exist_ok=True)
        if private and not api.repo_info(repo).private:
            raise InputError(f"{repo}: is public; make it private on its page, or push to a new repository")
        operations = [_addition(hub, place, record) for place, record in places.values()]
        operations += [hub.CommitOperationDelete(path) for path in sorted(_former(hub, api, repo) - set(places))]
        operations.append(hub.CommitOperationAdd(MANIFEST, manifest))
        if (bundle.root / MANIFEST).read_bytes() != manifest:
            raise BundleError(f"{bundle.root}: was changed while it was pushed; push it again")
        return str(api.create_commit(repo, operations, commit_message=message).oid)
    except RarError:
        raise
    except Exception as error:  # of huggingface_hub, or of its HTTP client, which changed twice
        raise refusal(hub, repo, error) from error


def _addition(hub: Any, place: Path, record: FileRecord) -> Any:
    """A file to upload, which is the one that was listed when it is read for that."""
    addition = hub.CommitOperationAdd(record.path, str(place))
    if addition.upload_info.sha256.hex() != record.sha256:
        raise BundleError(f"{place}: was changed while it was pushed; push it again")
    return addition


def _former(hub: Any, api: Any, repo: str) -> set[str]:
    """The files there that the repository's bundle lists."""
    there = set(api.list_repo_files(repo))
    if MANIFEST not in there:
        return set()
    manifest = fetch_manifest(hub, repo)
    try:
        components = read_manifest(manifest.parent)
    except BundleError:  # it is replaced, whatever it was
        return set()
    return there & {record.path for component in components.values() for record in component.files.values()}
