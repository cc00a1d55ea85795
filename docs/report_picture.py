"""Draws docs/report.png: a page of `rar-bench report` as headless Chromium shows it, light and at a desktop's width.

python docs/report_picture.py benchmarks/results/latency.json benchmarks/results/accuracy-grocery.json …

Needs Chromium or Chrome.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from rar.benchmarks.cli import main as bench

WIDTH, HEIGHT = 1280, 2400
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def main(results: list[str]) -> int:
    """Writes the picture."""
    browser = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if browser is None:
        sys.exit(f"none of {', '.join(BROWSERS)} is installed")
    with tempfile.TemporaryDirectory() as scratch:
        page = Path(scratch) / "report.html"
        if code := bench(["report", *results, "--out", str(page)]):
            return code
        picture = Path(__file__).with_name("report.png")
        command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        command += [f"--user-data-dir={scratch}/profile", "--blink-settings=preferredColorScheme=1"]
        command += [f"--window-size={WIDTH},{HEIGHT}", f"--screenshot={picture}", page.as_uri()]
        return subprocess.run(command, check=False, stderr=subprocess.DEVNULL).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
