"""What a chain's file consists of, and how its structure is made.

See `npe_tf.chain_store` for what is done with it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from npe_tf.checksums import of_arrays, of_structure

__all__ = [
    "CHECK",
    "FORMAT",
    "FORMAT_WITHOUT_CHECKS",
    "Column",
    "Dataset",
    "Extent",
    "Plan",
    "attribute",
    "datasets_of",
    "num_bytes",
    "predicted_nbytes",
    "require_positive_integer",
    "structure_checksum",
]

FORMAT = "npe_tf chain 2"
FORMAT_WITHOUT_CHECKS = "npe_tf chain 1"
CHECK = np.dtype("<u4")
"""Type of the checksums of rows."""

_LARGEST_ATTRIBUTE = 60_000  # bytes; HDF5's object header holds 64 KiB

Array = NDArray[Any]


@dataclasses.dataclass(frozen=True)
class Column:
    """One quantity that is stored for every sweep, or for every k-th.

    Attributes:
        shape: shape of one row.
        dtype: type of its entries: boolean, integer, float or complex.
        every: the row of sweep s (from 0) is stored where ``(s + 1) % every == 0``.

    Raises:
        ValueError: if any of these makes no column.
    """

    shape: tuple[int, ...] = ()
    dtype: Any = np.float64
    every: int = 1

    def __post_init__(self) -> None:
        """Refuse what cannot be stored."""
        given: Any = self.shape
        shape = (given,) if isinstance(given, (int, np.integer)) else tuple(given)
        if not all(isinstance(n, (int, np.integer)) and n >= 0 for n in shape):
            raise ValueError(
                "Invalid value for argument `shape`. Expected a tuple of non-negative integers. "
                f"Received: shape={given!r}"
            )
        require_positive_integer("every", self.every)
        object.__setattr__(self, "shape", tuple(int(n) for n in shape))
        object.__setattr__(self, "dtype", storable("dtype", np.dtype(self.dtype)))
        object.__setattr__(self, "every", int(self.every))

    def num_rows(self, num_sweeps: int) -> int:
        """Number of rows that `num_sweeps` sweeps leave behind."""
        return num_sweeps // self.every


@dataclasses.dataclass(frozen=True)
class Extent:
    """Where one dataset lies in the file."""

    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def nbytes(self) -> int:
        """Its length."""
        return num_bytes(self.shape, self.dtype)

    def rows(self, start: int, stop: int) -> Extent:
        """The part that holds rows `start` to `stop`."""
        size = num_bytes(self.shape[1:], self.dtype)
        return Extent(self.offset + start * size, (stop - start, *self.shape[1:]), self.dtype)


def num_bytes(shape: Iterable[int], dtype: np.dtype[Any]) -> int:
    """Bytes of an array."""
    total = dtype.itemsize
    for n in shape:
        total *= n
    return total


def require_positive_integer(name: str, value: Any) -> None:
    """Refuse what is no strictly positive integer."""
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < 1:
        raise ValueError(
            f"Invalid value for argument `{name}`. Expected a strictly positive integer. "
            f"Received: {name}={value!r}"
        )


def storable(argument: str, dtype: np.dtype[Any]) -> np.dtype[Any]:
    if dtype.kind not in "biufc" or dtype.char in "gG":
        raise ValueError(
            f"Invalid value for argument `{argument}`. Expected a boolean, integer, float or "
            f"complex type of at most double precision. Received: dtype={dtype}"
        )
    return dtype


def checked_names(argument: str, names: Iterable[str]) -> None:
    """Refuse names that HDF5 would not take as paths of distinct datasets."""
    known = list(names)
    for name in known:
        parts = name.split("/") if isinstance(name, str) else [""]
        if any(part in ("", ".", "..") or "\0" in part for part in parts):
            raise ValueError(
                f"Invalid value for argument `{argument}`. Expected names like 'theta' or "
                f"'field/mean'. Received: {name!r}"
            )
        if any(other.startswith(name + "/") for other in known):
            raise ValueError(
                f"Invalid value for argument `{argument}`. Expected no name to be the group of "
                f"another one. Received: {name!r} among {sorted(known)}"
            )


def attribute(argument: str, name: str, value: Any) -> Any:
    """Bring an attribute to the form in which it is read back: a scalar, list of str or array."""
    if isinstance(value, str) and "\0" not in value:
        return value
    array = np.asarray(value)
    if array.dtype.kind in "UO" and array.ndim == 1 and all(isinstance(x, str) for x in array):
        return [str(x) for x in array]
    if array.dtype.kind not in "biuf" or array.nbytes > _LARGEST_ATTRIBUTE:
        raise ValueError(
            f"Invalid value for argument `{argument}`. Expected {name!r} to be a string, a number, "
            f"a list of strings or a numeric array of at most {_LARGEST_ATTRIBUTE} bytes. "
            f"Received: {value!r}"
        )
    return array.item() if array.ndim == 0 else array


@dataclasses.dataclass(frozen=True)
class Plan:
    """Everything that decides the structure of a chain's file."""

    columns: Mapping[str, Column]
    capacity: int
    checkpoint: Mapping[str, Array]
    attributes: Mapping[str, Any]
    constants: Mapping[str, Array]

    def __post_init__(self) -> None:
        """Refuse what HDF5 would not take, before any file is touched."""
        require_positive_integer("capacity", self.capacity)
        checked_names("columns", self.columns)
        for argument in ("checkpoint", "constants"):
            given = getattr(self, argument)
            checked_names(argument, given)
            arrays = {name: np.asarray(value) for name, value in given.items()}
            for array in arrays.values():
                storable(argument, array.dtype)
            object.__setattr__(self, argument, arrays)
        marks = {name: attribute("attributes", name, v) for name, v in self.attributes.items()}
        object.__setattr__(self, "attributes", marks)
        object.__setattr__(self, "capacity", int(self.capacity))

    def layout(self) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
        """Shape and type of every dataset."""
        layout: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = {
            "committed": ((), np.dtype("<i8")),
            "seal": ((2, 2), np.dtype("<i8")),
        }
        for name, column in self.columns.items():
            shape = (column.num_rows(self.capacity), *column.shape)
            layout[f"chain/{name}"] = (shape, column.dtype)
            layout[f"checks/{name}"] = (shape[:1], CHECK)
        for slot in range(2):
            for name, array in self.checkpoint.items():
                layout[f"checkpoint/{slot}/{name}"] = (array.shape, array.dtype)
        for name, array in self.constants.items():
            layout[f"constants/{name}"] = (array.shape, array.dtype)
        return layout

    @property
    def nbytes(self) -> int:
        """Bytes of data."""
        return sum(num_bytes(shape, dtype) for shape, dtype in self.layout().values())

    def write(self, path: str) -> None:
        """Write a chain without sweeps."""
        properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        properties.set_layout(h5py.h5d.CONTIGUOUS)
        properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        properties.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        properties.set_obj_track_times(False)  # equal runs make equal files
        # The earliest format has no consistency flags that a crash could leave set. The alignment
        # keeps the counter inside one disk sector and one memory page.
        with h5py.File(
            path, "w", libver="earliest", locking=False, alignment_threshold=1, alignment_interval=8
        ) as file:
            for name in ("chain", "checks", "checkpoint/0", "checkpoint/1", "constants"):
                file.create_group(name)
            for name, (shape, dtype) in self.layout().items():
                parent, _, leaf = name.rpartition("/")
                space = h5py.h5s.create_simple(shape) if shape else h5py.h5s.create(h5py.h5s.SCALAR)
                group = file.require_group(parent or "/")
                kind = h5py.h5t.py_create(dtype, logical=True)
                h5py.h5d.create(group.id, leaf.encode(), kind, space, properties)
            for name, column in self.columns.items():
                file[f"chain/{name}"].attrs["every"] = column.every
            for name, array in self.constants.items():
                if array.size:
                    file[f"constants/{name}"][...] = array
                file[f"constants/{name}"].attrs["check"] = of_arrays(name, {name: array})
            for name, value in self.attributes.items():
                file.attrs[name] = value
            mark = file["committed"].attrs
            mark["format"], mark["capacity"] = FORMAT, self.capacity
            mark["structure"] = structure_checksum(
                datasets_of(file), self.capacity, self.attributes
            )


class Dataset(NamedTuple):
    """Where a dataset lies, and its marks: the `every` of a column, the checksum of a constant."""

    extent: Extent
    every: int
    check: int | None


def datasets_of(file: h5py.File) -> dict[str, Dataset]:
    """All datasets of a file by name."""
    found: dict[str, Dataset] = {}

    def visit(name: str, node: Any) -> None:
        if isinstance(node, h5py.Dataset):
            offset = node.id.get_offset()
            if offset is None and node.size or node.external or node.is_virtual:
                raise ValueError(f"dataset {name!r} is no range of bytes in the file")
            extent = Extent(offset or 0, node.shape, node.dtype)
            marks = dict(node.attrs)
            check = int(marks["check"]) if "check" in marks else None
            found[name] = Dataset(extent, int(marks.get("every", 1)), check)

    file.visititems(visit)
    return found


def structure_checksum(
    datasets: Mapping[str, Dataset], capacity: int, attributes: Mapping[str, Any]
) -> int:
    """Of all that says what the bytes of a file mean."""
    parts: dict[str, Any] = {f"attribute {name}": value for name, value in attributes.items()}
    for name, (extent, every, check) in datasets.items():
        kind = extent.dtype.str
        parts[f"dataset {name}"] = repr((extent.offset, extent.shape, kind, every, check))
    return of_structure({**parts, "capacity": capacity})


def predicted_nbytes(
    columns: Mapping[str, Column],
    capacity: int,
    checkpoint: Mapping[str, Array],
    constants: Mapping[str, Array] | None = None,
) -> int:
    """Bytes of data in a chain of these dimensions, before it is created.

    Args:
        columns: as in `ChainStore.create`.
        capacity: as in `ChainStore.create`.
        checkpoint: as in `ChainStore.create`.
        constants: as in `ChainStore.create`.

    Returns:
        The size without HDF5's own metadata, which adds less than 8 KiB and 1 KiB per dataset.
    """
    return Plan(columns, capacity, checkpoint, {}, constants or {}).nbytes
