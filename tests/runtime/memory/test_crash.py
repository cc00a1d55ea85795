"""A writer that is killed at any moment leaves exactly the calls it had completed."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "kill_writer.py"
# The long run: RAR_KILLS=200.
KILLS = int(os.environ.get("RAR_KILLS", "15"))


def test_a_writer_killed_at_random_moments_loses_no_completed_call() -> None:
    # In memory where there is such a disk: a flush takes no time there, so the kills fall everywhere else.
    shared = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108
    with tempfile.TemporaryDirectory(dir=shared) as folder:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, str(SCRIPT), folder, str(KILLS), "1"]
        run = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        assert run.returncode == 0, run.stdout[-2000:] + run.stderr
        assert run.stdout.count("kill ") == KILLS
