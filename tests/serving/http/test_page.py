"""The page in a real browser: pictures are recognised, boxes named, a thing is taught from three shots and undone."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chromium import chromium
from edge.fetch import AbsentError
from PIL import Image

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

KEY = "0123456789abcdef0123"
SECONDS = 60


@pytest.fixture(scope="module")
def camera(labelled_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the browser's camera sees: a photo, as motion JPEG."""
    made = tmp_path_factory.mktemp("camera") / "camera.mjpeg"
    with Image.open(labelled_folder / "rocket/0.jpg") as photo:
        photo.resize((640, 480)).save(made, "JPEG")
    made.write_bytes(2 * made.read_bytes())
    return made


@pytest.fixture(scope="module")
def browser(camera: Path) -> Iterator[Any]:
    try:
        found = chromium()
    except AbsentError as error:
        pytest.skip(f"no Chromium: {error}")
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(
            executable_path=found.program,
            env={**os.environ, **found.environment},
            args=[
                *("--no-sandbox", "--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"),
                f"--use-file-for-fake-video-capture={camera}",
            ],
        )
        yield opened
        opened.close()


@pytest.fixture(params=["phone", "desktop"])
def page(request: pytest.FixtureRequest, browser: Any, server: Any) -> Iterator[Any]:
    """The page at a phone's size with fingers, or a desktop's in the dark. It must not fail, nor ask anybody else."""
    phone = request.param == "phone"
    context = browser.new_context(
        viewport={"width": 390, "height": 844} if phone else {"width": 1280, "height": 900},
        has_touch=phone,
        color_scheme="light" if phone else "dark",
    )
    opened = context.new_page()
    failed: list[str] = []
    opened.on("pageerror", lambda error: failed.append(str(error)))
    # That a picture cannot be read is an answer, which the browser notes as an error.
    opened.on(
        "console",
        lambda told: failed.append(told.text) if told.type == "error" and "status of 422" not in told.text else None,
    )
    elsewhere: list[str] = []
    opened.on(
        "request", lambda asked: None if asked.url.startswith((server.url, "blob:")) else elsewhere.append(asked.url)
    )
    opened.set_default_timeout(1000 * SECONDS)
    opened.goto(server.url)
    yield opened
    wide = opened.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    context.close()
    assert (failed, elsewhere) == ([], [])
    assert wide <= 0, "it scrolls sideways"


def seeing(page: Any, video: str) -> None:
    """Waits until the camera gives pictures; the page's policy forbids Playwright's own way of waiting for that."""
    end = time.monotonic() + SECONDS
    while not page.locator(video).evaluate("video => video.videoWidth"):
        assert time.monotonic() < end
        page.wait_for_timeout(50)


def answered(page: Any) -> Any:
    """The newest card, once it says something."""
    card = page.locator("#results .result").first
    card.locator(".best h2, .wrong").first.wait_for()
    return card


def test_pictures_are_recognised_before_and_after_ranking(page: Any, class_pictures: list[Path]) -> None:
    page.set_input_files("#files", class_pictures[:2])
    card = answered(page)
    assert page.locator("#results .result").count() == 2
    assert card.locator(".best h2").inner_text() == "cat"
    assert card.locator(".sure").inner_text().endswith("%")
    assert card.locator(".lists ol").count() == 2
    assert card.locator(".lists ol").nth(0).locator("li").count() == 4
    assert "Ranked by wca" in card.locator(".lists").inner_text()
    assert {"decode", "embed", "search", "rank"} <= set(card.locator(".ms").inner_text().replace(":", "").split())
    # The memory's own examples, of its folder.
    card.locator("img.thumb").first.wait_for()
    assert card.locator("img.thumb").first.evaluate("image => image.naturalWidth") > 0


def test_fewer_candidates_and_another_ranker(page: Any, class_pictures: list[Path]) -> None:
    page.locator("details summary").click()
    page.fill("#k", "2")
    page.select_option("#rank", "none")
    page.set_input_files("#files", class_pictures[0])
    card = answered(page)
    assert card.locator(".lists ol").nth(1).locator("li").count() == 2
    assert "Not ranked" in card.locator(".lists").inner_text()


def test_a_file_that_is_no_picture_says_so(page: Any, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.jpg"
    wrong.write_bytes(b"no picture")
    page.set_input_files("#files", wrong)
    assert "not a picture" in answered(page).inner_text()


def test_boxes_are_drawn_and_named(page: Any, class_pictures: list[Path]) -> None:
    page.set_input_files("#files", class_pictures[3])
    card = answered(page)
    canvas = card.locator("canvas")
    canvas.scroll_into_view_if_needed()
    around = canvas.bounding_box()
    with page.expect_request("**/recognize?*boxes*") as asked:
        page.mouse.move(around["x"] + 0.3 * around["width"], around["y"] + 0.3 * around["height"])
        page.mouse.down()
        page.mouse.move(around["x"] + 0.6 * around["width"], around["y"] + 0.8 * around["height"], steps=4)
        page.mouse.up()
    assert "boxes=%5B%5B" in asked.value.url
    card.locator(".best h2", has_text="1 ").wait_for()
    card.get_by_text("Whole picture").click()
    card.locator(".none").wait_for()


def test_a_finger_draws_boxes_when_it_is_told_to(page: Any, class_pictures: list[Path]) -> None:
    if not page.evaluate("navigator.maxTouchPoints"):
        pytest.skip("no fingers on a desktop")
    page.set_input_files("#files", class_pictures[3])
    card = answered(page)
    card.get_by_text("Draw boxes").click()
    canvas = card.locator("canvas")
    canvas.scroll_into_view_if_needed()
    around = canvas.bounding_box()
    fingers = page.context.new_cdp_session(page)
    with page.expect_request("**/recognize?*boxes*"):
        for kind, share in (("touchStart", 0.3), ("touchMove", 0.5), ("touchMove", 0.7), ("touchEnd", None)):
            where = [] if share is None else [{
                "x": around["x"] + share * around["width"], "y": around["y"] + share * around["height"]
            }]  # fmt: skip
            fingers.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": where})
    card.locator(".best h2", has_text="1 ").wait_for()


def test_the_camera_is_looked_through(page: Any, server: Any, camera: Path) -> None:
    # The browser compresses what the camera shows: only the same picture is surely nearer than any other.
    server.teach("what it sees", camera)
    page.locator("details summary").click()
    page.select_option("#rank", "none")
    page.click("#camera-open")
    seeing(page, "#video")
    page.click("#shoot")
    assert answered(page).locator(".best h2").inner_text() == "what it sees"
    server.client.delete("/memory/what it sees")
    page.check("#live")
    page.locator("#results .result").nth(1).wait_for()
    answered(page)
    page.click("#camera-close")
    assert page.locator("#camera").is_hidden()


def test_a_thing_is_taught_from_three_shots_seen_again_and_undone(page: Any, server: Any, photos: list[Path]) -> None:
    astronaut = [path for path in photos if path.name == "astronaut.png"]
    page.click("nav >> text=Recognise")
    page.set_input_files("#files", astronaut)
    answered(page).locator(".none").click()
    assert page.locator("#shots img").count() == 1
    assert page.locator("#learn").is_disabled()
    page.set_input_files("#shot-files", astronaut * 2)
    page.fill("#name", "an astronaut")
    page.click("#learn")
    page.locator("#learned .best h2").wait_for()
    assert "Learned “an astronaut” from 3 shots" in page.locator("#told").inner_text()
    (row,) = server.client.get("/memory", params={"contains": "astronaut"}).json()["classes"]
    assert row["pictures"] == 3
    page.click("nav >> text=Memory")
    page.fill("#find", "astro")
    page.locator("#classes img.thumb").first.wait_for()
    page.locator("#told >> text=Undo").click()
    page.get_by_text("is as it was before").wait_for()
    assert server.client.get("/memory").json()["total"] == 4


def test_shots_are_taken_by_the_camera(page: Any, server: Any) -> None:
    page.click("nav >> text=Teach")
    page.click("#shot-camera")
    seeing(page, "#shot-video")
    for count in (1, 2, 3):
        page.click("#take")
        page.locator("#shots img").nth(count - 1).wait_for()
    page.locator("#shots button").first.click()
    page.fill("#name", "rocket")
    page.click("#learn")
    page.locator("#learned .best h2").wait_for()
    assert len(server.client.get("/memory/rocket").json()["pictures"]) == 5
    page.locator("#told >> text=Undo").click()
    page.get_by_text("is as it was before").wait_for()
    assert len(server.client.get("/memory/rocket").json()["pictures"]) == 3


def test_a_class_is_renamed_and_back(page: Any, server: Any) -> None:
    page.click("nav >> text=Memory")
    page.wait_for_load_state("networkidle")  # a list that is drawn anew in the midst of a click loses it
    page.once("dialog", lambda asked: asked.accept("<b>grass & moss</b>"))
    page.locator("#classes li", has_text="grass").get_by_text("Rename").click()
    page.locator("#classes strong", has_text="<b>grass & moss</b>").wait_for()
    page.locator("#told >> text=Undo").click()
    page.locator("#classes strong", has_text="grass").and_(page.get_by_text("grass", exact=True)).wait_for()
    assert server.client.get("/memory/grass").status_code == 200


def test_a_class_is_removed_only_when_the_user_is_sure(page: Any, server: Any, class_pictures: list[Path]) -> None:
    server.teach("soon gone", class_pictures[0])
    page.click("nav >> text=Memory")
    page.wait_for_load_state("networkidle")  # a list that is drawn anew in the midst of a click loses it
    page.once("dialog", lambda asked: asked.dismiss())
    page.locator("#classes li", has_text="soon gone").get_by_text("Remove").click()
    assert server.client.get("/memory/soon gone").status_code == 200
    page.once("dialog", lambda asked: asked.accept())
    page.locator("#classes li", has_text="soon gone").get_by_text("Remove").click()
    page.get_by_text("was removed").wait_for()
    assert server.client.get("/memory/soon gone").status_code == 404


def test_a_server_with_a_key_is_asked_with_it(
    browser: Any, start: Any, own_bundle: Path, class_pictures: list[Path]
) -> None:
    with start(own_bundle, key=KEY) as own:
        page = browser.new_page()
        page.set_default_timeout(1000 * SECONDS)
        page.goto(own.url)
        page.set_input_files("#files", class_pictures[0])
        for typed in ("wrong", KEY):
            page.locator("#key[open]").wait_for()
            page.fill("#key-text", typed)
            page.click("#key button")
        assert answered(page).locator(".best h2").inner_text() == "cat"
        page.close()


def test_what_programs_can_ask_is_a_page(browser: Any, server: Any) -> None:
    page = browser.new_page()
    page.goto(f"{server.url}/page/api.html")
    page.get_by_text("POST /recognize").wait_for()
    page.close()
