"""How every command ends: with an exit code, and with one line on stderr if it fails."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable

from ..errors import RarError
from .printable import printable

# The extra that a package comes with, where a command needs less than all of its extras.
_EXTRAS = {
    "onnxruntime": "cpu",
    "faiss": "interchange",
    "huggingface_hub": "hub",
    "openvino": "openvino",
    "pyarrow": "interchange",
    "ray": "ray",
    "shtab": "completion",
    "supervision": "detection",
    "tensorrt_rtx": "tensorrt",
}


def guard(name: str, run: Callable[[], int], extras: str = "cpu") -> int:
    """Runs a command: our own errors become one line on stderr and exit code 2, a closed pipe ends it.

    Args:
        name: The command's name.
        run: Runs it; returns the exit code.
        extras: The package's extras with everything that the command needs, told where a package is missing.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # file names need not be UTF-8
    try:
        code = run()
        sys.stdout.flush()
    except RarError as error:
        return _refuse(name, str(error))
    except ImportError as error:
        extra = _EXTRAS.get((error.name or "").partition(".")[0], extras)
        return _refuse(name, f"{error}; install the extras: pip install 'rar-runtime[{extra}]'")
    except UnicodeError as error:  # a name that is no UTF-8, in a file that must be
        return _refuse(name, f"a name or text is not UTF-8 ({error}); rename or correct it")
    except OSError as error:
        if isinstance(error, BrokenPipeError):  # the reader, such as head, has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        return _refuse(name, f"{error}; check the path")
    except KeyboardInterrupt:
        print(f"{name}: stopped", file=sys.stderr)
        return 130
    return code


def _refuse(name: str, reason: str) -> int:
    print(f"{name}: {printable(' '.join(reason.split()))}", file=sys.stderr)
    return 2
