"""The bundle: a folder that can be copied to the device, and the only thing the runtime needs.

`bundle.json` names every file with its size and SHA-256. `change.py` writes bundles; here they are read.

A link is followed where it ends inside the bundle. It may also end outside, as in the caches of model hubs and in the
folders of links that Nix and Bazel make. Such a file is always hashed, so it can hold nothing but what was exported.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from ..errors import BundleError
from .external_data import COMPILED, contents
from .files import sha256
from .regular import read_regular

FORMAT = 1
MANIFEST = "bundle.json"
# More than any bundle has: what a stranger's manifest or JSON file may cost.
LARGEST_MANIFEST = 1 << 26
_LARGEST_JSON = 1 << 28
_LEADS_OUT = "{}: leads out of the bundle, to another file than the exported one; do not use a bundle that does this"
# Attempts to read a bundle that other processes keep changing.
_ATTEMPTS = 20

T = TypeVar("T")
Signature = tuple[int, int, int]


class NewerFormatError(BundleError):
    """A whole manifest that a later release wrote."""


@dataclass(frozen=True)
class FileRecord:
    """One file of a bundle: its path (relative, inside the bundle), its size and its hash."""

    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Component:
    """One part of a bundle (`clip`, `memory`, ...).

    Attributes:
        files: Name inside the component's folder -> record.
        info: How it was made: source, precision, parity, dimensions.
    """

    files: Mapping[str, FileRecord]
    info: Mapping[str, Any]

    @property
    def fingerprint(self) -> str:
        """Changes when any file does. What was made with the component stores it, to recognise the component."""
        lines = (f"{name} {record.sha256}\n" for name, record in sorted(self.files.items()))
        return hashlib.sha256("".join(lines).encode()).hexdigest()


@dataclass(frozen=True)
class Bundle:
    """An opened bundle: the manifest was read and every file is there with its size."""

    root: Path
    components: Mapping[str, Component]

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Bundle:
        """Reads and checks a bundle's manifest.

        Sizes are checked here; hashes when a file is loaded (`file`) or by `verify`, so that a mapped
        memory of any size opens at once.

        Raises:
            BundleError: No bundle there, a newer format, an unsafe path, or a missing or truncated file.
        """
        root = Path(path).absolute()  # the process may change its folder while the bundle is open
        return unchanged(root, lambda: cls(root, read_manifest(root)).check())

    def check(self, *names: str) -> Bundle:
        """Checks that every file is there with its size; returns the bundle itself.

        Args:
            *names: The components whose files are checked; none for all.

        Raises:
            BundleError: The first file that is missing or has another size.
        """
        for name in names or self.components:
            for record in self.components[name].files.values():
                self._locate(record)
        return self

    def component(self, name: str) -> Component:
        """The component of that name.

        Raises:
            BundleError: The bundle has no such component.
        """
        try:
            return self.components[name]
        except KeyError:
            raise BundleError(
                f"{self.root}: the bundle holds no {name!r} (it holds: {', '.join(self.components) or 'nothing'}); "
                f"add it with `rar-export {name}`"
            ) from None

    def file(self, component: str, name: str, *, check: bool = True) -> Path:
        """Path of a component's file, its hash checked unless it will only be mapped and lies inside the bundle.

        Raises:
            BundleError: The file is missing, truncated or altered.
        """
        records = self.component(component).files
        if name not in records:
            raise BundleError(f"{self.root}: {component} has no {name}; export the component again")
        record = records[name]
        path, inside = self._locate(record)
        try:
            altered = (check or not inside) and sha256(path) != record.sha256
        except OSError as error:
            raise BundleError(f"{path}: cannot be read ({error.strerror}); copy the bundle again") from error
        if altered and not inside:
            raise BundleError(_LEADS_OUT.format(path))
        if altered:
            raise BundleError(f"{path}: altered since it was exported (SHA-256 differs); copy the bundle again")
        return path

    def graph(self, component: str, name: str) -> Path:
        """Path of an ONNX graph; its hash and those of the files that it takes weights from are checked.

        Each weights file must lie beside the graph, under the name that the graph gives, and belong to the component.

        Raises:
            BundleError: The graph or its weights are missing, truncated or altered, it names another file, or it
                brings compiled code.
        """
        path = self.file(component, name)
        files = self.component(component).files
        if path.name != name:  # ONNX Runtime chooses the format by the suffix
            raise BundleError(f"{path}: is not called {name} in {MANIFEST}; do not use a bundle that does this")
        folder = PurePosixPath(files[name].path).parent
        found = contents(path)
        if found.compiled:
            raise BundleError(f"{path}: holds compiled code ({COMPILED}); do not use a bundle that does this")
        for other in sorted(found.files):
            if other not in files or PurePosixPath(files[other].path).parts != (*folder.parts, other):
                raise BundleError(
                    f"{path}: takes weights from {other[:200]!r}, which is no file beside it that {MANIFEST} lists for "
                    f"{component}; copy the bundle again, and do not use it if the graph says the same there"
                )
            self.file(component, other)
        return path

    def read_json(self, component: str, name: str) -> Any:
        """A component's JSON file, hash checked.

        Raises:
            BundleError: The file is missing, altered or not JSON.
        """
        path = self.file(component, name)
        try:
            return json.loads(read_regular(path, _LARGEST_JSON, links=True).decode())
        except OSError as error:
            raise BundleError(f"{path}: cannot be read ({error.strerror}); export {component} again") from error
        except (ValueError, RecursionError) as error:
            raise BundleError(f"{path}: not valid JSON ({error}); export {component} again") from error

    def verify(self) -> int:
        """Checks the hash of every file and returns how many there are.

        Raises:
            BundleError: The first file that differs.
        """
        count = 0
        for name, component in self.components.items():
            for file in component.files:
                self.file(name, file)
                count += 1
        return count

    def _locate(self, record: FileRecord) -> tuple[Path, bool]:
        """A file's path, and whether it lies inside the bundle: a link may lead out where the written path does not."""
        path = self.root / record.path
        try:
            inside = path.resolve().is_relative_to(self.root.resolve())
            status = path.stat()
        except (OSError, ValueError, RuntimeError) as error:  # absent, an impossible name, or links in a circle
            raise BundleError(f"{path}: missing or unreadable ({error}); copy the bundle again") from error
        if not stat.S_ISREG(status.st_mode):
            raise BundleError(f"{path}: is not a file; copy the bundle again")
        size = status.st_size
        if size != record.bytes and not inside:
            raise BundleError(_LEADS_OUT.format(path))
        if size != record.bytes:
            raise BundleError(f"{path}: {size} bytes where {record.bytes} were exported; copy the bundle again")
        return path, inside


def exists(path: str | os.PathLike[str]) -> bool:
    """Whether the folder holds a bundle's manifest."""
    return (Path(path) / MANIFEST).is_file()


def signature(path: Path | str) -> Signature | None:
    """A signature that changes when the file does; None if the file is missing."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


def unchanged(root: Path, read: Callable[[], T], *, whole: bool = True) -> T:
    """Reads a bundle, again if its manifest was replaced meanwhile: files may be deleted that the old one names.

    Args:
        root: The bundle.
        read: Reads it.
        whole: Whether all that is read must belong to one manifest. If not, only what failed is read again.

    Raises:
        BundleError: It cannot be read, or was replaced at every attempt.
    """
    for _ in range(_ATTEMPTS):
        before = signature(root / MANIFEST)
        try:
            content = read()
        except BundleError:
            if signature(root / MANIFEST) == before:
                raise
            continue
        if not whole or signature(root / MANIFEST) == before:
            return content
    raise BundleError(f"{root}: was replaced {_ATTEMPTS} times while it was read; try again")


def to_json(components: Mapping[str, Component]) -> dict[str, Any]:
    """The manifest's JSON."""
    return {
        "format": FORMAT,
        "components": {
            name: {
                "files": {file: vars(record) for file, record in component.files.items()},
                "info": component.info,
            }
            for name, component in components.items()
        },
    }


def read_manifest(root: Path) -> dict[str, Component]:
    """The components that the manifest names.

    Raises:
        BundleError: There is none, it is malformed or of a newer format, or a path leads out of the bundle.
    """
    path = root / MANIFEST
    try:
        manifest = json.loads(read_regular(path, LARGEST_MANIFEST, links=True).decode())
    except OSError as error:
        raise BundleError(f"{root}: no bundle there ({error.strerror}: {MANIFEST}); check the path") from error
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{path}: not valid JSON ({error}); copy the bundle again") from error
    version = manifest.get("format") if isinstance(manifest, dict) else None
    if not isinstance(version, int):
        raise BundleError(f"{path}: has no format version; this is not a bundle's manifest")
    if version > FORMAT:
        raise NewerFormatError(
            f"{path}: format {version}, but this release reads up to {FORMAT}; upgrade rar-runtime on this device"
        )
    try:
        components = {
            str(name): Component(
                {
                    str(file): FileRecord(_safe(record["path"]), int(record["bytes"]), str(record["sha256"]))
                    for file, record in part["files"].items()
                },
                dict(part["info"]),
            )
            for name, part in manifest["components"].items()
        }
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise BundleError(f"{path}: malformed ({error!r}); copy the bundle again") from error
    return components


def _safe(path: str) -> str:
    """A manifest path: relative, POSIX, and without a step upwards."""
    pure = PurePosixPath(path)
    if not path or "\\" in path or pure.is_absolute() or ".." in pure.parts:
        raise BundleError(f"{MANIFEST}: the path {path!r} leads out of the bundle; do not use a bundle that does this")
    return path
