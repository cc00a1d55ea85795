"""A picture whose name begins with `deadly-` ends the process that decodes it, as a bug in a decoder would."""

from pathlib import Path

# Loaded by each Python that starts with its folder on the path.
_CODE = """
import os, signal
from rar.runtime.picture import given
decode = given.load.decode
def deadly(source, reading):
    if os.path.basename(str(source)).startswith("deadly-"):
        os.kill(os.getpid(), signal.SIGSEGV)
    return decode(source, reading)
given.load.decode = deadly
"""


def make_deadly(folder: Path) -> str:
    """Writes it into a folder, and gives the folder for `PYTHONPATH`."""
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(_CODE)
    return str(folder)
