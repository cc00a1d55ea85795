"""A headless Chromium for tests of pages: the one that is installed, or Debian's, unpacked under build/."""

from __future__ import annotations

import fcntl
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from edge.fetch import AbsentError, Debian, host

ROOT = Path(__file__).resolve().parents[1]
INSTALLED = ("chromium", "chromium-browser", "chromium-headless-shell", "google-chrome")
_PACKAGES = ("chromium-headless-shell", "fonts-dejavu-core")


@dataclass(frozen=True)
class Chromium:
    """A browser's program, and what it finds its libraries and fonts by."""

    program: Path
    environment: dict[str, str] = field(default_factory=dict)


def chromium() -> Chromium:
    """A browser; `RAR_CHROMIUM` names one, and else it is looked for, and else fetched once.

    Raises:
        AbsentError: There is none, and none can be fetched.
    """
    if given := os.environ.get("RAR_CHROMIUM"):
        if not Path(given).is_file():
            raise AbsentError(f"RAR_CHROMIUM={given}: no such file")
        return Chromium(Path(given))
    for name in INSTALLED:
        if (found := shutil.which(name)) is not None:
            return Chromium(Path(found))
    (ROOT / "build").mkdir(exist_ok=True)
    with (ROOT / "build/browser.lock").open("w") as lock:  # tests of two folders may ask at once
        fcntl.flock(lock, fcntl.LOCK_EX)
        folder = Debian("browser", "bookworm", host(), _PACKAGES).unpack(ROOT / "build/browser")
    libraries = folder / f"usr/lib/{os.uname().machine}-linux-gnu"  # not lib: the C library there is another one
    fonts = folder / "fonts.conf"
    fonts.write_text(
        '<?xml version="1.0"?><!DOCTYPE fontconfig SYSTEM "fonts.dtd"><fontconfig>'
        f"<dir>{folder}/usr/share/fonts</dir><cachedir>{folder}/cache</cachedir></fontconfig>"
    )
    environment = {"LD_LIBRARY_PATH": f"{libraries}:{libraries}/pulseaudio", "FONTCONFIG_FILE": str(fonts)}
    return Chromium(folder / "usr/lib/chromium/chromium-headless-shell", environment)
