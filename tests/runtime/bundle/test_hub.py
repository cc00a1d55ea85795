"""Bundles from a model hub: what is fetched, pinned, kept and refused; asked is a server on the loopback."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bundles import tree, write
from hub import Hub, Repo, served

from rar.runtime import Bundle
from rar.runtime.bundle.hub import check_own, check_repo, fetch, is_cached, library, refusal
from rar.runtime.errors import BundleError, InputError

pytest.importorskip("huggingface_hub")

FETCH = """
import logging, sys
from rar.runtime.bundle.hub import fetch
from rar.runtime.errors import RarError
logging.basicConfig(level=logging.INFO, format="%(name)s %(message)s")
try:
    print(fetch(sys.argv[1], *sys.argv[2:]))
except RarError as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""
RECOGNISE = """
import logging, sys
from rar.runtime import Recognizer, RarError
assert "huggingface_hub" not in sys.modules
logging.basicConfig(level=logging.INFO, format="%(name)s %(message)s")
with Recognizer.from_pretrained(sys.argv[1], "cpu", revision=sys.argv[2] or None, threads=1) as rec:
    print(rec.recognize(sys.argv[3], k=2)[0].label, rec.provider)
    if sys.argv[4:]:
        try:
            rec.memory.add([sys.argv[3]], "new")
        except RarError as error:
            print(error)
"""


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    with served(tmp_path / "home") as opened:
        yield opened


@pytest.fixture
def small(hub: Hub, tmp_path: Path) -> Repo:
    """A repository with a bundle of two small files, and a file that belongs to no bundle."""
    write(tmp_path / "small")
    (tmp_path / "small/README.md").write_text("no part of the bundle")
    hub.repos["user/bundle"] = Repo()
    hub.repos["user/bundle"].commit_folder(tmp_path / "small")
    return hub.repos["user/bundle"]


def refused(hub: Hub, *argv: str, **environment: str) -> str:
    run = hub.python(FETCH, *argv, **environment)
    assert run.returncode == 1, run.stdout + run.stderr
    assert "Traceback" not in run.stderr
    return run.stderr.splitlines()[-1]


def fetched(hub: Hub, *argv: str, **environment: str) -> Path:
    run = hub.python(FETCH, *argv, **environment)
    assert run.returncode == 0, run.stderr
    return Path(run.stdout.strip())


def change_manifest(repo: Repo, change: Any) -> None:
    """Commits another manifest."""
    files = dict(repo.commits[repo.names["main"]])
    manifest = json.loads(files["bundle.json"])
    change(manifest["components"]["memory"]["files"])
    repo.commit({**files, "bundle.json": json.dumps(manifest).encode()})


def test_a_recognizer_comes_from_a_repository_and_then_from_the_cache(
    tmp_path: Path, pictures_bundle: Path, class_pictures: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    own = Path(shutil.copytree(pictures_bundle, tmp_path / "own", ignore=shutil.ignore_patterns("checks")))
    monkeypatch.setenv("RAR_CACHE", str(tmp_path / "rar"))
    with served(tmp_path / "home") as hub:
        hub.repos["user/bundle"] = repo = Repo()
        commit = repo.commit_folder(own)
        run = hub.python(RECOGNISE, "user/bundle", "", class_pictures[0])
        assert (run.returncode, run.stdout) == (0, "cat cpu\n"), run.stderr
        assert f"rar user/bundle: main is commit {commit}; revision='{commit}' pins it" in run.stderr
        assert len(hub.fetched()) > 5
        run = hub.python(RECOGNISE, "user/bundle", "", class_pictures[0])
        assert run.stdout == "cat cpu\n", run.stderr
        assert hub.fetched() == []  # only the branch was asked for
        assert hub.python(RECOGNISE, "user/bundle", commit, class_pictures[0]).stdout == "cat cpu\n"
        assert hub.asked == []  # a commit is not asked for at all
    # Nothing was added to what was published.
    (cached,) = tmp_path.glob("home/hub/models--*/snapshots/*")
    listed = {record.path for one in Bundle.open(own).components.values() for record in one.files.values()}
    assert set(tree(cached)) == {"bundle.json", *listed}
    assert list((tmp_path / "rar/checks").iterdir())
    # The server is gone, which need not be said; or it is said that there is none.
    for offline in ("0", "1"):
        run = hub.python(RECOGNISE, "user/bundle", "", class_pictures[0], "change", HF_HUB_OFFLINE=offline)
        assert run.stdout.startswith("cat cpu\n"), run.stderr
        assert "make a folder of your own with `rar-export pull user/bundle FOLDER`" in run.stdout
        assert f"main is commit {commit}" in run.stderr


def test_only_the_files_that_the_manifest_lists_are_fetched(hub: Hub, small: Repo) -> None:
    root = fetched(hub, "user/bundle")
    assert hub.fetched() == ["bundle.json", "memory/b.json", "memory/inner/a.bin"]
    assert root.name == small.names["main"]
    assert not (root / "README.md").exists()


def test_a_pinned_commit_stays_when_the_branch_moves_on(hub: Hub, small: Repo, tmp_path: Path) -> None:
    first = small.names["main"]
    small.names["v1"] = first
    write(tmp_path / "second", content=b"second")
    second = small.commit_folder(tmp_path / "second")
    assert fetched(hub, "user/bundle").name == second
    for revision in (first, "v1"):
        root = fetched(hub, "user/bundle", revision)
        assert root.name == first
        assert (root / "memory/inner/a.bin").read_bytes() == b"first"


def test_another_commit_than_the_asked_one_is_refused(hub: Hub, small: Repo) -> None:
    small.names["f" * 40] = small.names["main"]
    assert "gave commit" in refused(hub, "user/bundle", "f" * 40)


def test_altered_bytes_are_refused_and_do_not_stay(hub: Hub, small: Repo) -> None:
    hub.forged["memory/inner/a.bin"] = b"forge"
    assert refused(hub, "user/bundle").startswith("BundleError: user/bundle: memory/inner/a.bin is not the file that")
    hub.forged.clear()
    assert (fetched(hub, "user/bundle") / "memory/inner/a.bin").read_bytes() == b"first"


def test_a_file_of_another_size_in_the_cache_is_fetched_again(hub: Hub, small: Repo) -> None:
    root = fetched(hub, "user/bundle")
    (root / "memory/inner/a.bin").resolve().write_bytes(b"cut")
    hub.fetched()
    assert (fetched(hub, "user/bundle") / "memory/inner/a.bin").read_bytes() == b"first"
    assert hub.fetched() == ["memory/inner/a.bin"]


def test_a_cache_without_links_is_compared_again(hub: Hub, small: Repo) -> None:
    path = fetched(hub, "user/bundle") / "memory/inner/a.bin"
    path.resolve().unlink()
    path.unlink()
    hub.fetched()
    for forged, asked in ((b"first", []), (b"forge", ["memory/inner/a.bin"])):
        path.write_bytes(forged)
        assert fetched(hub, "user/bundle", small.names["main"]) == path.parents[2]
        assert path.read_bytes() == b"first"
        assert hub.fetched() == asked


def test_a_file_of_another_size_is_not_downloaded(hub: Hub, small: Repo) -> None:
    small.commit({**small.commits[small.names["main"]], "memory/inner/a.bin": bytes(1 << 20)})
    assert "memory/inner/a.bin is not the file that bundle.json lists" in refused(hub, "user/bundle")
    assert hub.fetched() == ["bundle.json", "memory/b.json"]


def test_a_manifest_larger_than_any_is_not_downloaded(hub: Hub, small: Repo, tmp_path: Path) -> None:
    hub.told["bundle.json"] = (1 << 26) + 1
    assert "bundle.json has 67108865 bytes at main, and may have 67108864; do not use" in refused(hub, "user/bundle")
    assert hub.fetched() == []
    assert not list((tmp_path / "home").rglob("bundle.json"))


@pytest.mark.parametrize("path", ["../outside", "/etc/passwd", "memory/../../x", "memory\\x"])
def test_a_path_that_leaves_the_bundle_is_refused(hub: Hub, small: Repo, tmp_path: Path, path: str) -> None:
    change_manifest(small, lambda files: files["b.json"].update(path=path))
    assert "leads out of the bundle; do not use a bundle that does this" in refused(hub, "user/bundle")
    assert hub.fetched() == ["bundle.json"]
    assert not list((tmp_path / "home").rglob("outside"))


def test_an_impossible_name_is_refused(hub: Hub, small: Repo) -> None:
    change_manifest(small, lambda files: files["b.json"].update(path="x" * 300))
    assert "' cannot be stored (" in refused(hub, "user/bundle")


@pytest.mark.parametrize(
    ("name", "revision", "said"),
    [
        ("user/other", "main", "InputError: user/other: the hub knows no such repository, or it is private; check the"),
        ("user/bundle", "v9", "InputError: user/bundle: has no revision 'v9'; name a branch, a tag or a commit"),
        ("user/bundle", "a" * 40, f"InputError: user/bundle: has no revision '{'a' * 40}'; name a branch"),
        ("user/empty", "main", "BundleError: user/empty: holds no bundle.json at main, so it is no bundle; put one"),
    ],
)
def test_what_is_not_there_is_told_in_one_line(hub: Hub, small: Repo, name: str, revision: str, said: str) -> None:
    hub.repos["user/empty"] = Repo()
    hub.repos["user/empty"].commit({"README.md": b"nothing yet"})
    assert refused(hub, name, revision).startswith(said)


def test_a_listed_file_that_is_not_there_is_told(hub: Hub, small: Repo) -> None:
    change_manifest(small, lambda files: files["b.json"].update(path="memory/c.json"))
    assert "bundle.json lists memory/c.json, which is not there" in refused(hub, "user/bundle")


def test_engines_do_not_run_by_themselves(hub: Hub, tmp_path: Path) -> None:
    write(tmp_path / "engines", "engines/made-elsewhere")
    hub.repos["user/bundle"] = Repo()
    hub.repos["user/bundle"].commit_folder(tmp_path / "engines")
    code = "from rar.runtime import Recognizer; Recognizer.from_pretrained('user/bundle')"
    run = hub.python(code)
    assert "InputError: user/bundle: holds engines, which are compiled code that `auto` would run" in run.stderr


def test_a_private_repository_needs_a_token(hub: Hub, small: Repo) -> None:
    small.private = True
    assert "log in with `hf auth login`" in refused(hub, "user/bundle", HF_TOKEN="hf_of_a_stranger")  # noqa: S106
    fetched(hub, "user/bundle")


def test_what_became_private_needs_a_token_for_what_the_cache_lacks(hub: Hub, small: Repo) -> None:
    path = fetched(hub, "user/bundle") / "memory/inner/a.bin"
    small.private = True
    stranger = {"HF_TOKEN": "hf_of_a_stranger"}
    assert fetched(hub, "user/bundle", **stranger) == path.parents[2]  # all of it is in the cache
    path.resolve().unlink()
    path.unlink()
    said = refused(hub, "user/bundle", **stranger)
    assert said.startswith("InputError: user/bundle: the hub knows no such repository, or it is private;")
    assert said.endswith("log in with `hf auth login`")


def test_a_broken_manifest_is_fetched_again_and_a_newer_one_is_not(hub: Hub, small: Repo) -> None:
    root = fetched(hub, "user/bundle")
    (root / "bundle.json").resolve().write_text("{")
    assert "not valid JSON" in refused(hub, "user/bundle")
    hub.fetched()
    assert fetched(hub, "user/bundle") == root
    assert hub.fetched() == ["bundle.json"]
    small.commit({"bundle.json": b'{"format": 99, "components": {}}'})
    for asked in (["bundle.json"], []):
        assert "format 99, but this release reads up to" in refused(hub, "user/bundle", small.names["main"])
        assert hub.fetched() == asked


def test_a_cache_that_cannot_be_written_is_told_as_what_it_holds(hub: Hub, small: Repo) -> None:
    path = fetched(hub, "user/bundle") / "bundle.json"
    path.resolve().unlink()
    path.resolve().mkdir()  # cannot be deleted as a file
    assert "no bundle there (is no regular file: bundle.json)" in refused(hub, "user/bundle")


def test_what_a_push_lacks_is_not_told_as_a_fetch() -> None:
    hub = library()
    for kind in (hub.errors.EntryNotFoundError, hub.errors.LocalEntryNotFoundError):
        assert str(refusal(hub, "user/bundle", kind("gone"))) == (
            "user/bundle: the hub could not be asked (gone); try again"
        )


def test_without_a_network_and_a_cache_it_is_told_what_to_do(hub: Hub, small: Repo) -> None:
    said = refused(hub, "user/bundle", HF_HUB_OFFLINE="1")
    assert said.startswith("BundleError: user/bundle: bundle.json at main is not in the cache, and the hub was not")
    assert said.endswith("fetch it once where there is a network: rar-export pull user/bundle FOLDER")
    assert hub.asked == []


@pytest.mark.parametrize(
    "name",
    ["bundle", "/srv/bundle", "./bundle", "user/bundle/memory", "user/../x", "user/b--c", "user/x.git", "ü/b", ""],
)
def test_what_is_no_name_of_a_repository_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=r"is no repository of a hub; give user/name"):
        check_repo(name)


@pytest.mark.parametrize("revision", ["", "../../x", "/x", "a/../b", "x\n", "a b", "..", ".", 1])
def test_what_is_no_revision_is_refused(revision: Any) -> None:
    with pytest.raises(InputError, match="is no commit, branch or tag"):
        fetch("user/bundle", revision)


def test_without_huggingface_hub_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(InputError, match=r"pip install 'rar-runtime\[hub\]'"):
        fetch("user/bundle")


def test_a_folder_of_ones_own_may_be_changed_and_the_cache_not(tmp_path: Path) -> None:
    check_own(tmp_path / "snapshots" / "bundle")
    cached = tmp_path / "models--user--bundle" / "snapshots" / ("a" * 40)
    write(tmp_path / "own")
    cached.parent.mkdir(parents=True)
    assert not is_cached(tmp_path / "own")
    (tmp_path / "own").rename(cached)
    assert is_cached(cached)
    with pytest.raises(BundleError, match="rar-export pull user/bundle FOLDER"):
        write(cached, "clip")
    assert not (cached / "clip").exists()
