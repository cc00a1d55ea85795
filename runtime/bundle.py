"""The bundle: a folder that can be copied to the device, and the only thing the runtime needs.

`bundle.json` names every file with its size and SHA-256. Components are written beside the live ones and
come alive when the manifest is replaced, so a reader or a crash sees the old bundle or the new one.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

from .errors import BundleError
from .files import fsync, sha256, write_json

FORMAT = 1
MANIFEST = "bundle.json"


@dataclass(frozen=True)
class FileRecord:
    """One file of a bundle: where it lies (relative, inside the bundle) and what it must be."""

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
        """Changes when any file does; what was made with the component keeps it to know its own."""
        lines = (f"{name} {record.sha256}\n" for name, record in sorted(self.files.items()))
        return hashlib.sha256("".join(lines).encode()).hexdigest()


@dataclass
class Staging:
    """A component being written; `info` is stored beside its files when it is committed."""

    folder: Path
    info: dict[str, Any] = field(default_factory=dict)


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
        root = Path(path)
        components = _read_manifest(root)
        bundle = cls(root, components)
        for component in components.values():
            for record in component.files.values():
                bundle._locate(record)
        return bundle

    def component(self, name: str) -> Component:
        """The component of that name.

        Raises:
            BundleError: The bundle has none.
        """
        try:
            return self.components[name]
        except KeyError:
            raise BundleError(
                f"{self.root}: the bundle holds no {name!r} (it holds: {', '.join(self.components) or 'nothing'}); "
                f"add it with `rar-export {name}`"
            ) from None

    def file(self, component: str, name: str, *, check: bool = True) -> Path:
        """Path of a component's file, its hash checked unless it will only be mapped.

        Raises:
            BundleError: The file is missing, truncated or altered.
        """
        records = self.component(component).files
        if name not in records:
            raise BundleError(f"{self.root}: {component} has no {name}; export the component again")
        record = records[name]
        path = self._locate(record)
        if check and sha256(path) != record.sha256:
            raise BundleError(f"{path}: altered since it was exported (SHA-256 differs); copy the bundle again")
        return path

    def graph(self, component: str, name: str) -> Path:
        """Path of an ONNX graph; its hash and that of the weights beside it are checked.

        Raises:
            BundleError: The graph or its weights are missing, truncated or altered.
        """
        path, weights = self.file(component, name), f"{name}.data"
        if weights in self.component(component).files:
            self.file(component, weights)
        elif path.with_name(weights).exists():
            raise BundleError(f"{path}: {weights} lies beside it but not in {MANIFEST}; copy the bundle again")
        return path

    def read_json(self, component: str, name: str) -> Any:
        """A component's JSON file, hash checked.

        Raises:
            BundleError: The file is missing, altered or not JSON.
        """
        path = self.file(component, name)
        try:
            return json.loads(path.read_text(encoding="utf-8"))
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

    def _locate(self, record: FileRecord) -> Path:
        path = self.root / record.path
        try:
            # A link may lead outside even where the written path does not.
            inside = path.resolve().is_relative_to(self.root.resolve())
            status = path.stat() if inside else None
        except (OSError, ValueError, RuntimeError) as error:  # absent, a name that cannot be, links in a circle
            raise BundleError(f"{path}: missing or unreadable ({error}); copy the bundle again") from error
        if status is None:
            raise BundleError(f"{path}: leads out of the bundle; do not use a bundle that does this")
        if not stat.S_ISREG(status.st_mode):
            raise BundleError(f"{path}: is not a file; copy the bundle again")
        size = status.st_size
        if size != record.bytes:
            raise BundleError(f"{path}: {size} bytes where {record.bytes} were exported; copy the bundle again")
        return path


def exists(path: str | os.PathLike[str]) -> bool:
    """Whether a bundle's manifest lies there."""
    return (Path(path) / MANIFEST).is_file()


@contextmanager
def stage(root: str | os.PathLike[str], name: str) -> Iterator[Staging]:
    """Writes one component of a new or existing bundle, all of it or nothing.

    Args:
        root: The bundle's folder; made if absent.
        name: The component's name, which is its folder's (`engines/...` lies a level deeper); one that is there
            already is replaced.

    Yields:
        The staging folder to write the files into.

    Raises:
        BundleError: The folder holds other things than a bundle, or its manifest cannot be read.

    Example:
        >>> with stage("bundle", "memory") as staging:
        ...     np.save(staging.folder / "vectors.npy", vectors)
        ...     staging.info["dim"] = 512
    """
    root = Path(root)
    if root.exists() and not root.is_dir():
        raise BundleError(f"{root}: is a file; name a folder for the bundle")
    if root.is_dir() and not exists(root) and any(root.iterdir()):
        raise BundleError(f"{root}: is not empty and holds no {MANIFEST}; name a new folder or a bundle")
    if exists(root):
        _read_manifest(root)  # what is wrong with it is said before anything is written
    made = not root.exists()
    _make_folder(root)
    staging = Staging(Path(tempfile.mkdtemp(prefix=f".{name.replace('/', '-')}-", dir=root)))
    target = _free_folder(root, name)
    try:
        yield staging
        files = {}
        for path in sorted(staging.folder.rglob("*")):
            fsync(path)
            if not path.is_file():
                continue
            inner = path.relative_to(staging.folder)
            record_path = (target.relative_to(root) / inner).as_posix()
            files[inner.as_posix()] = FileRecord(record_path, path.stat().st_size, sha256(path))
        staging.folder.chmod(0o755)
        target.parent.mkdir(exist_ok=True)
        os.replace(staging.folder, target)
        fsync(target.parent)
        fsync(root)
        with _manifest_lock(root):
            # Only now: another component may have been replaced meanwhile.
            components = _read_manifest(root) if exists(root) else {}
            stale = components.get(name)
            components[name] = Component(files, staging.info)
            write_json(root / MANIFEST, _to_json(components))
    except BaseException:
        # Stopped behind the last step, the component is alive.
        if not (exists(root) and _is_live(target.relative_to(root), _read_manifest(root))):
            for unfinished in (staging.folder, target, *([root] if made else [])):
                shutil.rmtree(unfinished, ignore_errors=True)
        if target.parent != root:
            with suppress(OSError):  # it holds others
                target.parent.rmdir()
        raise
    if stale is not None:
        for old in _folders(stale):
            if not _is_live(old, components):
                shutil.rmtree(root / old, ignore_errors=True)


def sweep(root: Path, name: str) -> None:
    """Deletes what a killed process left of a component: unfinished files, and folders that were replaced.

    The caller sees to it that nobody is writing the component.

    Args:
        root: The bundle.
        name: The component's name, without a slash.
    """
    components = _read_manifest(root)
    left = re.compile(rf"\.{re.escape(name)}[-.].+|{re.escape(name)}(-\d+)?")
    for path in root.iterdir():
        if not left.fullmatch(path.name) or _is_live(PurePosixPath(path.name), components):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def annotate(root: str | os.PathLike[str], name: str, **info: Any) -> None:
    """Sets entries in a component's info; its files stay as they are.

    Raises:
        BundleError: There is no such component, or the manifest cannot be written.
    """
    root = Path(root)
    Bundle.open(root).component(name)
    with _manifest_lock(root):
        components = _read_manifest(root)
        noted = replace(components[name], info={**components[name].info, **info})
        try:
            write_json(root / MANIFEST, _to_json({**components, name: noted}))
        except OSError as error:
            raise BundleError(f"{root}: cannot be written ({error.strerror}); it is as it was") from error


def copy(source: Bundle, target: str | os.PathLike[str], *, without: str) -> Bundle:
    """Copies a bundle, less one component, to a new folder and opens the copy.

    What lies beside the manifest as `<component>.log`, the changes since the component was written, goes with it.

    Raises:
        BundleError: The target exists and is not empty, or the source was changed meanwhile.
    """
    target = Path(target)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise BundleError(f"{target}: exists already; name a new folder for the copy")
    _make_folder(target)
    try:
        kept = {name: component for name, component in source.components.items() if name != without}
        for component in kept.values():
            for record in component.files.values():
                path = target / record.path
                path.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source.root / record.path, path)
                fsync(path)
        for name in kept:
            if (log := source.root / f"{name}.log").is_file():
                # Cut off anywhere it is whole up to its last record.
                shutil.copyfile(log, target / log.name)
                fsync(target / log.name)
        # A log belongs to the files that were live while it was read.
        now = _read_manifest(source.root)
        if any(now.get(name) != component for name, component in kept.items()):
            raise BundleError(f"{source.root}: was changed while it was copied; copy it again")
        write_json(target / MANIFEST, _to_json(kept))
        return Bundle.open(target)
    except OSError as error:
        shutil.rmtree(target, ignore_errors=True)
        raise BundleError(f"{source.root}: cannot be copied ({error}); nothing was left at {target}") from error
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        raise


@contextmanager
def _manifest_lock(root: Path) -> Iterator[None]:
    """One process at a time reads the manifest and replaces it: it takes milliseconds, so the others wait."""
    folder = os.open(root, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems lock no folder
            fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BundleError(f"{path}: cannot be made ({error.strerror}); name another folder") from error


def _folders(component: Component) -> set[PurePosixPath]:
    """The folders of the bundle, relative to it, that hold a component's files under their own names."""
    folders = set()
    for name, record in component.files.items():
        path, inner = PurePosixPath(record.path), PurePosixPath(name)
        if path.parts[-len(inner.parts) :] == inner.parts and len(path.parts) > len(inner.parts):
            folders.add(PurePosixPath(*path.parts[: -len(inner.parts)]))
    return folders


def _is_live(folder: PurePath, components: Mapping[str, Component]) -> bool:
    """Whether a component has files in a folder of the bundle, relative to it."""
    records = (record for component in components.values() for record in component.files.values())
    return any(PurePosixPath(record.path).is_relative_to(folder) for record in records)


def _free_folder(root: Path, name: str) -> Path:
    """`name`, or `name-2`, `name-3`, ... where the live component still occupies it."""
    folder, number = root / name, 2
    while folder.exists():
        folder, number = root / f"{name}-{number}", number + 1
    return folder


def _to_json(components: Mapping[str, Component]) -> dict[str, Any]:
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


def _read_manifest(root: Path) -> dict[str, Component]:
    path = root / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BundleError(f"{root}: no bundle there ({error.strerror}: {MANIFEST}); check the path") from error
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{path}: not valid JSON ({error}); copy the bundle again") from error
    version = manifest.get("format") if isinstance(manifest, dict) else None
    if not isinstance(version, int):
        raise BundleError(f"{path}: has no format version; this is not a bundle's manifest")
    if version > FORMAT:
        raise BundleError(
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
