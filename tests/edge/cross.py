"""`python -m edge.cross`: prints a folder for PATH with Debian's cross compiler, for `make -C tests/native aarch64`.

Who builds on a device uses GCC, and zig's clang compiles the wheels: both must take the ARM kernels.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from . import fetch


def cross_compiler(cache: Path) -> Path:
    """A folder for PATH with Debian's `aarch64-linux-gnu-g++`.

    Raises:
        AbsentError: It cannot be fetched.
    """
    compiler = fetch.Debian("cross compiler", "bookworm", fetch.host(), ("g++-aarch64-linux-gnu",)).unpack(
        cache / "cross"
    )
    libraries = compiler / f"usr/lib/{os.uname().machine}-linux-gnu"  # not lib: the C library there is another one
    folder = compiler / "bin"
    folder.mkdir(exist_ok=True)
    script = folder / "aarch64-linux-gnu-g++"
    found = f"LD_LIBRARY_PATH={libraries} exec {compiler}/usr/bin/{script.name} --sysroot={compiler}"
    script.write_text(f'#!/bin/sh\n{found} "$@"\n')
    script.chmod(0o755)
    return folder


if __name__ == "__main__":
    try:
        print(cross_compiler(fetch.ROOT / "build/edge"))
    except fetch.AbsentError as error:
        sys.exit(f"edge: {error}")
