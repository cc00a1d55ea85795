"""Embeds labelled pictures in batches; the finished part of an interrupted build is kept."""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from rar.runtime.bundle.lock import Lock
from rar.runtime.bundle.manifest import Bundle
from rar.runtime.bundle.regular import open_regular
from rar.runtime.encoder.clip import Clip
from rar.runtime.errors import ImageError, InputError, RarError
from rar.runtime.picture.budget import in_parts
from rar.runtime.picture.load import Pixels, Reading, decode

from .labelled import LabelledImage

Floats = npt.NDArray[np.float32]
Halfs = npt.NDArray[np.float16]
Batch = Sequence[LabelledImage]
# Embeds batches: yields the number of each and its vectors, float32 [c, d], in any order.
Embedder = Callable[[Sequence[Batch]], Iterable[tuple[int, Floats]]]

_BATCH = 32


def embed_images(clip: Clip, images: Sequence[LabelledImage], reading: Reading | None = None) -> Floats:
    """Embeds labelled pictures in batches: float32 [N, d].

    Args:
        clip: The encoder.
        images: The pictures.
        reading: How large they may be; None for the defaults.

    Raises:
        InputError: A picture cannot be read.
    """
    embeddings = np.empty((len(images), clip.dim), np.float32)
    start = 0
    with tqdm(total=len(images), desc="pictures", unit="", disable=None) as bar:
        for vectors in embed_batches(clip, _batches(images), reading or Reading()):
            embeddings[start : start + len(vectors)] = vectors
            start += len(vectors)
            bar.update(len(vectors))
    return embeddings


class EmbeddedPictures:
    """The pictures of one memory and their vectors, stored on disk while they are embedded.

    The file lies beside the bundle and is named after the encoder. After an interruption of any kind the next build
    finds the finished vectors in it. A picture is identified by its path, size and modification time. The file is
    removed when the context is left without an error.

    Batches are always the same, so that a picture's vector does not depend on interruptions (int8 encoders scale their
    activations by the whole batch).

    Args:
        bundle: The bundle whose memory is built.
        clip: Its encoder.
        images: The pictures.
        reading: How large they may be; None for the defaults.

    Raises:
        InputError: Another process embeds pictures for this bundle, or the file cannot be written.
    """

    def __init__(
        self, bundle: Bundle, clip: Clip, images: Sequence[LabelledImage], reading: Reading | None = None
    ) -> None:
        self._clip = clip
        self._reading = reading or Reading()
        self._images = images
        self._record = np.dtype([("key", "V16"), ("vector", "<f2", (clip.dim,)), ("check", "<u4")])
        encoder = f"{bundle.component('clip').fingerprint} {clip.visual.provider}"
        name = f".embedded-{bundle.root.resolve().name}-{hashlib.sha256(encoder.encode()).hexdigest()[:16]}"
        parent = bundle.root.resolve().parent
        self.path = (parent if os.access(parent, os.W_OK) else bundle.root) / name
        try:
            self._lock = Lock(lambda: open_regular(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND))
            self._lock.take(wait=False)
            self._file = os.fdopen(self._lock.file, "a+b", buffering=0, closefd=False)
        except BlockingIOError as error:
            raise InputError(f"{bundle.root}: another process embeds pictures for it; wait until it is done") from error
        except OSError as error:
            raise InputError(f"{self.path}: cannot be written ({error.strerror}); check the folder") from error
        self._keys, self._rows = self._read()

    def __enter__(self) -> EmbeddedPictures:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._file:
            if kind is None or self._file.seek(0, os.SEEK_END) < self._record.itemsize:
                self.path.unlink(missing_ok=True)
        self._lock.close()

    @property
    def finished(self) -> int:
        """Pictures with stored vectors, of this memory or another."""
        return len(self._rows)

    def embed(self, embedder: Embedder | None = None) -> None:
        """Embeds the remaining pictures.

        Args:
            embedder: What embeds them; None for this process.

        Raises:
            InputError: A picture cannot be read, or the disk is full. Finished vectors are kept.
            RarError: The embedder left pictures out.
        """
        wanted = [batch for batch in _batches(self._images) if (self._find(batch) < 0).any()]
        done = len(self._images) - sum(map(len, wanted))
        try:
            with tqdm(total=len(self._images), initial=done, desc="pictures", unit="", disable=None) as bar:
                for number, vectors in (embedder or self._here)(wanted):
                    self._append(wanted[number], vectors)
                    bar.update(len(vectors))
        except (InputError, OSError) as error:
            # The next build reads what was appended here.
            self._keys, self._rows = self._read()
            kept = f"; {self.finished} finished pictures are kept for the next try" if self.finished else ""
            raise InputError(f"{error}{kept}") from error
        self._keys, self._rows = self._read()
        if left := sum(int((self._find(batch) < 0).sum()) for batch in wanted):
            raise RarError(f"{left} of {len(self._images)} pictures were not embedded; build the memory again")

    def _here(self, batches: Sequence[Batch]) -> Iterable[tuple[int, Floats]]:
        return enumerate(embed_batches(self._clip, batches, self._reading))

    def __iter__(self) -> Iterator[Halfs]:
        """The vectors of all pictures in their order, float16 [c, d], c at most a batch."""
        records = self._map()
        for batch in _batches(self._images):
            yield records["vector"][self._rows[self._find(batch)]]

    def _append(self, batch: Batch, vectors: Floats) -> None:
        records = np.zeros(len(batch), self._record)
        records["key"] = _keys(batch)
        records["vector"] = vectors
        records["check"] = _checks(records)
        left = memoryview(records.tobytes())
        while left:
            left = left[self._file.write(left) :]

    def _read(self) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
        """First halves of the keys, ascending, and their positions; records torn by a crash are left out."""
        whole = self._file.seek(0, os.SEEK_END) // self._record.itemsize
        self._file.truncate(whole * self._record.itemsize)
        records = self._map()
        good = np.concatenate(
            [
                np.flatnonzero(_checks(records[start : start + 8192]) == records["check"][start : start + 8192]) + start
                for start in range(0, whole, 8192)
            ]
            or [np.empty(0, np.int64)]
        )
        keys = _halves(records["key"][good])
        order = np.argsort(keys, kind="stable")
        return keys[order], good[order]

    def _map(self) -> npt.NDArray[Any]:
        if self._file.seek(0, os.SEEK_END) == 0:  # which cannot be mapped
            return np.empty(0, self._record)
        return np.memmap(self._file, self._record, "r")

    def _find(self, batch: Batch) -> npt.NDArray[np.int64]:
        """Positions in `_rows`, -1 for a picture without a record."""
        wanted = _halves(_keys(batch))
        places = np.minimum(np.searchsorted(self._keys, wanted), max(0, len(self._keys) - 1))
        if not len(self._keys):
            return np.full(len(wanted), -1)
        return np.where(self._keys[places] == wanted, places, -1)


def _batches(images: Sequence[LabelledImage]) -> Iterator[Batch]:
    for start in range(0, len(images), _BATCH):
        yield images[start : start + _BATCH]


def embed_batches(clip: Clip, batches: Iterable[Batch], reading: Reading) -> Iterator[Floats]:
    """Vectors of each batch, float32 [c, d]; the next one is decoded meanwhile.

    Raises:
        InputError: A picture cannot be read.
    """

    def prepare(batch: Batch) -> Floats:
        parts = in_parts(batch, reading.batch_bytes, lambda image: image.path)
        return np.concatenate([clip.preprocess([_load(image, reading) for image in part]) for part in parts])

    with ThreadPoolExecutor(1) as worker:
        left = iter(batches)
        ahead = worker.submit(prepare, first) if (first := next(left, None)) is not None else None
        while ahead is not None:
            pixels = ahead.result()
            ahead = worker.submit(prepare, following) if (following := next(left, None)) is not None else None
            yield clip.embed_pixels(pixels)


def _load(image: LabelledImage, reading: Reading) -> Pixels:
    try:
        return decode(image.path, reading).pixels
    except ImageError as error:
        raise InputError(f"class {image.label!r}: {error}; mend or remove the picture") from error


def _keys(batch: Batch) -> npt.NDArray[np.void]:
    """16 bytes that change when the picture does."""
    keys = []
    for image in batch:
        status = None
        with suppress(OSError, ValueError):  # embedding gives a better message
            status = os.stat(image.path)
        changed = (status.st_size, status.st_mtime_ns) if status else ()
        identity = f"{os.path.abspath(image.path)}\0{changed}".encode("utf-8", "surrogateescape")
        keys.append(hashlib.sha256(identity).digest()[:16])
    return np.frombuffer(b"".join(keys), "V16")


def _halves(keys: npt.NDArray[np.void]) -> npt.NDArray[np.uint64]:
    return np.ascontiguousarray(keys).view(np.uint64).reshape(-1, 2)[:, 0].copy()


def _checks(records: npt.NDArray[Any]) -> npt.NDArray[np.uint32]:
    """CRC-32 of each record without its own CRC field."""
    size = records.dtype.itemsize
    content = np.ascontiguousarray(records).view(np.uint8).reshape(-1, size)[:, :-4]
    return np.array([zlib.crc32(row.tobytes()) for row in content], np.uint32)
