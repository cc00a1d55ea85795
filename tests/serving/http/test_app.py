"""The description of the server is of the server."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from starlette.routing import Route

from rar.serving.http.app import openapi, routes
from rar.serving.http.limits import Limits
from rar.serving.http.reading import options

PAGE = Path(__file__).parents[3] / "serving/page"


def test_every_route_is_described_and_no_other() -> None:
    there = {
        (route.path.replace(":path}", "}"), method.lower())
        for route in routes()
        if isinstance(route, Route) and route.path != "/"
        for method in route.methods or ()
        if method != "HEAD"
    }
    paths: dict[str, Any] = openapi()["paths"]  # type: ignore[assignment]
    described = {(path, method) for path, one in paths.items() for method in one if method != "parameters"}
    assert described == there


def test_every_option_is_described() -> None:
    paths: dict[str, Any] = openapi()["paths"]  # type: ignore[assignment]
    with pytest.raises(ValueError, match="unknown") as refused:
        options({"what": 1}, Limits(), ("boxes",))
    known = set(re.findall(r"\w+", str(refused.value).partition("there are")[2]))
    assert {one["name"] for one in paths["/recognize"]["post"]["parameters"]} == known


def test_it_is_openapi(server: Any) -> None:
    validator = pytest.importorskip("openapi_spec_validator", reason="OpenAPI's own check is not installed")
    validator.validate(server.client.get("/openapi.json").json())


@pytest.mark.parametrize("file", sorted(PAGE.iterdir()), ids=lambda file: file.name)
def test_the_page_loads_nothing_from_elsewhere(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    found = {address for address in re.findall(r"(?:https?:)?//[\w.-]+", text) if address != "http://www.w3.org"}
    assert not {address for address in found if "." in address}, "an address"
    assert not re.search(r"\bon\w+=\"|<script>|style=\"|innerHTML|eval\(", text), "what the policy forbids"


def test_the_page_is_served_whole(server: Any) -> None:
    assert "<title>rar" in server.client.get("/").text
    for file in PAGE.iterdir():
        assert server.client.get(f"/page/{file.name}").content == file.read_bytes()
