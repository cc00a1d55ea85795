"""The install size is that of all that an installation has, also where a checkout stands in its place."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import pytest

import rar.export.starter
import rar.runtime
from rar.benchmarks.footprint import editable, install_bytes

STARTER = Path(rar.export.starter.__file__).parent


def test_the_checkout_counts_with_extension_graphs_and_adapter() -> None:
    if not editable(distribution("rar-runtime")):
        pytest.skip("installed from a wheel")
    data = [path for folder in ("adapter", "graphs") for path in (STARTER / folder).iterdir()]
    extension = Path(rar.runtime._native.__file__)
    least = sum(path.stat().st_size for path in (*data, extension))
    assert least > 10_000_000  # the adapter's weights alone are most of that
    counted = install_bytes("rar-runtime", set())["rar-runtime"]
    assert least < counted < least + 5_000_000


def test_a_wheel_counts_by_its_record(tmp_path: Path) -> None:
    wheel, target = tmp_path / "counted-1-py3-none-any.whl", tmp_path / "site"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("counted/__init__.py", "")
        archive.writestr("counted/weights.bin", bytes(12345))
        archive.writestr("counted-1.dist-info/METADATA", "Metadata-Version: 2.1\nName: counted\nVersion: 1\n")
        archive.writestr("counted-1.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        record = (
            "counted/__init__.py",
            "counted/weights.bin",
            "counted-1.dist-info/METADATA",
            "counted-1.dist-info/WHEEL",
        )
        archive.writestr("counted-1.dist-info/RECORD", "".join(f"{name},,\n" for name in record))
        size = sum(entry.file_size for entry in archive.infolist() if entry.filename in record)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)
    (target / "counted/left.bin").write_bytes(bytes(99))  # not the wheel's
    code = "from rar.benchmarks.footprint import install_bytes; print(install_bytes('counted', set()))"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(target)!r}); {code}"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == f"{{'counted': {size}}}"
