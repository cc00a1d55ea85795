"""Draws docs/page-*.jpg: the page of `rar-serve` in headless Chromium, on a phone and on a desktop in the dark.

PYTHONPATH=tests python docs/page_pictures.py BUNDLE PICTURES PHOTO NAME SHOT SHOT SHOT

BUNDLE is copied; PICTURES is the folder of its memory's pictures; PHOTO is recognised, and NAME taught from the SHOTs.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from chromium import chromium
from PIL import Image
from playwright.sync_api import Page, sync_playwright

DOCS = Path(__file__).parent
_QUALITY = 80
_SECONDS = 120


def main(bundle: str, pictures: str, photo: str, name: str, *shots: str) -> None:
    """Writes the pictures."""
    found = chromium()
    with tempfile.TemporaryDirectory() as scratch, sync_playwright() as playwright:
        own = shutil.copytree(bundle, Path(scratch) / "bundle")
        command = [sys.executable, "-m", "rar.serving.http.command", str(own), "--port", "0", "--pictures", pictures]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
            told = "" if server.stderr is None else server.stderr.readline()
            if (url := re.fullmatch(r"rar-serve: (\S+)\n", told)) is None:
                sys.exit(told)
            browser = playwright.chromium.launch(
                executable_path=found.program, env={**os.environ, **found.environment}, args=["--no-sandbox"]
            )
            for width, height, scheme in ((390, 844, "light"), (1280, 800, "dark")):
                page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
                page.set_default_timeout(1000 * _SECONDS)
                page.goto(url[1])
                page.set_input_files("#files", photo)
                _settle(page, "#results")
                page.locator("#results .result").scroll_into_view_if_needed()
                _draw(page, f"page-recognise-{width}", width)
                page.click("nav >> text=Teach")
                page.set_input_files("#shot-files", list(shots))
                page.fill("#name", name)
                page.click("#learn")
                _settle(page, "#learned")
                _draw(page, f"page-teach-{width}", width)
                page.locator("#told >> text=Undo").click()
                page.get_by_text("is as it was before").wait_for()
                page.close()
            browser.close()
            server.terminate()


def _settle(page: Page, where: str) -> None:
    """Waits for the answer and its small pictures."""
    page.locator(f"{where} .best h2").first.wait_for()
    page.locator(f"{where} img.thumb").nth(3).wait_for()
    page.wait_for_timeout(1000)


def _draw(page: Page, name: str, width: int) -> None:
    with tempfile.NamedTemporaryFile(suffix=".png") as file:
        page.screenshot(path=file.name, full_page=width < 500)
        Image.open(file.name).convert("RGB").save(DOCS / f"{name}.jpg", quality=_QUALITY, optimize=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
