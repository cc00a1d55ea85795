"""Files that Pillow refuses although their pixels are there: PNGs with much text beside them, JPEGs cut short."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_END = b"\xff\xd9"
# Kept up to so many unpacked bytes each, and together: an orientation may stand in them.
_KEPT, _KEPT_TOGETHER = 1 << 16, 1 << 20


def without_large_texts(png: bytes) -> bytes:
    """A PNG without its large chunks of text and colour profile; they are unpacked no further than to a limit.

    The pixels do not depend on them: this package reads no colour profiles.
    """
    kept, room = [_SIGNATURE], _KEPT_TOGETHER
    for kind, body, chunk in _chunks(png):
        if kind in (b"tEXt", b"zTXt", b"iTXt", b"iCCP"):
            size = _unpacked(kind, body)
            if size > min(_KEPT, room):
                continue
            room -= size
        kept.append(chunk)
    return b"".join(kept)


def ended(jpeg: bytes) -> bytes:
    """A JPEG that was cut, with an end: what is missing decodes to grey, or stays coarse in a progressive one."""
    # Within a scan these two bytes are the head of a table or of the next scan, and nothing else.
    at = max(jpeg.rfind(b"\xff\xc4"), jpeg.rfind(b"\xff\xda"))
    length = int.from_bytes(jpeg[at + 2 : at + 4], "big")
    cut = at >= 0 and (at + 4 > len(jpeg) or at + 2 + length > len(jpeg))
    return (jpeg[:at] if cut else jpeg) + _END


def _chunks(png: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
    """Kind, body and whole of each chunk; the last may be cut."""
    at = len(_SIGNATURE)
    while at + 8 <= len(png):
        length, kind = struct.unpack_from(">I4s", png, at)
        yield kind, png[at + 8 : at + 8 + length], png[at : at + 12 + length]
        at += 12 + length


def _unpacked(kind: bytes, body: bytes) -> int:
    """How many bytes a chunk takes when it is unpacked, counted to just over the limit."""
    after = body.partition(b"\0")[2]
    if kind == b"tEXt" or (kind == b"iTXt" and after[:1] != b"\1"):
        return len(body)
    packed = after[1:]  # after the method
    if kind == b"iTXt":
        packed = after[2:].partition(b"\0")[2].partition(b"\0")[2]  # after language and translated keyword
    try:
        return len(zlib.decompressobj().decompress(packed, _KEPT + 1))
    except zlib.error:
        return _KEPT + 1
