"""A bundle in the real Triton server, asked by NVIDIA's client over HTTP and gRPC."""

from __future__ import annotations

import importlib
import json
import shlex
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from documents import needing, typed, with_own

pytest.importorskip("tritonclient")

from rar.export.cli import main
from rar.runtime import Recognizer
from rar.serving.row import Row, to_row

LOOPBACK = ("--http-address=127.0.0.1", "--grpc-address=127.0.0.1")


@pytest.fixture(scope="module")
def server(pictures_bundle: Path, serve: Callable[[list[str]], Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    repository = tmp_path_factory.mktemp("repository")
    words = ["triton", str(pictures_bundle), str(repository), "--k", "3", "--rank", "none", "--batch", "8"]
    assert main([*words, "--provider", "cpu", "--threads", "1"]) == 0
    return serve([f"--model-repository={repository}", *LOOPBACK])


@pytest.fixture(scope="module", params=["http", "grpc"])
def client(server: Any, request: pytest.FixtureRequest) -> Any:
    if request.param == "grpc":
        pytest.importorskip("grpc")  # with a protobuf that `export` cannot have beside it
    return importlib.import_module(f"tritonclient.{request.param}"), f"127.0.0.1:{getattr(server, request.param)}"


def ask(client: Any, pictures: list[bytes]) -> dict[str, list[Any]]:
    module, address = client
    values = np.array(pictures, object)[:, None]
    image = module.InferInput("IMAGE", list(values.shape), "BYTES")
    image.set_data_from_numpy(values)
    with module.InferenceServerClient(address) as connection:  # one a thread: NVIDIA's is not for several
        answer = connection.infer("rar", [image])
    names = ("LABEL", "SCORE", "PROBABILITY", "ERROR", "RESULT")
    found = {name: answer.as_numpy(name) for name in names}
    assert all(array.shape == (len(pictures), 1) for array in found.values())
    return {
        name: [one.decode() if isinstance(one, bytes) else one for one in array.ravel().tolist()]
        for name, array in found.items()
    }


@pytest.fixture(scope="module")
def expected(pictures_bundle: Path, class_pictures: list[Path]) -> list[Row]:
    with Recognizer.open(pictures_bundle, "cpu", threads=1) as here:
        return [to_row(one, "cpu") for one in here.recognize(class_pictures, k=3, rank="none")]


def test_answers_are_those_of_the_runtime(client: Any, class_pictures: list[Path], expected: list[Row]) -> None:
    found = ask(client, [path.read_bytes() for path in class_pictures[:8]])
    for i, row in enumerate(expected[:8]):
        told = json.loads(found["RESULT"][i])
        assert set(told) == set(Row.__annotations__)
        assert found["LABEL"][i] == told["label"] == row["label"]
        assert found["SCORE"][i] == pytest.approx(row["score"], abs=1e-5)
        assert told["retrieved"] == row["retrieved"]
        assert found["ERROR"][i] == ""


def test_a_bad_picture_is_an_error_of_its_own(client: Any, class_pictures: list[Path]) -> None:
    good = class_pictures[0].read_bytes()
    found = ask(client, [good, b"no picture", good])
    assert found["LABEL"] == ["cat", "", "cat"]
    assert "not a picture" in found["ERROR"][1]
    assert np.isnan(found["SCORE"][1])
    assert json.loads(found["RESULT"][1])["error"] == found["ERROR"][1]


def test_clients_at_once_share_batches_and_get_their_own(
    client: Any, class_pictures: list[Path], expected: list[Row]
) -> None:
    order = [i for _ in range(12) for i in range(len(class_pictures))]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: ask(client, [class_pictures[i].read_bytes()]), order))
    assert [one["LABEL"][0] for one in found] == [expected[i]["label"] for i in order]
    form = {"as_json": True} if "grpc" in client[0].__name__ else {}
    with client[0].InferenceServerClient(client[1]) as connection:
        statistics = connection.get_inference_statistics("rar", **form)
    (model,) = statistics["model_stats"]
    assert int(model["execution_count"]) < int(model["inference_count"]), "no batch held two requests"


def test_a_batch_over_the_limit_is_refused_and_the_server_goes_on(client: Any, class_pictures: list[Path]) -> None:
    from tritonclient.utils import InferenceServerException

    picture = class_pictures[0].read_bytes()
    with pytest.raises(InferenceServerException, match="<= 8"):
        ask(client, [picture] * 9)
    assert ask(client, [picture])["LABEL"] == ["cat"]


def test_what_the_document_shows(
    five_classes: tuple[Path, Path], serve: Callable[[list[str]], Any], class_pictures: list[Path], tmp_path: Path
) -> None:
    commands, program = needing("a server", "serving.md")[:2]
    *export, start = commands.text.splitlines()
    (tmp_path / "bundle").symlink_to(five_classes[0])
    shutil.copy(class_pictures[0], tmp_path / "cat.jpg")
    for line in export:
        typed("sh", line, tmp_path)
    name, *words = shlex.split(with_own(start, {"models": tmp_path / "models"}))
    assert name == "tritonserver"
    server = serve(words)
    address = f"127.0.0.1:{server.http}"
    answer = typed("python", with_own(program.text, {"127.0.0.1:8000": address}), tmp_path)
    assert "cat" in answer
    assert "retrieved" in answer
