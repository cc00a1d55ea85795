"""Ray Serve: real requests over HTTP to two replicas, bad ones among them, and a memory that changes for all."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
from documents import needing, started, typed, with_own

pytest.importorskip("ray.serve")

from rar.runtime import InputError, RarError, Recognizer
from rar.serving.row import to_row


@pytest.fixture(scope="module")
def own(pictures_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(copytree(pictures_bundle, tmp_path_factory.mktemp("served") / "bundle"))


@pytest.fixture(scope="module")
def address(own: Path) -> Iterator[str]:
    import ray
    from ray import serve

    from rar.serving.app import app

    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        ray.init(
            address="local",
            num_cpus=3,
            object_store_memory=100 << 20,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="warning",
        )
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        serve.run(app({"bundle": str(own), "k": "3", "rank": "none", "provider": "cpu", "replicas": "2"}))
        yield f"http://127.0.0.1:{port}/"
        serve.shutdown()
        ray.shutdown()


def post(address: str, body: bytes) -> tuple[int, dict[str, Any]]:
    try:
        with urllib.request.urlopen(address, data=body, timeout=120) as answer:  # noqa: S310  # our own
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_many_clients_get_the_answers_of_the_runtime(address: str, own: Path, class_pictures: list[Path]) -> None:
    with Recognizer.open(own, "cpu", threads=1) as here:
        expected = [to_row(one, "cpu") for one in here.recognize(class_pictures, k=3, rank="none")]
    order = [i for _ in range(8) for i in range(len(class_pictures))]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: post(address, class_pictures[i].read_bytes()), order))
    for i, (status, row) in zip(order, found, strict=True):
        assert status == 200
        assert set(row) == set(expected[i])
        assert (row["label"], row["retrieved"]) == (expected[i]["label"], expected[i]["retrieved"])
        assert row["score"] == pytest.approx(expected[i]["score"], abs=1e-5)


def test_what_is_no_picture_is_said(address: str, class_pictures: list[Path]) -> None:
    status, row = post(address, b"no picture")
    assert status == 422
    assert "not a picture" in row["error"]
    assert post(address, b"")[0] == 400
    assert post(address, bytes((64 << 20) + 1))[0] == 413
    assert post(address, class_pictures[0].read_bytes())[1]["label"] == "cat"


def test_a_change_reaches_all_replicas(address: str, class_pictures: list[Path]) -> None:
    from ray import serve

    from rar.serving.app import change

    handle = serve.get_app_handle("default")
    picture = class_pictures[0].read_bytes()
    change(handle, "relabel", "cat", "my cat")
    assert {post(address, picture)[1]["label"] for _ in range(20)} == {"my cat"}
    change(handle, "relabel", "my cat", "cat")  # by whichever replica's turn it is
    assert {post(address, picture)[1]["label"] for _ in range(20)} == {"cat"}
    with pytest.raises(RarError, match=r"1 of 1 nodes did not change: node .*no class 'dog'"):
        change(handle, "remove", "dog")
    with pytest.raises(InputError, match="choose add"):
        change(handle, "compact")


def test_arguments_are_checked() -> None:
    from rar.serving.app import app

    for arguments, message in (({}, "bundle="), ({"bundle": "b", "k": "few"}, "whole"), ({"bond": "b"}, "bond")):
        with pytest.raises(InputError, match=message):
            app(arguments)


def test_what_the_document_shows(
    address: str, five_classes: tuple[Path, Path], labelled_folder: Path, photos: list[Path], tmp_path: Path
) -> None:
    """The last: it puts another application in this one's place."""
    import ray

    commands, program = needing("a server", "serving.md")[-2:]
    run, ask = commands.text.splitlines()
    bundle = shutil.copytree(five_classes[0], tmp_path / "bundle")
    shutil.copy(labelled_folder / "cat/0.jpg", tmp_path / "cat.jpg")
    # A picture that the memory lacks: of two that are alike the older one's class is the answer.
    shutil.copy(next(path for path in photos if path.name == "hubble_deep_field.jpg"), tmp_path / "mug.jpg")
    cluster = {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    server = started(with_own(run, {"/srv/bundle": bundle}), tmp_path, **cluster)
    try:
        for _ in range(600):
            if len(post(address, (tmp_path / "cat.jpg").read_bytes())[1].get("retrieved", [])) == 5:
                break
            assert server.poll() is None, server.communicate()
            time.sleep(0.2)
        else:
            pytest.fail("the program that the document shows is not served after two minutes")
        asked = with_own(ask, {"http://127.0.0.1:8000/": address, "curl": "curl -sS --fail-with-body"})
        assert json.loads(typed("sh", asked, tmp_path))["label"] == "cat"
        typed("python", program.text, tmp_path, **cluster)
        assert post(address, (tmp_path / "mug.jpg").read_bytes())[1]["label"] == "my mug"
    finally:
        server.send_signal(signal.SIGINT)
        server.communicate(timeout=120)
