"""Checksums of arrays and of what says how to read them.

CRC32 finds every flipped bit and every burst of up to 32 of them; of other damage it misses one in
four thousand million. It is no protection against somebody who changes a file on purpose.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["of_arrays", "of_rows", "of_structure"]

Array = NDArray[Any]


def _bytes(array: Array) -> memoryview:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def of_arrays(label: str, arrays: Mapping[str, Array]) -> int:
    """Checksum of named arrays in any order.

    Args:
        label: tells sets of the same arrays apart, such as the number of a commit.
        arrays: by name.
    """
    crc = zlib.crc32(label.encode())
    for name in sorted(arrays):
        crc = zlib.crc32(name.encode(), crc)
        crc = zlib.crc32(_bytes(arrays[name]), crc)
    return crc


def of_rows(name: str, first: int, rows: Array) -> NDArray[np.uint32]:
    """Checksum of each row of a table.

    Name and number of the row enter, so that rows in another place are damaged as well.

    Args:
        name: of the table.
        first: number of the first of the rows.
        rows: `[R, ...]`.

    Returns:
        `[R]`, little-endian.
    """
    sums = (
        zlib.crc32(_bytes(row), zlib.crc32(f"{name}/{first + number}".encode()))
        for number, row in enumerate(rows)
    )
    return np.fromiter(sums, "<u4", count=len(rows))


def of_structure(parts: Mapping[str, Any]) -> int:
    """Checksum of numbers, strings, lists of strings and arrays by name, in any order."""
    crc = 0
    for name in sorted(parts):
        value = parts[name]
        if isinstance(value, np.ndarray):
            value = (value.dtype.str, value.shape, value.tobytes())
        crc = zlib.crc32(f"{name}={value!r};".encode(errors="surrogateescape"), crc)
    return crc
