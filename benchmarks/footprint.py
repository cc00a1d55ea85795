"""`rar-bench footprint`: install size, opening time and memory of a process that only recognises.

Of an editable installation the size is that of the files that a wheel would have, without what Python compiles of them.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from tqdm import tqdm

from rar.runtime.bundle.manifest import Bundle
from rar.runtime.errors import RarError

from . import record

# Runs in a process of its own, so that nothing else that this one imported counts.
_PROBE = """
import json, sys, time
start = time.perf_counter()
from rar.runtime import Recognizer
import onnxruntime  # else it would count as opening
imported = time.perf_counter() - start
from rar.benchmarks.usage import memory
before = memory()
start = time.perf_counter()
recognizer = Recognizer.open(sys.argv[1], "cpu")
opened, at_open = time.perf_counter() - start, memory()
start = time.perf_counter()
recognizer.recognize([sys.argv[2]], k=1, rank="none")
seconds, after = time.perf_counter() - start, memory()
print(json.dumps({
    "import_seconds": imported, "open_seconds": opened, "first_picture_seconds": seconds,
    "after_import_bytes": before.peak, "peak_at_open_bytes": at_open.peak,
    "peak_bytes": after.peak, "resident_bytes": after.resident,
    "heavy_modules": [m for m in ("torch", "transformers", "open_clip", "onnx") if m in sys.modules],
}))
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    parser.add_argument("bundle", metavar="BUNDLE")
    parser.add_argument("image", metavar="IMAGE", help="a picture to recognise after opening")
    parser.add_argument("--rounds", type=int, default=7, help="fresh processes (default: %(default)s)")
    parser.add_argument("--out", metavar="FILE", help="result file (.json)")


def run(args: argparse.Namespace) -> int:
    """Measures, prints and writes."""
    bundle = Bundle.open(args.bundle)
    probes = [_probe(args.bundle, args.image) for _ in tqdm(range(args.rounds), desc="processes", disable=None)]
    loaded = {
        record.path: record.bytes
        for name, component in bundle.components.items()
        for file, record in component.files.items()
        if name == "memory" or file.startswith(("visual.onnx", "preprocess.json"))
    }
    files = sum(loaded.values())
    growth = [probe["peak_at_open_bytes"] - probe["after_import_bytes"] for probe in probes]
    install = install_bytes("rar-runtime", {"cpu"})
    result: dict[str, Any] = {
        "environment": record.environment(),
        "encoder": record.encoder(bundle, "cpu"),
        "install_bytes": install,
        "install_total_bytes": sum(install.values()),
        "editable": editable(distribution("rar-runtime")),
        "mapped_and_loaded_bytes": files,
        "peak_growth_at_open_bytes": record.spread(growth),
        "peak_growth_over_files": record.spread([value / files for value in growth]),
        **{name: record.spread([probe[name] for probe in probes]) for name in probes[0] if name != "heavy_modules"},
        "heavy_modules": probes[0]["heavy_modules"],
    }
    print(f"install (extra cpu)      {result['install_total_bytes'] / 1e6:7.1f} MB")
    print(f"import rar.runtime       {result['import_seconds']['median']:7.3f} s")
    print(f"open                     {result['open_seconds']['median']:7.3f} s")
    print(f"files mapped and loaded  {files / 1e6:7.1f} MB")
    print(f"peak memory of opening   {result['peak_growth_at_open_bytes']['median'] / 1e6:7.1f} MB above the imports")
    print(f"peak of the process      {result['peak_bytes']['median'] / 1e6:7.1f} MB, one picture recognised")
    record.write(result, args.out)
    return 0


def install_bytes(package: str, extras: set[str]) -> dict[str, int]:
    """Bytes on disk of a package and all it requires, from the installed files' records."""
    sizes: dict[str, int] = {}
    pending = [(package, extras)]
    while pending:
        name, wanted = pending.pop()
        try:
            installed = distribution(name)
        except PackageNotFoundError:
            continue
        key = installed.metadata["Name"].lower()
        if key in sizes and not wanted:
            continue
        sizes[key] = sum(path.stat().st_size for path in _files(installed) if path.is_file())
        for line in installed.requires or ():
            requirement = Requirement(line)
            marker = requirement.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in wanted or {""}):
                pending.append((requirement.name, set(requirement.extras)))
    return sizes


def editable(installed: Distribution) -> bool:
    """Whether a package is not installed itself: a checkout stands in its place."""
    told = json.loads(installed.read_text("direct_url.json") or "{}")
    return installed.read_text("RECORD") is None or bool(told.get("dir_info", {}).get("editable"))


def _files(installed: Distribution) -> Iterator[Path]:
    """A package's files; of an editable one the checkout's that a wheel would have."""
    if not editable(installed):
        yield from (Path(str(installed.locate_file(file))) for file in installed.files or ())
        return
    for top in (installed.read_text("top_level.txt") or "").split():
        spec = find_spec(top)
        for root in spec.submodule_search_locations or () if spec else ():
            for folder, inner, names in os.walk(root, followlinks=True):
                # Benchmarks' results lie in the checkout alone.
                inner[:] = [name for name in inner if name not in ("__pycache__", "results")]
                yield from (Path(folder, name) for name in names)


def _probe(bundle: str, image: str) -> dict[str, Any]:
    done = subprocess.run([sys.executable, "-c", _PROBE, bundle, image], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RarError(f"the measured process failed: {done.stderr.strip().splitlines()[-1]}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result
