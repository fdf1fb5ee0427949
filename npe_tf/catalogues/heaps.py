"""A look at an HDF5 file before the library walks through it.

Strings of any length lie in heaps, one object after another. HDF5 1.14.6 walks for ever through a
heap with a free object of size 0, which one flipped bit of a size can make, and nothing in Python
can stop it.
"""

from __future__ import annotations

import io
import os
import struct
from typing import IO

__all__ = ["has_sound_heaps", "file_has_sound_heaps"]

_SIGNATURE = b"GCOL\x01\0\0\0"
_HEADER = 16
# heaps are made with the attributes, so that they lie at one of the ends of a large file
_WINDOW = 1 << 25


def has_sound_heaps(stream: IO[bytes] | io.BufferedIOBase) -> bool:
    """Whether the heaps of strings in a file come to an end.

    Files of up to 64 MiB are looked through, of larger ones 32 MiB at either end.

    Args:
        stream: the file, which can be searched; its position is kept.
    """
    before = stream.tell()
    size = stream.seek(0, os.SEEK_END)
    sound = True
    for start in (0,) if size <= 2 * _WINDOW else (0, size - _WINDOW):
        stream.seek(start)
        data = stream.read(2 * _WINDOW if size <= 2 * _WINDOW else _WINDOW)
        at = data.find(_SIGNATURE)
        while sound and at >= 0:
            sound = _ends(data, at)
            at = data.find(_SIGNATURE, at + 1)
    stream.seek(before)
    return sound


def file_has_sound_heaps(path: str) -> bool:
    """As `has_sound_heaps`, of a file on the disk."""
    with open(path, "rb") as stream:
        return has_sound_heaps(stream)


def _ends(data: bytes, at: int) -> bool:
    """Whether a walk through the heap that starts here comes to an end."""
    if at + _HEADER > len(data):
        return True
    (length,) = struct.unpack_from("<Q", data, at + 8)
    place, end = at + _HEADER, min(at + length, len(data))
    while place + _HEADER <= end:
        index, size = struct.unpack_from("<H6xQ", data, place)
        # the size of a free object contains its header
        step = _HEADER + (size + 7) // 8 * 8 if index else size
        if step == 0:
            return False
        place += step
    return True
