"""Copies bundles."""

from __future__ import annotations

import os
import shutil
from pathlib import Path, PurePosixPath

from ..errors import BundleError
from .change import flush
from .files import fsync, make_folder, write_json
from .manifest import MANIFEST, Bundle, read_manifest, to_json


def copy(source: Bundle, target: str | os.PathLike[str], *, without: str | None) -> Bundle:
    """Copies a bundle, less one component or none, to a new folder and opens the copy.

    Each `<component>.log` beside the manifest, the changes since the component was written, is copied too.

    Raises:
        BundleError: The target exists and is not empty, a file is altered, or the source was changed meanwhile.
    """
    target = Path(target)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise BundleError(f"{target}: exists already; name a new folder for the copy")
    make_folder(target)
    try:
        kept = {name: component for name, component in source.components.items() if name != without}
        # A link that leads out of the bundle may not bring in a file that is not the exported one.
        paths = [
            (source.file(name, file, check=False), record)
            for name, one in kept.items()
            for file, record in one.files.items()
        ]
        for path, record in paths:
            (target / record.path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target / record.path)
        for name in kept:
            # A stranger's component may have the name of a file elsewhere; those with a slash, engines, have no log.
            if "/" not in name and (log := source.root / f"{name}.log").is_file() and not log.is_symlink():
                # A log that is cut off anywhere is valid up to its last whole record.
                shutil.copyfile(log, target / log.name)
        written = flush(target)
        for _, record in paths:
            if written[PurePosixPath(record.path).as_posix()].sha256 != record.sha256:
                altered = source.root / record.path
                raise BundleError(f"{altered}: altered since it was exported (SHA-256 differs); copy the bundle again")
        # A log belongs to the files that were live while it was read.
        now = read_manifest(source.root)
        if any(now.get(name) != component for name, component in kept.items()):
            raise BundleError(f"{source.root}: was changed while it was copied; copy it again")
        write_json(target / MANIFEST, to_json(kept))
        fsync(target.parent)
        return Bundle.open(target)
    except OSError as error:
        shutil.rmtree(target, ignore_errors=True)
        raise BundleError(f"{source.root}: cannot be copied ({error}); nothing was left at {target}") from error
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        raise
