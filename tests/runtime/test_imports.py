"""The runtime and the tools that go with it run where PyTorch is not installed."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

HEAVY = (
    *("torch", "torchvision", "transformers", "open_clip", "timm", "optimum"),
    *("onnx", "onnxscript", "sklearn", "skimage", "av"),
)

# As if the heavy packages were not installed: an import of one raises ModuleNotFoundError.
BLOCK = f"import sys; sys.modules.update(dict.fromkeys({HEAVY!r})); "


def python(code: str, *argv: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *map(str, argv)], capture_output=True, text=True, check=False)


def test_import_loads_no_heavy_package() -> None:
    code = (
        "import sys, json, rar.runtime, rar.runtime.cli.recognize, rar.export.cli; "
        "print(json.dumps(sorted(sys.modules)))"
    )
    run = python(code)
    assert run.returncode == 0, run.stderr
    assert not set(HEAVY) & set(json.loads(run.stdout))


@pytest.fixture
def own(pictures_bundle: Path, writable: Callable[[Path], Path]) -> Path:
    return writable(pictures_bundle)


def test_recognize_runs_without(own: Path, class_pictures: list[Path]) -> None:
    code = BLOCK + "from rar.runtime.cli.recognize import main; sys.exit(main(sys.argv[1:]))"
    run = python(code, own, class_pictures[0], "--k", 2, "--json")
    assert (run.returncode, run.stderr) == (0, "")
    assert json.loads(run.stdout)["retrieved"][0] == "cat"


def test_export_memory_inspect_and_verify_run_without(own: Path, labelled_folder: Path) -> None:
    code = BLOCK + (
        "from rar.export.cli import main; "
        "sys.exit(main(['memory', sys.argv[1], '--images', sys.argv[2], '--dim', '1/4']) "
        "or main(['inspect', sys.argv[1]]) or main(['verify', sys.argv[1]]))"
    )
    run = python(code, own, labelled_folder)
    assert run.returncode == 0, run.stderr
    assert "4 classes, 12 pictures, 4 texts" in run.stdout
    assert "recognizer: opens" in run.stdout


@pytest.mark.parametrize("argv", [["clip", "OUT", "--model", "x", "--pretrained", "y"], ["starter", "OUT"]])
def test_what_needs_pytorch_says_what_to_install(tmp_path: Path, argv: list[str]) -> None:
    code = BLOCK + "from rar.export.cli import main; sys.exit(main(sys.argv[1:]))"
    run = python(code, *(tmp_path / "out" if arg == "OUT" else arg for arg in argv))
    assert run.returncode == 2
    assert len(run.stderr.splitlines()) == 1
    assert "export" in run.stderr
    assert not (tmp_path / "out").exists()
