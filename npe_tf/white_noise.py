"""White noise of other codes, so that the initial field of a simulation can be used here.

Three formats are told apart by their first bytes:

* NumPy's ``.npy``, and a dataset of an HDF5 file: an array `[N, N, N]`;
* the white noise of GRAFIC and MUSIC: Fortran unformatted records, the first of four int32
  ``nx, ny, nz, seed``, then one for each of the `nz` planes of ``nx * ny`` numbers, x fastest, in
  float32 or float64. Every record stands between two markers of its length in bytes, of four or
  eight bytes each, in either byte order.

The first number belongs to the vertex at the origin.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from npe_tf.catalogues.hdf5 import read_dataset
from npe_tf.catalogues.heaps import file_has_sound_heaps
from npe_tf.catalogues.npz import read_npy

__all__ = ["read_white_noise"]

FilePath = str | os.PathLike[str]

_NPY = b"\x93NUMPY"
_HDF5 = b"\x89HDF\r\n\x1a\n"
_HEADER_BYTES = 16
_STANDARD_ERRORS = 5.0


class _Stored(NamedTuple):
    """What a file holds: its array, and the order of the axes that its format implies."""

    values: NDArray[Any]
    axis_order: str


def read_white_noise(
    path: FilePath,
    *,
    dataset: str | None = None,
    num_cells: int | None = None,
    axis_order: str | None = None,
    sign: int = 1,
    tolerance: float = 0.1,
) -> NDArray[np.float64]:
    """Read white noise written by another code.

    Args:
        path: an ``.npy`` file, an HDF5 file, or GRAFIC's and MUSIC's binary format.
        dataset: name of the dataset in an HDF5 file; may be left out if there is only one.
        num_cells: cells along each side that are expected; any even number by default.
        axis_order: axes of the stored array from the slowest to the fastest, a permutation of
            ``"xyz"``. By default ``"zyx"`` for GRAFIC and MUSIC and ``"xyz"`` for the others.
        sign: 1, or -1 to change the sign of all numbers. Codes differ: MUSIC does so with the
            numbers that it reads, unless it is told to follow GRAFIC's convention.
        tolerance: how far the mean may be from zero and the variance from one, beyond five
            standard errors. Empty Nyquist planes lower the variance by about 3/N.

    Returns:
        White noise `[N, N, N]`, axes x, y, z.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is none of the three formats or is damaged, the array is not an
            even cube or not of `num_cells`, a value is not finite, or mean and variance are not
            those of white noise.
    """
    name = os.fspath(path)
    if axis_order is not None and sorted(axis_order) != ["x", "y", "z"]:
        raise ValueError(
            "Invalid value for argument `axis_order`. Expected a permutation of 'xyz'. Received: "
            f"axis_order={axis_order!r}"
        )
    if sign not in (1, -1):
        raise ValueError(
            f"Invalid value for argument `sign`. Expected 1 or -1. Received: sign={sign!r}"
        )
    if not Path(name).is_file():
        raise FileNotFoundError(
            f"Invalid value for argument `path`. Expected a file. Received: path={name!r}, which "
            "does not exist"
        )
    with open(name, "rb") as file:
        start = file.read(len(_HDF5))
    if start.startswith(_NPY):
        stored = _read_npy(name)
    elif start == _HDF5:
        stored = _read_hdf5(name, dataset)
    else:
        stored = _read_grafic(name)
    order = stored.axis_order if axis_order is None else axis_order
    return _checked(stored.values, name, num_cells, order, sign, tolerance)


def _checked(
    values: NDArray[Any],
    name: str,
    num_cells: int | None,
    axis_order: str,
    sign: int,
    tolerance: float,
) -> NDArray[np.float64]:
    """The array in this package's conventions, if it can be white noise."""

    def refuse(expected: str, received: str) -> ValueError:
        return ValueError(
            f"Invalid value for argument `path`. Expected white noise {expected}. Received: "
            f"{name!r} with {received}"
        )

    if values.dtype.kind != "f":
        raise refuse("of floating point", f"dtype {values.dtype}")
    if values.ndim != 3 or len(set(values.shape)) != 1 or not values.size or len(values) % 2:
        raise refuse("of shape (N, N, N), N even", f"shape {values.shape}")
    if num_cells is not None and len(values) != num_cells:
        raise refuse(f"of num_cells={num_cells}", f"shape {values.shape}")
    noise = np.transpose(values, [axis_order.index(axis) for axis in "xyz"])
    noise = sign * np.ascontiguousarray(noise, dtype=np.float64)
    finite = np.isfinite(noise)
    if not finite.all():
        raise refuse("of finite values", f"{int((~finite).sum())} that are NaN or infinite")
    mean, variance = float(noise.mean()), float(noise.var())
    if abs(mean) > tolerance + _STANDARD_ERRORS / np.sqrt(noise.size):
        raise refuse("of mean 0", f"mean {mean:g} and variance {variance:g}")
    if abs(variance - 1.0) > tolerance + _STANDARD_ERRORS * np.sqrt(2.0 / noise.size):
        raise refuse("of variance 1", f"mean {mean:g} and variance {variance:g}")
    return noise


def _read_npy(name: str) -> _Stored:
    try:
        return _Stored(read_npy(name), "xyz")
    except (OSError, ValueError) as error:
        raise ValueError(
            "Invalid value for argument `path`. Expected an undamaged array in NumPy's format. "
            f"Received: {name!r} ({error})"
        ) from error


def _read_hdf5(name: str, dataset: str | None) -> _Stored:
    try:
        if not file_has_sound_heaps(name):
            raise OSError("a damaged heap of strings")
        with h5py.File(name, "r") as file:
            present: list[str] = []
            file.visititems(
                lambda key, item: present.append(key) if isinstance(item, h5py.Dataset) else None
            )
            chosen = present[0] if dataset is None and len(present) == 1 else dataset
            if chosen is not None and isinstance(file.get(chosen), h5py.Dataset):
                return _Stored(read_dataset(file, chosen, name), "xyz")
    except (OSError, RuntimeError, KeyError, TypeError, ValueError, OverflowError) as error:
        if isinstance(error, ValueError) and str(error).startswith("Invalid value"):
            raise
        raise ValueError(
            f"Invalid value for argument `path`. Expected an undamaged HDF5 file. Received: "
            f"{name!r} ({error})"
        ) from error
    raise ValueError(
        "Invalid value for argument `dataset`. Expected the name of a dataset out of "
        f"{sorted(present)} in {name!r}. Received: dataset={dataset!r}"
    )


def _read_grafic(name: str) -> _Stored:
    def refuse(received: str) -> ValueError:
        return ValueError(
            "Invalid value for argument `path`. Expected NumPy's format, HDF5, or the white noise "
            f"of GRAFIC and MUSIC. Received: {name!r}, {received}"
        )

    data = np.fromfile(name, dtype=np.uint8)
    # eight bytes first: read as four, they would be followed by nx = 0
    for marker in ("<i8", ">i8", "<i4", ">i4"):
        width = np.dtype(marker).itemsize
        if data.size > 3 * width + _HEADER_BYTES and data[:width].view(marker)[0] == _HEADER_BYTES:
            break
    else:
        raise refuse("which does not start with a record of 16 bytes")
    order = marker[0]
    end = width + _HEADER_BYTES
    nx, ny, nz, _ = (int(n) for n in data[width:end].view(f"{order}i4"))
    if min(nx, ny, nz) < 1 or data[end : end + width].view(marker)[0] != _HEADER_BYTES:
        raise refuse(f"whose header is damaged: nx={nx}, ny={ny}, nz={nz}")
    body = data[end + width :]
    length = int(body[:width].view(marker)[0])
    plane = nx * ny
    if length not in (4 * plane, 8 * plane):
        raise refuse(f"whose record of {nx} x {ny} numbers has {length} bytes")
    record = np.dtype(
        [("head", marker), ("values", f"{order}f{length // plane}", (ny, nx)), ("tail", marker)]
    )
    if body.size != nz * record.itemsize:
        raise refuse(
            f"whose {nz} records of {nx} x {ny} numbers should have {nz * record.itemsize} bytes "
            f"and have {body.size}"
        )
    records = body.view(record)
    if not (np.all(records["head"] == length) and np.all(records["tail"] == length)):
        raise refuse("in which the markers of a record are damaged")
    return _Stored(records["values"], "zyx")
