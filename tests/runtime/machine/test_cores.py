"""Threads go by the cores that the process may use, not by those that the machine has."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rar.runtime.machine.cores import usable_cores

ALLOWED = len(os.sched_getaffinity(0))


def fake(root: Path, lines: str, files: dict[str, str]) -> Path:
    """A root folder whose /proc/self/cgroup has these lines, and these files under /sys/fs/cgroup."""
    for path, text in {
        "proc/self/cgroup": lines,
        **{f"sys/fs/cgroup/{at}": text for at, text in files.items()},
    }.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return root


@pytest.fixture
def many(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of 64 cores, all of them allowed: what quotas do to it."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)))


@pytest.mark.usefixtures("many")
@pytest.mark.parametrize(
    ("lines", "files", "cores"),
    [
        pytest.param("0::/\n", {"cpu.max": "max 100000\n"}, 64, id="no limit"),
        pytest.param("0::/\n", {"cpu.max": "300000 100000\n"}, 3, id="a container's own"),
        pytest.param("0::/\n", {"cpu.max": "250000 100000\n"}, 2, id="whole cores only"),
        pytest.param("0::/\n", {"cpu.max": "20000 100000\n"}, 1, id="less than one"),
        pytest.param("0::/\n", {"cpu.max": "900000000 100000\n"}, 64, id="more than there are"),
        pytest.param("0::/a/b\n", {"a/b/cpu.max": "max 100000", "a/cpu.max": "500000 100000"}, 5, id="a group above"),
        pytest.param("0::/a/b\n", {"a/b/cpu.max": "400000 50000", "a/cpu.max": "900000 100000"}, 8, id="the least"),
        pytest.param("0::/docker/x\n", {"cpu.max": "200000 100000"}, 2, id="the host's path"),
        pytest.param("0::/../../x\n", {"cpu.max": "200000 100000"}, 2, id="a path upwards"),
        pytest.param("0::/a\n", {"unified/a/cpu.max": "200000 100000"}, 2, id="version 2 beside 1"),
        pytest.param(
            "5:memory:/m\n4:cpu,cpuacct:/a:b\n",
            {"cpu,cpuacct/a:b/cpu.cfs_quota_us": "700000\n", "cpu,cpuacct/a:b/cpu.cfs_period_us": "100000\n"},
            7,
            id="version 1",
        ),
        pytest.param(
            "4:cpuacct,cpu:/docker/x\n",
            {"cpu/cpu.cfs_quota_us": "150000\n", "cpu/cpu.cfs_period_us": "50000\n"},
            3,
            id="version 1, the host's path",
        ),
        pytest.param(
            "1:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 64, id="1, no limit"
        ),
        pytest.param("3:cpuset:/a\n", {"cpuset/a/cpu.max": "100000 100000"}, 64, id="another controller's"),
        pytest.param("0::/\n", {"cpu.max": "100000 0"}, 64, id="no period"),
        pytest.param("0::/\n", {"cpu.max": "much"}, 64, id="not a number"),
        pytest.param("garbage\n\n::\n", {}, 64, id="garbage"),
    ],
)
def test_quotas_of_control_groups(tmp_path: Path, lines: str, files: dict[str, str], cores: int) -> None:
    assert usable_cores(fake(tmp_path, lines, files)) == cores


@pytest.mark.usefixtures("many")
def test_no_control_groups(tmp_path: Path) -> None:
    assert usable_cores(tmp_path) == 64


def test_the_affinity_bounds_a_larger_quota(tmp_path: Path) -> None:
    assert usable_cores(fake(tmp_path, "0::/\n", {"cpu.max": "900000000 100000"})) == ALLOWED
