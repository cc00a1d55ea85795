"""What a server refuses, and that it answers afterwards as before."""

from __future__ import annotations

import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from rar.runtime import InputError
from rar.serving.http.command import main, read_keys
from rar.serving.http.limits import Limits, Rate, RefusalError

KEY = "0123456789abcdef0123"


@pytest.fixture(scope="module")
def small(start: Any, own_bundle: Path) -> Iterator[Any]:
    """A server of narrow limits."""
    options = ("--threads", 1, "--max-body", 200_000, "--max-held", 300_000, "--max-pictures", 3, "--slow", 2)
    with start(own_bundle, *options) as own:
        yield own


@pytest.fixture
def picture(class_pictures: list[Path]) -> bytes:
    return class_pictures[0].read_bytes()


@contextmanager
def connected(own: Any) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", own.port), timeout=20) as connection:
        yield connection


def answered(connection: socket.socket) -> bytes:
    """All that comes until the server closes."""
    parts = []
    while part := connection.recv(65536):
        parts.append(part)
    return b"".join(parts)


class TestForms:
    @pytest.mark.parametrize(
        ("content", "kind", "status", "said"),
        [
            (b"x", "text/plain", 415, "send multipart/form-data"),
            (b"x", "", 415, "of no type"),
            (b"{", "application/json", 400, "no JSON"),
            (b"[" * 100_000, "application/json", 400, "no JSON"),
            (b"\xff\xfe", "application/json", 400, "no JSON"),
            (b"[1]", "application/json", 400, "no object"),
            (b"{}", "application/json", 422, "no list `images`"),
            (b'{"images": []}', "application/json", 422, "no picture"),
            (b'{"images": [3]}', "application/json", 422, "base64"),
            (b'{"images": ["*"]}', "application/json", 422, "base64"),
            (b'{"images": ["\\ud800"]}', "application/json", 422, "base64"),
            (b'{"images": [""]}', "application/json", 422, "empty"),
            (b'{"images": ["AA=="], "path": "/etc/passwd"}', "application/json", 422, "'path' is unknown"),
            (b'{"images": ["AA==", "AA==", "AA==", "AA=="]}', "application/json", 413, "3 are the most"),
            (b"", "image/jpeg", 422, "empty"),
            (b"x", "multipart/form-data", 400, "boundary"),
            (b"no form", "multipart/form-data; boundary=b", 400, "form"),
            (b"--b\r\n\r\n", "multipart/form-data; boundary=b", 400, "form"),
        ],
    )
    def test_a_body_that_cannot_be_read(
        self, small: Any, picture: bytes, content: bytes, kind: str, status: int, said: str
    ) -> None:
        refused = small.client.post("/recognize", content=content, headers={"content-type": kind} if kind else {})
        assert (refused.status_code, said in refused.json()["error"]) == (status, True), refused.text
        assert small.recognize(picture).status_code == 200

    @pytest.mark.parametrize(
        ("asked", "said"),
        [
            ({"k": "0"}, "give 1 to"),
            ({"k": "-1"}, "whole number"),
            ({"k": "5"}, "the memory holds 4 classes"),
            ({"k": "1e9"}, "whole number"),
            ({"k": "9" * 5000}, "whole number"),
            ({"k": "²"}, "whole number"),
            ({"rank": "best"}, "choose none"),
            ({"rank": "mllm"}, "mllm"),
            ({"gate": "open"}, "choose off"),
            ({"unknown": "maybe"}, "choose answer, reject"),
            ({"deadline_ms": "nan"}, "number"),
            ({"deadline_ms": "0"}, "more than 0"),
            ({"labels": "nobody"}, "no class 'nobody'"),
            ({"labels": ["cat"] * 1001}, "1000 are the most"),
            ({"tags": "none"}, "no tag"),
            ({"boxes": "[[1,2,3]]"}, "four numbers"),
            ({"boxes": "[]"}, "1 to 3 boxes"),
            ({"boxes": "[[0,0,1,1],[0,0,1,1],[0,0,1,1],[0,0,1,1]]"}, "1 to 3 boxes"),
            ({"boxes": '[[0,0,1,"NaN"]]'}, "number"),
            ({"boxes": "[" * 9000}, "no JSON"),
            ({"sharpness": "3"}, "unknown"),
        ],
    )
    def test_an_option_that_cannot_be(self, small: Any, picture: bytes, asked: Any, said: str) -> None:
        refused = small.recognize(picture, **asked)
        assert (refused.status_code, said in refused.json()["error"]) == (422, True), refused.text

    def test_a_body_that_is_compressed(self, small: Any, picture: bytes) -> None:
        headers = {"content-type": "image/jpeg", "content-encoding": "gzip"}
        assert small.client.post("/recognize", content=picture, headers=headers).status_code == 415

    def test_what_is_not_there(self, small: Any) -> None:
        for method, path, status in (
            ("GET", "/nothing", 404), ("GET", "/memory/nobody", 404), ("DELETE", "/memory/nobody", 404),
            ("GET", "/recognize", 405), ("OPTIONS", "/recognize", 405), ("GET", "/page/../../setup.py", 404),
            ("GET", "/page/%2e%2e/%2e%2e/setup.py", 404), ("GET", "/memory?what=1", 422), ("GET", "/v2/models/no", 404),
        ):  # fmt: skip
            told = small.client.request(method, path)
            assert told.status_code == status, path
            assert "error" in told.json(), path
        assert small.client.patch("/memory/nobody", json={"label": "x"}).status_code == 404


class TestSizes:
    def test_a_body_over_the_limit_is_told_before_it_is_read(self, small: Any, picture: bytes) -> None:
        refused = small.recognize(bytes(200_001))
        assert refused.status_code == 413
        assert "200000 bytes" in refused.json()["error"]
        with connected(small) as connection:  # a gigabyte is only announced
            connection.sendall(
                b"POST /recognize HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/jpeg\r\n"
                b"Content-Length: 1073741824\r\nExpect: 100-continue\r\n\r\n"
            )
            assert answered(connection).startswith(b"HTTP/1.1 413 ")
        assert small.recognize(picture).status_code == 200

    def test_a_body_whose_length_is_not_told_is_counted(self, small: Any, picture: bytes) -> None:
        refused = small.client.post(
            "/recognize", content=(bytes(50_000) for _ in range(8)), headers={"content-type": "image/jpeg"}
        )
        assert refused.status_code == 413
        assert small.recognize(picture).status_code == 200

    def test_more_pictures_than_may_come_at_once(self, small: Any, picture: bytes) -> None:
        refused = small.client.post("/recognize", files=[("image", picture)] * 4)
        assert (refused.status_code, "Too many files" in refused.json()["error"]) == (413, True)

    def test_bodies_together_over_the_limit(self, small: Any, picture: bytes) -> None:
        head = (
            b"POST /recognize HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/jpeg\r\nContent-Length: 190000\r\n\r\n"
        )
        with connected(small) as one:
            one.sendall(head + bytes(180_000))
            time.sleep(0.3)  # it is read
            refused = small.recognize(bytes(150_000))
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
            one.sendall(bytes(10_000))
            assert one.recv(20).startswith(b"HTTP/1.1 422 ")
        assert small.recognize(picture).status_code == 200

    def test_a_picture_of_too_many_pixels(self, start: Any, own_bundle: Path, picture: bytes) -> None:
        with start(own_bundle, "--max-pixels", 1000) as own:
            refused = own.recognize(picture)
            assert (refused.status_code, "limit of 1000 pixels" in refused.json()["error"]) == (422, True)


class TestTime:
    def test_a_head_that_never_comes_whole(self, small: Any, picture: bytes) -> None:
        for first in (b"", b"POST /recog", b"POST /recognize HTTP/1.1\r\nHost: localhost\r\nX-A: b\r\n"):
            with connected(small) as connection:
                begun = time.monotonic()
                connection.sendall(first)
                assert b" 408 " in answered(connection)
                assert time.monotonic() - begun < 10
        assert small.recognize(picture).status_code == 200

    def test_a_head_that_comes_in_drops(self, small: Any) -> None:
        with connected(small) as connection:
            begun = time.monotonic()
            connection.settimeout(0.05)
            said = b""
            while not said and time.monotonic() - begun < 15:
                connection.sendall(b"X")
                with suppress(TimeoutError):
                    said = connection.recv(100)
            assert b" 408 " in said
            assert time.monotonic() - begun < 10

    def test_a_body_that_comes_in_drops(self, small: Any, picture: bytes) -> None:
        with connected(small) as connection:
            connection.sendall(
                b"POST /recognize HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/jpeg\r\n"
                b"Content-Length: 5000\r\n\r\nxx"
            )
            said = answered(connection)
            assert said.startswith(b"HTTP/1.1 408 ")
            assert b"within 2 s" in said
        assert small.recognize(picture).status_code == 200

    def test_clients_that_hang_up(self, small: Any, picture: bytes) -> None:
        head = b"POST /recognize HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n"
        for sent in (head % len(picture), head % len(picture) + picture[:100], head % len(picture) + picture):
            for _ in range(5):
                with connected(small) as connection:
                    connection.sendall(sent)
        answer = small.recognize(picture)
        assert answer.status_code == 200
        assert "rar_held_bytes 0.0" in small.client.get("/metrics").text

    def test_a_queue_that_is_full_and_a_picture_that_waits_too_long(
        self, start: Any, own_bundle: Path, picture: bytes
    ) -> None:
        with start(own_bundle, "--threads", 1, "--queue", 4, "--batch-size", 1) as own:
            process = own.process
            with ThreadPoolExecutor(24) as clients:
                asked = [clients.submit(own.recognize, picture) for _ in range(24)]
                statuses = [one.result().status_code for one in asked]
                refused = [one.result() for one in asked if one.result().status_code != 200]
            assert set(statuses) == {200, 503}
            assert all(int(one.headers["retry-after"]) >= 1 for one in refused)
            assert all("wait already" in one.json()["error"] for one in refused)
            assert process.poll() is None
            late = own.recognize(picture, deadline_ms=0.01)
            assert (late.status_code, "not answered within" in late.json()["error"]) == (503, True)
            assert own.recognize(picture).status_code == 200

    def test_too_many_connections(self, start: Any, own_bundle: Path, picture: bytes) -> None:
        with start(own_bundle, "--connections", 4) as own:
            own.client.get("/healthz")
            with connected(own), connected(own), connected(own), connected(own) as last:
                said = answered(last)
            assert said.startswith(b"HTTP/1.1 503 ")
            assert b"retry-after" in said
            assert own.recognize(picture).status_code == 200

    def test_too_many_requests(self, start: Any, own_bundle: Path) -> None:
        with start(own_bundle, "--rate", 5) as own:
            told = [own.client.get("/healthz") for _ in range(20)]
            refused = [one for one in told if one.status_code == 429]
            assert refused
            assert [one.status_code for one in told[:10]] == [200] * 10
            time.sleep(int(refused[-1].headers["retry-after"]))
            assert own.client.get("/healthz").status_code == 200


def test_a_rate_is_each_clients_own_and_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("rar.serving.http.limits.monotonic", lambda: now[0])
    rate = Rate(2)
    for _ in range(4):
        rate.take("one")
    with pytest.raises(RefusalError) as refused:
        rate.take("one")
    assert refused.value.retry_after == pytest.approx(0.5)
    rate.take("other")
    now[0] = 0.5
    rate.take("one")
    with pytest.raises(RefusalError):
        rate.take("one")


class TestWhoMayAsk:
    def test_a_key_is_needed_where_there_is_one(self, start: Any, own_bundle: Path, picture: bytes) -> None:
        with start(own_bundle, key=KEY) as own:
            assert own.recognize(picture).status_code == 200
            strange = httpx.Client(base_url=own.url)
            for headers in (
                {}, {"authorization": KEY}, {"authorization": f"Basic {KEY}"}, {"authorization": f"Bearer {KEY}x"},
                {"authorization": f"Bearer {KEY[:-1]}"}, {"x-api-key": "é".encode("latin-1")},
                {"x-api-key": "a" * 9999},
            ):  # fmt: skip
                for method, path in (
                    ("POST", "/recognize"), ("GET", "/memory"), ("GET", "/metrics"), ("GET", "/v2/models/rar"),
                    ("DELETE", "/memory/cat"), ("GET", "/thumbnail?source=x"), ("GET", "/nothing"),
                ):  # fmt: skip
                    refused = strange.request(method, path, headers=headers)
                    assert refused.status_code == 401, (headers, path)
                    assert refused.headers["www-authenticate"] == "Bearer"
            assert strange.get("/memory", headers={"x-api-key": KEY}).status_code == 200
            for path in ("/", "/page/page.js", "/healthz", "/v2/health/ready", "/openapi.json"):
                assert strange.get(path).status_code == 200, path

    def test_pages_of_other_servers_may_not_ask(self, small: Any, picture: bytes) -> None:
        here = f"http://127.0.0.1:{small.port}"
        for origin, status in ((here, 200), ("http://evil.example", 403), ("null", 403), ("http://127.0.0.1:1", 403)):
            files = [("image", picture)]
            told = small.client.post("/recognize", files=files, headers={"origin": origin})
            assert told.status_code == status, origin
            assert "access-control-allow-origin" not in told.headers
        refused = small.client.delete("/memory/cat", headers={"origin": "http://evil.example"})
        assert refused.status_code == 403

    def test_a_name_that_was_made_to_point_here(self, small: Any) -> None:
        for host, status in (
            ("localhost:1", 200), ("127.0.0.1", 200), ("[::1]:80", 200), ("10.0.0.7:8000", 200), ("evil.example", 421),
            ("localhost.evil.example", 421), ("127.0.0.1.evil.example:80", 421), ("", 421),
        ):  # fmt: skip
            told = small.client.get("/healthz", headers={"host": host})
            assert told.status_code == status, host

    def test_answers_name_no_source_but_this_server(self, small: Any) -> None:
        for path in ("/", "/page/page.js", "/healthz", "/nothing"):
            headers = small.client.get(path).headers
            assert "default-src 'none'" in headers["content-security-policy"]
            assert headers["x-content-type-options"] == "nosniff"
            assert "server" not in headers


class TestStart:
    def test_it_listens_on_this_machine_alone(self, small: Any) -> None:
        listening = Path(f"/proc/{small.process.pid}/net/tcp").read_text()
        own = [line.split()[1] for line in listening.splitlines() if f":{small.port:04X} " in line and " 0A " in line]
        assert own == [f"0100007F:{small.port:04X}"]

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            (["--host", "0.0.0.0"], "--api-key-file"),  # noqa: S104
            (["--host", "nobody.invalid", "--no-key"], "choose another"),
            (["--port", "70000"], "1 to 65535"),
            (["--pictures", "/nowhere"], "no such folder"),
            (["--certificate", "x.pem"], "go together"),
            (["--certificate", "x.pem", "--certificate-key", "y.pem"], "no such file"),
            (["--queue", "0"], "more than zero"),
            (["--rate", "nan"], "more than zero"),
            (["--batch-size", "0"], "--batch-size 0"),
            (["--model-name", "a/b"], "--model-name"),
            (["--api-key-file", "/nowhere"], "cannot be read"),
        ],
    )
    def test_settings_that_cannot_be(
        self, own_bundle: Path, options: list[str], said: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main([str(own_bundle), "--provider", "cpu", *options]) == 2
        err = capsys.readouterr().err
        assert said in err
        assert len(err.splitlines()) == 1

    def test_a_port_that_is_taken(self, small: Any, own_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main([str(own_bundle), "--provider", "cpu", "--port", str(small.port)]) == 2
        assert "choose another" in capsys.readouterr().err

    def test_keys_that_others_may_read_or_guess(self, tmp_path: Path) -> None:
        file = tmp_path / "keys"
        file.write_text(f"# ours\n{KEY}\n\n{KEY[::-1]}\n")
        file.chmod(0o644)
        with pytest.raises(InputError, match="chmod 600"):
            read_keys(str(file), None)
        file.chmod(0o600)
        keys = read_keys(str(file), None)
        assert keys.known(KEY)
        assert keys.known(KEY[::-1])
        assert not keys.known("")
        for content, said in (
            ("", "holds no key"),
            ("short\n", "shorter"),
            ("é" * 20, "shorter"),
            ("a b" * 9, "others"),
        ):
            file.write_text(content)
            with pytest.raises(InputError, match=said):
                read_keys(str(file), None)
        with pytest.raises(InputError, match="shorter"):
            read_keys(None, "short")

    def test_limits_above_zero(self) -> None:
        with pytest.raises(InputError, match="the limit of queue is 0"):
            Limits(queue=0)


class TestEnd:
    def test_what_was_asked_is_answered_before_it_ends(
        self, start: Any, own_bundle: Path, class_pictures: list[Path]
    ) -> None:
        with start(own_bundle, "--threads", 1, "--batch-size", 1) as own, ThreadPoolExecutor(8) as clients:
            files = [("image", path.read_bytes()) for path in class_pictures]
            asked = [clients.submit(own.client.post, "/recognize", files=files) for _ in range(8)]
            while "rar_held_bytes 0.0" in own.client.get("/metrics").text:
                assert not all(one.done() for one in asked)
            assert own.end() == 0
            assert [one.result().status_code for one in asked] == [200] * 8
            with pytest.raises(httpx.ConnectError):
                httpx.get(own.url + "/healthz")

    def test_ctrl_c_ends_it_too(self, start: Any, own_bundle: Path) -> None:
        with start(own_bundle) as own:
            own.process.send_signal(signal.SIGINT)
            assert own.process.wait(60) == 0


def test_https_with_a_certificate(start: Any, own_bundle: Path, tmp_path: Path, picture: bytes) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-keyout", str(key), "-out", str(cert), "-days", "1", "-subj", "/CN=localhost"]
    try:
        subprocess.run([*command, "-addext", "subjectAltName=IP:127.0.0.1"], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("there is no openssl here to make a certificate")
    with start(own_bundle, "--certificate", cert, "--certificate-key", key) as own:
        assert own.url.startswith("https://")
        # Closed before the server: it would wait half a minute for the client's goodbye.
        with httpx.Client(base_url=own.url, verify=ssl.create_default_context(cafile=str(cert))) as trusted:
            answer = trusted.post("/recognize", content=picture, headers={"content-type": "image/jpeg"})
            assert answer.status_code == 200
