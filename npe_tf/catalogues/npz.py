"""NumPy archives of named arrays, as `numpy.savez` and `numpy.savez_compressed` write them.

Arrays of haloes are columns; arrays of one number are the header (``box_size``, ``redshift``,
``Omega_m``), and the strings ``length_unit`` and ``mass_unit`` the units. Nothing is unpickled, and
no array is made that the archive has not the bytes for.
"""

from __future__ import annotations

import math
import os
import tokenize
import zipfile
import zlib
from collections.abc import Mapping
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from npe_tf.catalogues.header import header_of
from npe_tf.catalogues.table import MOST_COMPRESSION, HaloTable, choose, damaged, malformed
from npe_tf.catalogues.text_lines import open_binary

__all__ = ["read", "read_npy"]

_MAX_ARRAYS = 10_000
_SMALL = 2**16
_ERRORS = (
    OSError, EOFError, RuntimeError, KeyError, ValueError, TypeError, SyntaxError, OverflowError,
    MemoryError, NotImplementedError, tokenize.TokenError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip


def read(path: str, columns: Mapping[str, str]) -> HaloTable:
    """Read an archive.

    Args:
        path: of the file; gzip is accepted.
        columns: the user's choice of arrays, see `npe_tf.catalogues.table.choose`.

    Returns:
        All its haloes.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is damaged, an array holds objects, or the arrays are not clear.
    """
    with open_binary(path) as stream:
        try:
            archive = zipfile.ZipFile(stream)
            members = {
                info.filename.removesuffix(".npy"): info
                for info in archive.infolist()[: _MAX_ARRAYS + 1]
                if info.filename.endswith(".npy")
            }
        except _ERRORS as error:
            raise damaged(path, "NumPy archive", error) from error
        if len(members) > _MAX_ARRAYS:
            raise malformed(path, f"at most {_MAX_ARRAYS} arrays", "more of them")
        return _read(path, archive, members, columns)


def _read(
    path: str,
    archive: zipfile.ZipFile,
    members: dict[str, zipfile.ZipInfo],
    columns: Mapping[str, str],
) -> HaloTable:
    single: dict[str, Any] = {}
    for name, info in members.items():
        if info.file_size <= _SMALL:
            array = _array(path, archive, info, name, "iufU")
            if array is not None and array.size == 1:
                single[name] = array.item()
    names = [name for name in members if name not in single]
    choice = choose(names, columns, path)
    arrays = []
    for index in choice.indices:
        array = _array(path, archive, members[names[index]], names[index], "iuf")
        if array is None:
            raise malformed(path, f"real numbers in {names[index]!r}", "another type")
        arrays.append(array)
    count = len(choice.position)
    lengths = {array.shape for array in arrays[:count]}
    if len(lengths) > 1:
        raise malformed(path, "x, y and z of one length", f"shapes {sorted(lengths)}")
    parent = None if choice.parent is None else arrays[count + 1]
    if parent is not None and parent.shape != arrays[count].shape:
        raise malformed(path, "as many parent ids as masses", f"shape {parent.shape}")
    try:
        header = header_of(single.items())
    except ValueError as error:
        raise ValueError(f"{error} (in {path!r})") from error
    units = {name: value for name, value in single.items() if isinstance(value, str) and value}
    return HaloTable(
        path=path,
        format="NumPy archive",
        positions=arrays[0] if count == 1 else np.stack(arrays[:3], axis=-1),
        mass=arrays[count],
        parent=parent,
        length_unit=units.get("length_unit", units.get("lengths")),
        mass_unit=units.get("mass_unit", units.get("masses")),
        header=header,
        notes=(
            f"arrays {', '.join(names[index] for index in choice.position)}; mass "
            f"{names[choice.mass]}",
        ),
    )


def _array(
    path: str, archive: zipfile.ZipFile, info: zipfile.ZipInfo, name: str, kinds: str
) -> NDArray[Any] | None:
    """An array of the archive; None if it is of other kinds."""
    try:
        if info.file_size > max(_SMALL, info.compress_size * MOST_COMPRESSION):
            raise malformed(
                path, f"an undamaged array {name!r}",
                f"{info.compress_size} bytes said to hold {info.file_size}",
            )  # fmt: skip
        with archive.open(info) as stream:
            return _from_stream(path, stream, info.file_size, name, kinds)
    except _ERRORS as error:
        if isinstance(error, ValueError) and str(error).startswith("Invalid value"):
            raise
        raise damaged(path, f"array {name!r}", error) from error


def read_npy(path: str) -> NDArray[Any]:
    """Read one array, as `numpy.save` writes it.

    Nothing is unpickled, and no array is made that the file has not the bytes for.

    Args:
        path: of the file.

    Returns:
        The array.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is damaged, or not of real numbers.
    """
    with open(path, "rb") as stream:
        try:
            array = _from_stream(path, stream, os.fstat(stream.fileno()).st_size, path, "biuf")
        except _ERRORS as error:
            if isinstance(error, ValueError) and str(error).startswith("Invalid value"):
                raise
            raise damaged(path, "array in NumPy's format", error) from error
    if array is None:
        raise malformed(path, "an array of real numbers", "another type")
    return array


def _from_stream(
    path: str, stream: IO[bytes], size: int, name: str, kinds: str
) -> NDArray[Any] | None:
    """An array that starts here, in no more bytes than `size`; None if it is of other kinds."""
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        header = np.lib.format.read_array_header_1_0(stream)
    else:
        header = np.lib.format.read_array_header_2_0(stream)
    shape, fortran, dtype = header
    if dtype.hasobject or dtype.kind not in kinds:
        return None
    needed = math.prod(shape) * dtype.itemsize
    if not 0 <= needed <= size or min(shape, default=0) < 0:
        raise malformed(path, f"an undamaged array {name!r}", f"shape {shape} in {size} bytes")
    data = stream.read(needed + 1)
    if len(data) != needed:
        raise malformed(path, f"an undamaged array {name!r}", f"{len(data)} of {needed} bytes")
    if dtype.itemsize == 0:
        return None
    return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")
