"""`rar-bench first-contact`: from a fresh clone to the output of make targets: seconds, download and disk.

The checkout's last commit is cloned into an empty folder for each, without an environment and without pip's cache.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from rar.runtime.errors import InputError

from . import record

_UNITS = {"bytes": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9}
_DOWNLOADED = re.compile(r" Downloading \S+ \(([\d.]+) (bytes|kB|MB|GB)\)$", re.MULTILINE)
# A file of an index that is a folder stands for a download.
_COPIED = re.compile(r" Processing (/\S+\.(?:whl|tar\.gz))(?: \(from .*\))?$", re.MULTILINE)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    parser.add_argument(
        "targets", nargs="*", default=["demo", "test"], metavar="TARGET", help="what `make` is asked for: demo and test"
    )
    parser.add_argument("--source", default=".", metavar="DIR", help="the checkout (default: the current folder)")
    parser.add_argument("--out", metavar="FILE", help="result file (.json)")


def run(args: argparse.Namespace) -> int:
    """Measures, prints and writes."""
    if not (Path(args.source) / ".git").exists():
        raise InputError(f"{args.source}: is no checkout; name one with --source")
    results = [_measure(args.source, target) for target in args.targets]
    record.write({"environment": record.environment(), "results": results}, args.out)
    return int(any(result["exit_status"] for result in results))


def _measure(source: str, target: str) -> dict[str, Any]:
    """A row of the result, which is printed too."""
    with tempfile.TemporaryDirectory(prefix="first-contact-") as folder:
        clone, log = Path(folder) / "clone", Path(folder) / "pip.log"
        subprocess.run(["git", "clone", "--quiet", source, str(clone)], check=True)
        load, before = os.getloadavg()[0], os.times()
        begin = time.perf_counter()
        # What runs this is an environment of its own, which must not help.
        outside = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PYTHONPATH")}
        done = subprocess.run(
            ["make", target], cwd=clone, env=outside | {"PIP_NO_CACHE_DIR": "1", "PIP_LOG": str(log)}, check=False
        )
        seconds, after = time.perf_counter() - begin, os.times()
        row: dict[str, Any] = {
            "target": target,
            "exit_status": done.returncode,
            "seconds": seconds,
            "cpu_seconds": sum(after[2:4]) - sum(before[2:4]),  # of the children
            # The machine's, where other programs run too: the seconds are then more than an idle machine's.
            "load_before": load,
            "load_after": os.getloadavg()[0],
            "download_bytes": downloaded(log.read_text(encoding="utf-8") if log.exists() else ""),
            "disk_bytes": {name: disk_bytes(clone / name) for name in (".venv", "bundle", "build", ".git")},
            "disk_total_bytes": disk_bytes(clone),
        }
    print(f"make {target:<10} {seconds:8.0f} s, {row['cpu_seconds']:.0f} s of processor time; exit status", end=" ")
    print(f"{done.returncode}, load {load:.1f} before and {row['load_after']:.1f} after")
    print(f"download        {row['download_bytes'] / 1e6:8.0f} MB")
    for name, size in (*row["disk_bytes"].items(), ("all", row["disk_total_bytes"])):
        print(f"disk {name:<10} {size / 1e6:8.0f} MB")
    return row


def downloaded(log: str) -> int:
    """Bytes of the packages that pip fetched, from its log."""
    fetched = sum(float(size) * _UNITS[unit] for size, unit in _DOWNLOADED.findall(log))
    return int(fetched) + sum(Path(path).stat().st_size for path in _COPIED.findall(log))


def disk_bytes(path: Path) -> int:
    """Bytes that a folder takes on the disk, each file once however many names it has; 0 if it is not there."""
    blocks = {}
    for folder, _, names in os.walk(path):
        for name in (".", *names):
            status = os.lstat(os.path.join(folder, name))
            blocks[status.st_dev, status.st_ino] = status.st_blocks * 512
    return sum(blocks.values())
