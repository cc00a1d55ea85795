"""A memory that is taught, listed, renamed and undone over HTTP, beside other writers."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from rar.runtime import Memory, Recognizer


@pytest.fixture
def shots(photos: list[Path], tmp_path: Path) -> list[Path]:
    """Four pictures of something that the memory does not know."""
    (path,) = [path for path in photos if path.name == "astronaut.png"]
    made = []
    with Image.open(path) as photo:
        for i in range(4):
            made.append(tmp_path / f"{i}.jpg")
            photo.convert("RGB").crop((40 * i, 20 * i, 300 + 40 * i, 300 + 20 * i)).save(made[-1])
    return made


def labels(server: Any) -> list[str]:
    return [one["label"] for one in server.client.get("/memory").json()["classes"]]


def test_what_is_taught_is_recognised_and_undone(server: Any, shots: list[Path], own_bundle: Path) -> None:
    taught = server.teach("astronaut", *shots[:3])
    assert taught.status_code == 201
    assert taught.json()["created"] == ["astronaut"]
    assert server.recognize(shots[1], rank="none").json()["results"][0]["label"] == "astronaut"
    (row,) = server.client.get("/memory", params={"contains": "ASTRO"}).json()["classes"]
    assert (row["label"], row["pictures"]) == ("astronaut", 3)
    # On disk: whoever opens the bundle anew finds it.
    assert "astronaut" in Memory.open(own_bundle).labels
    for source in taught.json()["sources"]:
        shown = server.client.get("/thumbnail", params={"source": source})
        assert shown.headers["content-type"] == "image/jpeg"
    assert server.client.delete("/memory/astronaut").json() == {"label": "astronaut", "removed": 3, "class": True}
    assert "astronaut" not in labels(server)
    assert server.client.get("/thumbnail", params={"source": taught.json()["sources"][0]}).status_code == 404
    assert list((own_bundle / "taught").iterdir()) == []


def test_shots_of_a_class_that_was_there_are_undone_one_by_one(server: Any, shots: list[Path]) -> None:
    before = server.client.get("/memory/cat").json()
    taught = server.teach("cat", *shots[:3]).json()
    assert taught["created"] == []
    assert server.client.get("/memory/cat").json()["pictures"] == [*before["pictures"], *taught["sources"]]
    undone = server.client.delete("/memory/cat", params={"source": taught["sources"]})
    assert undone.json() == {"label": "cat", "removed": 3, "class": False}
    assert server.client.get("/memory/cat").json() == before
    again = server.client.delete("/memory/cat", params={"source": taught["sources"]})
    assert again.status_code == 422
    assert "has no picture" in again.json()["error"]


def test_classes_are_renamed_and_merged(server: Any, shots: list[Path]) -> None:
    name = "a/b c?#%"
    server.teach(name, shots[0])
    path = "/memory/a%2Fb%20c%3F%23%25"
    assert server.client.get(path).json()["label"] == name
    assert server.client.patch(path, json={"label": "other"}).json() == {"label": "other", "merged": False}
    assert "other" in labels(server)
    assert name not in labels(server)
    server.teach("third", shots[1])
    assert server.client.patch("/memory/other", json={"label": "third"}).json() == {"label": "third", "merged": True}
    assert len(server.client.get("/memory/third").json()["pictures"]) == 2
    assert server.client.delete("/memory/third").status_code == 200
    assert server.client.patch("/memory/cat", json={"label": " "}).status_code == 422
    assert server.client.patch("/memory/cat", json={"name": "dog"}).status_code == 422


def test_the_listing_comes_page_by_page(server: Any) -> None:
    whole = server.client.get("/memory").json()
    assert whole["total"] == 4
    pages = [server.client.get("/memory", params={"start": i, "count": 1}).json()["classes"][0] for i in range(4)]
    assert pages == whole["classes"]
    assert whole["classes"][0]["pictures"] == 3
    assert server.client.get("/memory", params={"start": 9}).json()["classes"] == []
    assert server.client.get("/memory", params={"count": 10_000}).status_code == 422


def test_examples_of_the_folder_are_shown_and_nothing_outside_of_it(
    server: Any, labelled_folder: Path, own_bundle: Path
) -> None:
    source = server.client.get("/memory/cat").json()["pictures"][0]
    shown = server.client.get("/thumbnail", params={"source": source})
    assert shown.status_code == 200
    assert max(Image.open(io.BytesIO(shown.content)).size) <= 192
    outside = labelled_folder.parent / "secret.png"
    Image.new("RGB", (8, 8)).save(outside)
    link = labelled_folder / "link.png"
    link.symlink_to(outside)
    try:
        for hidden in (
            str(outside), "../secret.png", "cat/../../secret.png", "link.png", "/etc/passwd", "cat", "", "\0",
            "a" * 9999,
            "taught/../bundle.json", "taught/..%2fbundle.json", str(own_bundle / "bundle.json"),
        ):  # fmt: skip
            assert server.client.get("/thumbnail", params={"source": hidden}).status_code == 404, hidden
    finally:
        link.unlink()
        outside.unlink()


def test_a_link_in_the_bundle_is_not_followed_when_it_is_taught(
    start: Any, pictures_bundle: Path, writable: Callable[[Path], Path], shots: list[Path], tmp_path: Path
) -> None:
    bundle, outside = writable(pictures_bundle), tmp_path / "outside"
    outside.mkdir()
    (bundle / "taught").symlink_to(outside)
    with start(bundle) as own:
        assert own.teach("astronaut", shots[0]).status_code == 500
        assert list(outside.iterdir()) == []
        assert "astronaut" not in labels(own)


def test_a_broken_shot_teaches_nothing(server: Any, shots: list[Path], own_bundle: Path) -> None:
    before = labels(server), sorted((own_bundle / "taught").glob("*"))
    files = [("image", shots[0].read_bytes()), ("image", b"no picture")]
    refused = server.client.post("/memory", files=files, data={"labels": "half"})
    assert refused.status_code == 422
    assert "picture 1" in refused.json()["error"]
    assert (labels(server), sorted((own_bundle / "taught").glob("*"))) == before


@pytest.mark.parametrize("given", [10_000, 2, 0])
def test_labels_that_do_not_fit_the_pictures(server: Any, shots: list[Path], given: int) -> None:
    text = base64.b64encode(shots[0].read_bytes()).decode()
    content = {"images": [text], "labels": [f"label {i}" for i in range(given)]}
    before = labels(server)
    refused = server.client.post("/memory", json=content)
    assert refused.status_code == 422
    assert "labels" in refused.json()["error"]
    assert labels(server) == before


def test_another_writer_is_a_conflict_and_the_server_writes_when_it_is_done(
    server: Any, shots: list[Path], own_bundle: Path
) -> None:
    with Recognizer.open(own_bundle, "cpu", threads=1) as other:
        other.memory.add(shots[0], "others")  # from now on it holds the memory's lock
        refused = server.teach("mine", shots[1])
        assert refused.status_code == 409
        assert int(refused.headers["retry-after"]) >= 1
        assert str(own_bundle) not in refused.text
        assert "others" in labels(server)
    assert server.teach("mine", shots[1]).status_code == 201
    # The server lets go after each change.
    memory = Memory.open(own_bundle)
    memory.remove("others")
    memory.remove("mine")
    memory.close()
    assert set(labels(server)) == {"cat", "coffee", "grass", "rocket"}


def test_changes_and_answers_beside_each_other(server: Any, shots: list[Path], class_pictures: list[Path]) -> None:
    def teach(number: int) -> int:
        code = int(server.teach(f"thing {number}", shots[number % 4]).status_code)
        return code if code != 201 else int(server.client.delete(f"/memory/thing {number}").status_code)

    with ThreadPoolExecutor(6) as clients:
        changes = [clients.submit(teach, number) for number in range(6)]
        answers = [clients.submit(server.recognize, class_pictures[0]) for _ in range(24)]
        assert [change.result() for change in changes] == [200] * 6
        assert {answer.result().json()["results"][0]["label"] for answer in answers} == {"cat"}
    assert set(labels(server)) == {"cat", "coffee", "grass", "rocket"}
