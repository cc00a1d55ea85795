"""The Open Inference Protocol, as Triton's own client speaks it and as it is written."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rar.runtime import Recognizer


@pytest.fixture(scope="module")
def client(server: Any) -> Any:
    triton = pytest.importorskip("tritonclient.http", reason="Triton's client is not installed")
    return triton.InferenceServerClient(f"127.0.0.1:{server.port}")


def asked(pictures: list[bytes], binary: bool) -> Any:
    from tritonclient.http import InferInput

    given = InferInput("IMAGE", [len(pictures), 1], "BYTES")
    if binary:
        given.set_data_from_numpy(np.array(pictures, object)[:, None], binary_data=True)
    else:
        given.set_data_from_numpy(
            np.array([base64.b64encode(one) for one in pictures], object)[:, None], binary_data=False
        )
    return given


def test_tritons_client_finds_the_model(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("rar")
    assert client.is_model_ready("rar", "1")
    assert client.get_server_metadata()["name"] == "rar-serve"
    metadata = client.get_model_metadata("rar")
    assert metadata["inputs"] == [{"name": "IMAGE", "datatype": "BYTES", "shape": [-1, 1]}]
    assert {"LABEL", "SCORE", "ERROR"} <= {output["name"] for output in metadata["outputs"]}


def texts(values: Any) -> list[str]:
    """Binary tensors give bytes, those in JSON give texts."""
    return [value.decode() if isinstance(value, bytes) else value for value in values[:, 0]]


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("as_bytes", [True, False])
def test_tritons_client_is_answered(
    client: Any, own_bundle: Path, class_pictures: list[Path], binary: bool, as_bytes: bool
) -> None:
    from tritonclient.http import InferRequestedOutput

    pictures = [path.read_bytes() for path in class_pictures[::4]]
    names = ("LABEL", "SCORE", "PROBABILITY", "ERROR", "RESULT")
    outputs = [InferRequestedOutput(name, binary_data=as_bytes) for name in names]
    inputs = [asked(pictures, binary)]
    answer = client.infer("rar", inputs, outputs=outputs, request_id="7", parameters={"k": 3})
    found = {name: answer.as_numpy(name) for name in names}
    with Recognizer.open(own_bundle, "cpu", threads=1) as recognizer:
        expected = recognizer.recognize(pictures, k=3)
    assert all(values.shape == (len(pictures), 1) for values in found.values())
    assert texts(found["LABEL"]) == [result.label for result in expected]
    np.testing.assert_allclose(found["SCORE"][:, 0], [result.score for result in expected], atol=1e-3)
    np.testing.assert_allclose(found["PROBABILITY"][:, 0], [result.probability for result in expected], atol=1e-3)
    assert texts(found["ERROR"]) == ["", "", ""]
    rows = [json.loads(text) for text in texts(found["RESULT"])]
    assert [row["retrieved"] for row in rows] == [[one.label for one in result.retrieved] for result in expected]
    assert answer.get_response()["id"] == "7"


@pytest.mark.parametrize("binary", [True, False])
def test_a_broken_picture_has_an_error_beside_others(client: Any, class_pictures: list[Path], binary: bool) -> None:
    from tritonclient.http import InferRequestedOutput

    inputs = [asked([class_pictures[0].read_bytes(), b"no picture"], True)]
    named = None if binary else [InferRequestedOutput(n, binary_data=False) for n in ("LABEL", "SCORE", "ERROR")]
    answer = client.infer("rar", inputs, outputs=named)
    assert texts(answer.as_numpy("LABEL")) == ["cat", ""]
    assert np.isnan(answer.as_numpy("SCORE")[:, 0]).tolist() == [False, True]
    assert "not a picture" in texts(answer.as_numpy("ERROR"))[1]


def test_a_request_as_it_is_written(server: Any, class_pictures: list[Path]) -> None:
    text = base64.b64encode(class_pictures[0].read_bytes()).decode()
    given = {"name": "IMAGE", "shape": [1], "datatype": "BYTES", "data": [text]}
    for path in ("/v2/models/rar/infer", "/v2/models/rar/versions/1/infer"):
        answer = server.client.post(path, json={"inputs": [given], "outputs": [{"name": "LABEL"}]}).json()
        (output,) = answer["outputs"]
        assert (output["name"], output["datatype"], output["shape"]) == ("LABEL", "BYTES", [1, 1])
        assert output["data"][0] == "cat"


IMAGE = {"name": "IMAGE", "shape": [1], "datatype": "BYTES", "data": ["AA=="]}


@pytest.mark.parametrize(
    ("content", "status", "said"),
    [
        ({}, 400, "one input"),
        ({"inputs": [IMAGE, IMAGE]}, 400, "one input"),
        ({"inputs": [3]}, 400, "no object"),
        ({"inputs": [IMAGE | {"name": "x"}]}, 400, "`IMAGE` of BYTES"),
        ({"inputs": [IMAGE | {"datatype": "FP32"}]}, 400, "`IMAGE` of BYTES"),
        ({"inputs": [IMAGE | {"shape": [2]}]}, 400, "shape"),
        ({"inputs": [IMAGE | {"data": None}]}, 400, "neither"),
        ({"inputs": [IMAGE | {"data": ["*"]}]}, 422, "base64"),
        ({"inputs": [IMAGE | {"data": [], "shape": [0]}]}, 413, "1 to"),
        ({"inputs": [IMAGE | {"parameters": {"binary_data_size": 9}}]}, 400, "0 bytes follow"),
        ({"inputs": [IMAGE | {"parameters": {"binary_data_size": True}}]}, 400, "bytes follow"),
        ({"inputs": [IMAGE], "outputs": [{"name": "x"}]}, 400, "no output 'x'"),
        ({"inputs": [IMAGE], "outputs": "label"}, 400, "no list"),
        ({"inputs": [IMAGE], "parameters": {"what": 1}}, 422, "unknown"),
        ({"inputs": [IMAGE], "parameters": 3}, 400, "no object"),
    ],
)
def test_a_request_that_is_wrong(server: Any, content: Any, status: int, said: str) -> None:
    refused = server.client.post("/v2/models/rar/infer", json=content)
    assert (refused.status_code, said in refused.json()["error"]) == (status, True), refused.text


@pytest.mark.parametrize("length", ["-1", "x", "9999999", "²"])
def test_a_length_that_cannot_be(server: Any, length: str) -> None:
    headers = {"inference-header-content-length": length.encode()}
    assert server.client.post("/v2/models/rar/infer", content=b"{}", headers=headers).status_code == 400


def test_bytes_that_are_cut_off(server: Any) -> None:
    tail = (100).to_bytes(4, "little") + b"short"
    head = json.dumps({"inputs": [IMAGE | {"data": None, "parameters": {"binary_data_size": len(tail)}}]}).encode()
    headers = {"inference-header-content-length": str(len(head))}
    refused = server.client.post("/v2/models/rar/infer", content=head + tail, headers=headers)
    assert (refused.status_code, "cut off" in refused.json()["error"]) == (422, True)


def test_another_model(server: Any) -> None:
    for path in ("/v2/models/other", "/v2/models/other/ready", "/v2/models/rar/versions/2"):
        assert server.client.get(path).status_code == 404
