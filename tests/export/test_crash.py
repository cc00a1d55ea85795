"""An export that is killed at any moment leaves the bundle as before or as after it, and the next one cleans up."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "kill_export.py"
# The long run: RAR_KILLS=200.
KILLS = {"memory": 12, "tune": 6, "clip": 2, "engine": 4}


@pytest.mark.parametrize("kind", KILLS)
def test_an_export_killed_at_random_moments(pytorch: None, kind: str) -> None:
    if kind == "engine":
        pytest.importorskip("tensorrt_rtx", reason="needs TensorRT-RTX")
    kills = int(os.environ.get("RAR_KILLS", str(KILLS[kind])))
    # In memory where there is such a disk: a flush takes no time there, so the kills fall everywhere else.
    shared = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108
    with tempfile.TemporaryDirectory(dir=shared) as folder:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, str(SCRIPT), folder, str(kills), "1", kind]
        run = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-4000:]
        assert run.stdout.count("kill ") == kills
