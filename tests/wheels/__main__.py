"""`python -m wheels [VERSION ...]`: builds the source archive and the wheels into `dist/`, and tests what can run here.

For each Python version that is at hand, a wheel for each processor. Ends with 0 where all that was built works, with 1
where something does not, with 2 where no Python is at hand.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Sequence

from edge import fetch

from . import build, check

DIST = build.ROOT / "dist"
WORK = build.ROOT / "build/wheel"


def main(argv: Sequence[str] | None = None) -> int:
    """See the module."""
    parser = argparse.ArgumentParser(prog="wheels", description="Builds and tests the wheels.")
    parser.add_argument("versions", nargs="*", metavar="VERSION", help="such as 3.12 (default: all)")
    asked = parser.parse_args(argv).versions or list(build.VERSIONS)
    pythons = {version: found for version in asked if (found := build.python(version))}
    for version in asked:
        if version not in pythons:
            print(f"wheels: no Python {version} here, so no wheel for it; `pyenv install {version}`", file=sys.stderr)
    if not pythons:
        return 2
    try:
        _all(pythons)
    except build.WheelError as error:
        print(f"wheels: {error}", file=sys.stderr)
        return 1
    return 0


def _all(pythons: dict[str, str]) -> None:
    shutil.rmtree(DIST, ignore_errors=True)
    source = build.sdist(DIST)
    print(f"wheels: {source.relative_to(build.ROOT)}", flush=True)
    inside = check.environment(next(iter(pythons.values())), WORK / "source/venv")
    check.install(inside, source)
    check.whole(inside)
    by_gcc = check.levels(inside)
    print(f"wheels: the source archive, compiled here: {' '.join(by_gcc)}", flush=True)
    arm = None
    for version, python in pythons.items():
        inside = check.environment(python, WORK / version / "venv")
        made = {}
        for machine in build.MACHINES:
            made[machine] = build.wheel([str(inside), "-m", "pip"], version, machine, source, DIST)
            check.complete(made[machine])
            print(f"wheels: {made[machine].relative_to(build.ROOT)}", flush=True)
        if own := made.get(os.uname().machine):
            check.install(inside, own, *check.TOOLS)
            if (found := check.levels(inside)) != by_gcc:
                raise build.WheelError(f"{own.name}: has the kernels {found}, this machine's compiler made {by_gcc}")
            # The kernels are the same for all, so but once at each level.
            check.exact(inside, found if version == next(iter(pythons)) else found[-1:])
        arm = made["aarch64"] if version == fetch.PYTHON else arm
    if arm is None:
        print(f"wheels: none for aarch64 was run: the emulated Python is {fetch.PYTHON}", flush=True)
        return
    try:
        check.emulated(arm)
    except fetch.AbsentError as error:
        print(f"wheels: {arm.name} was not run: {error}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
