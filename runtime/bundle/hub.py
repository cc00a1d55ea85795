"""Bundles in a repository of a model hub, by huggingface_hub and in its cache. Nothing of a repository is run.

`bundle.json` comes first, then the files that it lists and no others. The cache holds one folder a commit, whose files
are links to blobs beside it, so all of them are hashed when they are opened (`manifest.py`). What was published stays
there as it is: a bundle is changed in a folder of one's own.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..errors import BundleError, InputError, RarError
from .files import sha256
from .manifest import LARGEST_MANIFEST, MANIFEST, FileRecord, NewerFormatError, read_manifest

_LOG = logging.getLogger("rar")

# As the hub takes them: 96 letters, digits, `-`, `_` and `.` each, no `--`, no `..`, no `.git` at the end.
_REPO = re.compile(r"\w([\w.-]{0,94}\w)?/\w([\w.-]{0,94}\w)?", re.ASCII)
# The cache has a file of this name for each branch and tag: no step upwards, nothing absolute.
_REVISION = re.compile(r"(?!.*\.\.)[\w-][\w.+@=-]*(/[\w-][\w.+@=-]*)*")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_BRANCH = "main"
# A repository's folder in the cache, and the one below it that has a folder a commit.
_CACHED, _COMMITS = "models--", "snapshots"


def library() -> Any:
    """The package huggingface_hub, imported when a hub is asked and not before; typed loosely, for 0.36 to 2.

    Raises:
        InputError: It is not installed.
    """
    try:
        import huggingface_hub
        import huggingface_hub.errors
    except ImportError as error:
        raise InputError(
            f"a hub is asked through huggingface_hub ({error}); install the extra: pip install 'rar-runtime[hub]'"
        ) from error
    return huggingface_hub


def check_repo(repo: str) -> None:
    """Checks the name of a repository.

    Raises:
        InputError: It is none, such as a path.
    """
    if not isinstance(repo, str) or not _REPO.fullmatch(repo) or "--" in repo or ".." in repo or repo.endswith(".git"):
        raise InputError(
            f"{repo!r}: is no repository of a hub; give user/name, or open a folder with Recognizer.open and "
            "rar-recognize"
        )


def fetch(repo: str, revision: str | None = None) -> Path:
    """Brings a bundle into the hub's cache, or finds it there.

    With a commit that is in the cache nothing is asked. With a branch or a tag the hub is asked for its commit; where
    it cannot be reached, or does not answer whoever asks, the commit that the cache knows by that name is taken.

    Args:
        repo: `user/name`.
        revision: A commit of 40 hex digits, a branch or a tag; None for the branch `main`.

    Returns:
        The bundle's folder. Its name is the commit.

    Raises:
        InputError: The repository or the revision is unknown or malformed, or huggingface_hub is not installed.
        BundleError: There is no bundle, it lists a path that leads out or is altered; or the hub cannot be reached and
            the cache has not all files.
    """
    check_repo(repo)
    asked = _BRANCH if revision is None else revision
    if not isinstance(asked, str) or not _REVISION.fullmatch(asked):
        raise InputError(f"revision={asked!r}: is no commit, branch or tag; give 40 hex digits or a name")
    hub = library()
    manifest = fetch_manifest(hub, repo, asked)
    root, commit = manifest.parent, manifest.parent.name
    if not _COMMIT.fullmatch(commit) or (_COMMIT.fullmatch(asked) and commit != asked):
        raise BundleError(f"{repo}: the hub gave commit {commit[:80]!r} for {asked}; check what HF_ENDPOINT names")
    try:
        components = read_manifest(root)
    except NewerFormatError:  # nothing is wrong with it
        raise
    except BundleError:
        with suppress(OSError):  # a cache that is only read
            _drop(manifest)  # or the next try would find it in the cache
        raise
    for component in components.values():
        for record in component.files.values():
            _bring(hub, repo, root, record)
    if commit != asked:
        _LOG.info("%s: %s is commit %s; revision=%r pins it", repo, asked, commit, commit)
    return root


def fetch_manifest(hub: Any, repo: str, revision: str = _BRANCH) -> Path:
    """Brings a repository's manifest into the cache, unless it is larger than any may be.

    Args:
        hub: huggingface_hub.
        repo: `user/name`.
        revision: A commit, a branch or a tag.

    Returns:
        Its path there; the folder's name is the commit.

    Raises:
        InputError, BundleError: As `fetch`.
    """

    def check(size: int) -> None:
        if size > LARGEST_MANIFEST:
            raise BundleError(
                f"{repo}: {MANIFEST} has {size} bytes at {revision}, and may have {LARGEST_MANIFEST}; do not use this "
                "bundle"
            )

    return _download(hub, repo, MANIFEST, revision, check)


def is_cached(root: Path) -> bool:
    """Whether a bundle lies in a hub's cache, which holds what was published."""
    commits = Path(os.path.realpath(root)).parent
    return commits.name == _COMMITS and commits.parent.name.startswith(_CACHED)


def check_own(root: Path) -> None:
    """Checks that a bundle may be changed: what lies in a hub's cache is what was published, and stays that.

    Otherwise the same commit would be two bundles, and changes would be gone with the branch's next commit.

    Raises:
        BundleError: It lies in a hub's cache.
    """
    if is_cached(root):
        repo = Path(os.path.realpath(root)).parents[1].name.removeprefix(_CACHED).replace("--", "/")
        raise BundleError(
            f"{root}: lies in a hub's cache, which holds what was published; to change it, make a folder of your own "
            f"with `rar-export pull {repo} FOLDER`"
        )


def _bring(hub: Any, repo: str, root: Path, record: FileRecord) -> None:
    """Downloads one file, unless the cache has it; one that is not as listed does not stay in the cache."""
    path = root / record.path

    def check(size: int) -> None:
        if size != record.bytes:
            raise _other(repo, record)

    try:
        # A link is hashed when it is opened (`manifest.py`). A file is not if it is mapped: a cache without links.
        whole = path.is_file() and path.stat().st_size == record.bytes
        if whole and (path.is_symlink() or sha256(path) == record.sha256):
            return
        _drop(path)
        _download(hub, repo, record.path, root.name, check)
        if path.stat().st_size == record.bytes and sha256(path) == record.sha256:
            return
        _drop(path)
    except RarError:  # the hub's refusal, which is a ValueError too
        raise
    except (OSError, ValueError) as error:  # an impossible name, a full disk
        raise BundleError(f"{repo}: {record.path[:200]!r} cannot be stored ({error}); look at {root}") from error
    raise _other(repo, record)


def _other(repo: str, record: FileRecord) -> BundleError:
    return BundleError(
        f"{repo}: {record.path} is not the file that {MANIFEST} lists (size or SHA-256 differ); try again, and do not "
        "use this bundle if that says the same"
    )


def _drop(path: Path) -> None:
    """Deletes a file from the cache: the link and, beside the commits, the blob that it leads to."""
    if path.is_symlink():
        blob = Path(os.path.abspath(path.parent / os.readlink(path)))
        if blob.parent.name == "blobs" and blob.parent.parent.name.startswith(_CACHED):
            blob.unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def _download(hub: Any, repo: str, name: str, revision: str, check: Callable[[int], None]) -> Path:
    """One file of a repository: its path in the cache. What the cache has of a commit is not asked for.

    Args:
        hub: huggingface_hub.
        repo: `user/name`.
        name: The file.
        revision: A commit, a branch or a tag.
        check: Is told the file's size before it is downloaded, and raises if it must not be.
    """
    try:
        cached = hub.try_to_load_from_cache(repo, name, revision=revision)  # a path, None or a mark of its own
        if isinstance(cached, str) and _COMMIT.fullmatch(revision):
            return Path(cached)
        try:
            size = hub.get_hf_file_metadata(
                hub.hf_hub_url(repo, name, revision=revision), library_name="rar-runtime"
            ).size
        except (hub.errors.RevisionNotFoundError, hub.errors.EntryNotFoundError):
            raise
        except Exception as error:
            if isinstance(cached, str):  # as huggingface_hub itself answers then
                return Path(cached)
            if getattr(error, "response", None) is None:
                raise _absent(repo, error, name, revision) from error
            raise
        if size is not None:  # or huggingface_hub refuses the file
            check(size)
        return Path(hub.hf_hub_download(repo, name, revision=revision, library_name="rar-runtime"))
    except RarError:
        raise
    except Exception as error:  # of huggingface_hub, of its HTTP client, which changed twice, or of the disk
        raise refusal(hub, repo, error, name, revision) from error


def refusal(hub: Any, repo: str, error: Exception, name: str | None = None, revision: str = _BRANCH) -> RarError:
    """What huggingface_hub raised, as an error of ours that says what to do.

    Args:
        hub: huggingface_hub.
        repo: The repository that was asked.
        error: What was raised.
        name: The file that was to be fetched; None if none was.
        revision: And its revision.
    """
    kinds = hub.errors
    if isinstance(error, kinds.GatedRepoError):  # before the one that it is a kind of
        return InputError(
            f"{repo}: its owner gives access on request; ask on the repository's page, then `hf auth login`"
        )
    if isinstance(error, kinds.RepositoryNotFoundError):
        return InputError(
            f"{repo}: the hub knows no such repository, or it is private; check the name, or log in with "
            "`hf auth login`"
        )
    if isinstance(error, kinds.RevisionNotFoundError):
        return InputError(f"{repo}: has no revision {revision!r}; name a branch, a tag or a commit of 40 hex digits")
    if isinstance(error, kinds.LocalEntryNotFoundError) and name is not None:
        return _absent(repo, error, name, revision)
    if isinstance(error, kinds.EntryNotFoundError) and name == MANIFEST:
        return BundleError(
            f"{repo}: holds no {MANIFEST} at {revision}, so it is no bundle; put one there with "
            f"`rar-export push BUNDLE {repo}`"
        )
    if isinstance(error, kinds.EntryNotFoundError) and name is not None:
        return BundleError(
            f"{repo}: {MANIFEST} lists {name}, which is not there at {revision}; put the bundle there again with "
            f"`rar-export push BUNDLE {repo}`"
        )
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        return InputError(
            f"{repo}: the hub does not allow this ({_reason(error)}); log in with `hf auth login`, or set HF_TOKEN to "
            "a token that may"
        )
    return BundleError(f"{repo}: the hub could not be asked ({_reason(error)}); try again")


def _absent(repo: str, error: Exception, name: str, revision: str) -> BundleError:
    return BundleError(
        f"{repo}: {name} at {revision} is not in the cache, and the hub was not reached ({_reason(error)}); fetch it "
        f"once where there is a network: rar-export pull {repo} FOLDER"
    )


def _reason(error: BaseException) -> str:
    """The first lines of what lies under an error of huggingface_hub."""
    told = " ".join(str(error.__cause__ or error).split())
    return told[:200] or type(error).__name__
