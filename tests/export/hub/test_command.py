"""`rar-export push` and `pull`: a bundle goes to a hub and comes back; the hub is a server on the loopback."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from bundles import tree, write
from hub import Hub, Repo, served

from rar.runtime import Bundle, Recognizer

pytest.importorskip("huggingface_hub")


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    with served(tmp_path / "home") as opened:
        yield opened


@pytest.fixture
def small(hub: Hub, tmp_path: Path) -> Repo:
    write(tmp_path / "small")
    hub.repos["user/bundle"] = Repo()
    hub.repos["user/bundle"].commit_folder(tmp_path / "small")
    return hub.repos["user/bundle"]


def test_a_bundle_comes_back_as_it_was_pushed(
    hub: Hub, pictures_bundle: Path, class_pictures: list[Path], writable: Callable[[Path], Path], tmp_path: Path
) -> None:
    own = writable(pictures_bundle)
    (own / "secret.txt").write_text("not listed")
    (own / "checks").mkdir(exist_ok=True)
    (own / "checks/note.json").write_text("{}")
    run = hub.export("push", own, "user/bundle", "--private", "--message", "the first")
    assert run.returncode == 0, run.stderr
    repo = hub.repos["user/bundle"]
    commit = repo.names["main"]
    assert f"rar-export pull user/bundle OUT --revision {commit}" in run.stdout
    assert (repo.private, repo.messages[-1]) == (True, "the first")
    listed = {record.path for one in Bundle.open(own).components.values() for record in one.files.values()}
    assert set(repo.commits[commit]) == {".gitattributes", "bundle.json", *listed}
    assert hub.blobs  # what is large went beside the commit

    run = hub.export("pull", "user/bundle", tmp_path / "new/out", "--revision", commit)
    assert run.returncode == 0, run.stderr
    assert commit in run.stdout
    out = tree(tmp_path / "new/out")
    assert out == {path: content for path, content in tree(own).items() if path in {"bundle.json", *listed}}
    assert not any((tmp_path / "new/out").joinpath(path).is_symlink() for path in out)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["out"]
    with Recognizer.open(tmp_path / "new/out", "cpu") as rec:
        assert rec.recognize(class_pictures[0])[0].label == "cat"
        rec.memory.add([class_pictures[0]], "mine")  # a folder of one's own may be changed


def test_a_second_push_replaces_the_first_and_keeps_what_is_not_of_a_bundle(
    hub: Hub, names_bundle: Path, pictures_bundle: Path
) -> None:
    assert hub.export("push", pictures_bundle, "user/bundle").returncode == 0
    repo = hub.repos["user/bundle"]
    first = repo.names["main"]
    repo.commit({**repo.commits[first], "README.md": b"a card"})
    run = hub.export("push", names_bundle, "user/bundle")
    assert run.returncode == 0, run.stderr
    listed = {record.path for one in Bundle.open(names_bundle).components.values() for record in one.files.values()}
    assert set(repo.commits[first]) - listed - {"bundle.json", ".gitattributes"}
    assert set(repo.commits[repo.names["main"]]) == {".gitattributes", "README.md", "bundle.json", *listed}


_REPLACED = """
import sys
from pathlib import Path
from rar.export.hub import push
from rar.runtime import RarError
own, other = map(Path, sys.argv[1:])
open_bundle = push.Bundle.open
class Bundle(push.Bundle):
    @classmethod
    def open(cls, path):
        bundle = open_bundle(path)
        if cls.opened:
            (own / "bundle.json").write_bytes((other / "bundle.json").read_bytes())
        cls.opened += 1
        return bundle
Bundle.opened = 0
push.Bundle = Bundle
try:
    push.push(own, "user/bundle", message="a test")
except RarError as error:
    sys.exit(str(error))
"""


def test_a_bundle_that_is_replaced_meanwhile_is_not_pushed(hub: Hub, tmp_path: Path) -> None:
    write(tmp_path / "own")
    write(tmp_path / "other", content=b"other")
    run = hub.python(_REPLACED, tmp_path / "own", tmp_path / "other")
    assert "was changed while it was pushed; push it again" in run.stderr
    assert "bundle.json" not in hub.repos["user/bundle"].commits[hub.repos["user/bundle"].names["main"]]


def test_a_component_without_a_name_comes_too(hub: Hub, small: Repo, tmp_path: Path) -> None:
    files = dict(small.commits[small.names["main"]])
    manifest = json.loads(files["bundle.json"])
    record = {"path": "of-none.bin", "bytes": 4, "sha256": hashlib.sha256(b"none").hexdigest()}
    manifest["components"][""] = {"files": {"of-none.bin": record}, "info": {}}
    small.commit({**files, "bundle.json": json.dumps(manifest).encode(), "of-none.bin": b"none"})
    run = hub.export("pull", "user/bundle", tmp_path / "out")
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "out/of-none.bin").read_bytes() == b"none"


def test_an_altered_bundle_is_not_pushed(hub: Hub, tiny_bundle: Path, writable: Callable[[Path], Path]) -> None:
    own = writable(tiny_bundle)
    path = own / "clip/preprocess.json"
    path.write_bytes(path.read_bytes().replace(b"{", b"[", 1))
    run = hub.export("push", own, "user/bundle")
    assert run.returncode == 2
    assert "altered since it was exported" in run.stderr
    assert hub.asked == []


def test_changes_that_lie_in_the_log_are_not_left_behind(
    hub: Hub, pictures_bundle: Path, class_pictures: list[Path], writable: Callable[[Path], Path]
) -> None:
    own = writable(pictures_bundle)
    with Recognizer.open(own, "cpu") as rec:
        rec.memory.add([class_pictures[0]], "mine")
    run = hub.export("push", own, "user/bundle")
    assert run.returncode == 2
    assert f"fold them in with `rar-export compact {own}`" in run.stderr
    assert hub.asked == []


def test_a_push_without_the_right_is_refused(hub: Hub, tiny_bundle: Path) -> None:
    run = hub.export("push", tiny_bundle, "user/bundle", HF_TOKEN="hf_of_a_stranger")  # noqa: S106
    assert run.returncode == 2
    assert "set HF_TOKEN to a token that may" in run.stderr
    assert len(run.stderr.splitlines()) == 1
    assert not hub.repos


def test_what_should_be_private_is_not_put_where_all_see_it(hub: Hub, tiny_bundle: Path, small: Repo) -> None:
    run = hub.export("push", tiny_bundle, "user/bundle", "--private")
    assert run.returncode == 2
    assert "user/bundle: is public; make it private on its page" in run.stderr
    assert len(small.commits) == 1


def test_a_pull_that_fails_leaves_nothing(hub: Hub, small: Repo, tmp_path: Path) -> None:
    hub.forged["memory/inner/a.bin"] = b"forge"
    run = hub.export("pull", "user/bundle", tmp_path / "new/out")
    assert run.returncode == 2
    assert "memory/inner/a.bin is not the file that bundle.json lists" in run.stderr
    assert not (tmp_path / "new").exists()


def test_an_altered_cache_is_not_copied(hub: Hub, small: Repo, tmp_path: Path) -> None:
    assert hub.export("pull", "user/bundle", tmp_path / "first").returncode == 0
    (cached,) = (path for path in (tmp_path / "home").rglob("a.bin") if "snapshots" in path.parts)
    cached.resolve().write_bytes(b"forge")
    run = hub.export("pull", "user/bundle", tmp_path / "new/out")
    assert (run.returncode, "to another file than the exported one" in run.stderr) == (2, True)
    assert not list((tmp_path / "new").iterdir())
    blob = cached.resolve()
    cached.unlink()
    cached.write_bytes(b"forge")  # where there are no links, the cache holds the file itself: it is fetched again
    blob.unlink()
    run = hub.export("pull", "user/bundle", tmp_path / "new/out")
    assert run.returncode == 0, run.stderr
    assert tree(tmp_path / "new/out") == tree(tmp_path / "small")


def test_a_folder_that_is_there_is_not_written_over(hub: Hub, small: Repo, tmp_path: Path) -> None:
    run = hub.export("pull", "user/bundle", tmp_path / "small")
    assert run.returncode == 2
    assert "exists already; name a new folder" in run.stderr
    assert hub.asked == []


def test_a_pulled_bundle_comes_from_the_cache_without_a_network(tmp_path: Path) -> None:
    write(tmp_path / "small")
    with served(tmp_path / "home") as hub:
        hub.repos["user/bundle"] = Repo()
        hub.repos["user/bundle"].commit_folder(tmp_path / "small")
        assert hub.export("pull", "user/bundle", tmp_path / "first").returncode == 0
    shutil.rmtree(tmp_path / "first")
    run = hub.export("pull", "user/bundle", tmp_path / "again", HF_HUB_OFFLINE="1")
    assert run.returncode == 0, run.stderr
    assert tree(tmp_path / "again") == tree(tmp_path / "small")
