"""Whether two machines have the same bundle."""

from __future__ import annotations

import hashlib
import os

from rar.runtime.bundle.files import sha256
from rar.runtime.bundle.manifest import Bundle
from rar.runtime.memory.view import LOG


def fingerprint(path: str | os.PathLike[str]) -> str:
    """A hash of all that a bundle answers by: the hashes in its manifest, and the log of its memory's changes.

    Raises:
        BundleError: There is no bundle, or a file of it is missing or has another size.
    """
    bundle = Bundle.open(path)
    digest = hashlib.sha256()
    for name, component in sorted(bundle.components.items()):
        digest.update(f"{name} {component.fingerprint}\n".encode())
    log = bundle.root / LOG
    if log.exists():
        digest.update(sha256(log).encode())
    return digest.hexdigest()
