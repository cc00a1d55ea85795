"""`docs/environment.md` lists the variables that the code reads, and no others."""

from __future__ import annotations

import re

from documents import ROOT

PAGE = (ROOT / "docs/environment.md").read_text(encoding="utf-8")
_READ = re.compile(
    r"""(?:environ\.get\(|getenv\()["'](\w+)["']|environ\[["'](\w+)["']\](?! = )"""
    r"""|["'](\w+)["'] (?:not )?in os\.environ"""
)
# Read to be passed on.
PASSED = {"PATH", "PYTHONPATH", "PYTEST_XDIST_WORKER"}


def read() -> set[str]:
    """The variables that Python and C++ read."""
    files = [ROOT / "setup.py"]
    for top in ("runtime", "export", "serving", "benchmarks", "cpp_ext", "tests", "docs"):
        files += [path for path in (ROOT / top).rglob("*") if path.suffix in (".py", ".cpp", ".h")]
    found = (match for path in files for match in _READ.findall(path.read_text(encoding="utf-8")))
    return {name for names in found for name in names if name} - PASSED


def written() -> set[str]:
    return {name for row in re.findall(r"^\| (`.*?) \|", PAGE, re.M) for name in re.findall(r"`(\w+)`", row)}


def test_each_variable_is_written_down_and_each_that_is_written_is_read() -> None:
    assert {"RAR_SIMD", "RAR_CACHE", "RAR_DATA"} <= read()
    assert written() == read()
