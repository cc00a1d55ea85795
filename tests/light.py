"""`pytest --light`: the tests run as where PyTorch and what comes with it are not installed.

A plugin of pytest (`conftest.py`). Modules that begin by importing such a package are left out, and so are tests that
ask for the fixture `pytorch` or `tensorrt_rtx`, or for one that is made with it. `pytest --rest` then runs what the
last light run did not pass.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Generator
from importlib.machinery import PathFinder
from typing import Any

import pytest

# Models of PyTorch and engines, with what they bring 6 GB, and what only benchmarks compare with.
HEAVY = (
    *("torch", "torchvision", "transformers", "open_clip", "timm", "peft", "accelerate", "sentencepiece"),
    *("onnxscript", "efficientnet_lite_pytorch", "tensorrt_rtx", "hnswlib", "lvis", "pycocotools"),
)
_PASSED = "light/passed"
_MISSING = re.compile(r"ModuleNotFoundError: (?:import of |No module named ')(\w+)")
_NEEDED = re.compile("|".join(("needs PyTorch", "needs TensorRT-RTX", *(rf"\b{name}\b" for name in HEAVY))))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--light", action="store_true", help=f"as if these were not installed: {', '.join(HEAVY)}")
    parser.addoption("--rest", action="store_true", help="only what did not pass in the last run with --light")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("light"):
        sys.meta_path[sys.meta_path.index(PathFinder)] = _Light


class _Light(PathFinder):
    """Finds what is installed, but for `HEAVY`."""

    @classmethod
    def find_spec(cls, fullname: str, *args: Any, **kwargs: Any) -> Any:
        return None if fullname.partition(".")[0] in HEAVY else super().find_spec(fullname, *args, **kwargs)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Leaves out a module that cannot be imported without one of `HEAVY`."""
    report = yield
    missing = _MISSING.search(str(report.longrepr)) if report.failed and collector.config.getoption("light") else None
    if missing is not None and missing[1] in HEAVY:
        report.outcome, report.longrepr = "skipped", (str(collector.path), 0, f"Skipped: needs {missing[1]}")
    return report


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out what the last light run passed."""
    if config.getoption("rest"):
        passed = set(_cache(config).get(_PASSED, []))
        config.hook.pytest_deselected(items=[item for item in items if _name(item.nodeid) in passed])
        items[:] = [item for item in items if _name(item.nodeid) not in passed]


def _name(nodeid: str) -> str:
    """A test's name without that of its group, a folder, which is there where several processes run them."""
    return re.sub("@/[^@]*$", "", nodeid)


def _cache(config: pytest.Config) -> pytest.Cache:
    if config.cache is None:
        raise pytest.UsageError("--light and --rest need pytest's cache; leave out -p no:cacheprovider")
    return config.cache


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Says what was left out, and remembers what passed."""
    if config.getoption("light"):
        _cache(config).set(_PASSED, [_name(report.nodeid) for report in terminalreporter.getreports("passed")])
        # Each process collects, so a module may have been met more than once.
        skipped = {report.nodeid: report for report in terminalreporter.getreports("skipped")}
        left = [report for report in skipped.values() if _NEEDED.search(str(report.longrepr))]
        modules = sum(isinstance(report, pytest.CollectReport) for report in left)
        terminalreporter.write_line(
            f"left out, for they need PyTorch, TensorRT-RTX or peers of benchmarks: {modules} modules and folders of "
            f"tests, and {len(left) - modules} single tests; `make test-all` runs them too"
        )


@pytest.fixture(scope="session")
def pytorch() -> None:
    """For what is made with PyTorch."""
    pytest.importorskip("torch", reason="needs PyTorch")


@pytest.fixture(scope="session")
def tensorrt_rtx() -> None:
    """For what builds engines."""
    pytest.importorskip("tensorrt_rtx", reason="needs TensorRT-RTX")
