"""HDF5 files with a dataset for each column, anywhere in their groups.

Datasets are called by their path, ``halos/position`` or ``Group/GroupPos``. A unit may stand in an
attribute ``unit`` or ``units`` of the dataset, or in ``lengths`` and ``masses`` (also
``length_unit`` and ``mass_unit``) of the root group; box, epoch and cosmology in attributes of the
root group or of a group ``Header``, ``header``, ``Parameters`` or ``Cosmology``.
"""

from __future__ import annotations

import contextlib
import io
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from npe_tf.catalogues.header import header_of
from npe_tf.catalogues.heaps import has_sound_heaps
from npe_tf.catalogues.table import (
    MOST_COMPRESSION,
    HaloTable,
    choose,
    damaged,
    malformed,
    one_line,
)
from npe_tf.catalogues.text_lines import open_binary

__all__ = ["read", "read_dataset"]

_HEADERS = ("Header", "header", "Parameters", "Cosmology", "cosmology")
# the layout of `npe_tf.catalogue` has these units
_OURS = ("halos/position", "halos/mass")
_OUR_UNITS = {"lengths": "Mpc/h", "masses": "Msun/h"}
_MAX_DATASETS = 10_000
# deflate cannot do better than 1032:1
_ERRORS = (OSError, RuntimeError, KeyError, ValueError, TypeError, OverflowError, MemoryError)


def read(path: str, columns: Mapping[str, str]) -> HaloTable:
    """Read a file.

    Args:
        path: of the file; gzip is accepted.
        columns: the user's choice of datasets, see `npe_tf.catalogues.table.choose`.

    Returns:
        All its haloes.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is damaged or the datasets are not clear.
    """
    with open_binary(path) as stream, _uncompressed(stream) as plain:
        if not has_sound_heaps(plain):
            raise malformed(path, "an undamaged HDF5 file", "a damaged heap of strings")
        try:
            file = h5py.File(plain, "r")
        except _ERRORS as error:
            raise damaged(path, "HDF5 file", error) from error
        with file:
            try:
                shapes = _datasets(file)
            except _ERRORS as error:
                raise damaged(path, "HDF5 file", error) from error
            return _read(path, file, shapes, columns)


def _read(
    path: str, file: h5py.File, shapes: dict[str, tuple[int, ...]], columns: Mapping[str, str]
) -> HaloTable:
    names = list(shapes)
    choice = choose(names, columns, path)
    arrays = [read_dataset(file, names[index], path) for index in choice.indices]
    count = len(choice.position)
    lengths = {array.shape for array in arrays[:count]}
    if len(lengths) > 1:
        raise malformed(path, "x, y and z of one length", f"shapes {sorted(lengths)}")
    positions = arrays[0] if count == 1 else np.stack(arrays[:3], axis=-1)
    parent = None if choice.parent is None else arrays[count + 1]
    if parent is not None and parent.shape != arrays[count].shape:
        raise malformed(path, "as many parent ids as masses", f"shape {parent.shape}")
    try:
        roots = [dict(file.attrs)]
        roots += [
            dict(file[name].attrs) for name in _HEADERS if isinstance(file.get(name), h5py.Group)
        ]
        units = [_unit_of(file, names[index]) for index in choice.indices[: count + 1]]
    except _ERRORS as error:
        raise malformed(path, "readable attributes", one_line(error)) from error
    stated = {key.lower(): value for root in reversed(roots) for key, value in root.items()}
    header = {}
    try:
        header = header_of(item for root in roots for item in root.items())
    except ValueError as error:
        raise ValueError(f"{error} (in the attributes of {path!r})") from error
    if len(set(units[:count])) > 1:
        raise malformed(path, "x, y and z in one unit", repr(units[:count]))
    if [names[index] for index in choice.indices[: count + 1]] == list(_OURS):
        stated = {**_OUR_UNITS, **stated}
    return HaloTable(
        path=path,
        format="HDF5",
        positions=positions,
        mass=arrays[count],
        parent=parent,
        length_unit=units[0] or _text(stated.get("lengths", stated.get("length_unit"))),
        mass_unit=units[count] or _text(stated.get("masses", stated.get("mass_unit"))),
        header=header,
        box_unit=_text(stated.get("box_size_unit")),
        notes=(
            f"datasets {', '.join(names[index] for index in choice.position)}; mass "
            f"{names[choice.mass]}",
        ),
    )


def read_dataset(file: h5py.Group, name: str, path: str) -> NDArray[Any]:
    """Read a dataset of real numbers, if the file is large enough to hold it.

    Args:
        file: the file, or a group in it.
        name: of the dataset.
        path: of the file, for messages.

    Returns:
        Its values, in its own precision.

    Raises:
        ValueError: if it is damaged, not of real numbers, or larger than what is stored of it
            could be.
    """
    try:
        dataset = file[name]
        if not isinstance(dataset, h5py.Dataset) or dataset.dtype.kind not in "iuf":
            raise malformed(
                path, f"real numbers in {name!r}", f"{getattr(dataset, 'dtype', dataset)}"
            )
        if dataset.external or dataset.is_virtual or dataset.file != file.file:
            # it would read what else the user may read
            raise malformed(path, f"a dataset {name!r} in the file itself", "data of other files")
        stored = dataset.id.get_storage_size()
        if dataset.shape is None or dataset.nbytes > stored * MOST_COMPRESSION:
            raise malformed(
                path,
                f"a dataset {name!r} with values",
                f"shape {dataset.shape}, of which {stored} bytes are stored,",
            )
        return np.asarray(dataset[()])
    except _ERRORS as error:
        if isinstance(error, ValueError) and str(error).startswith("Invalid value"):
            raise
        raise damaged(path, f"dataset {name!r}", error) from error


@contextlib.contextmanager
def _uncompressed(stream: Any) -> Iterator[Any]:
    """A stream that can be searched quickly; a gzip file goes to a temporary file."""
    if isinstance(stream, io.BufferedReader):
        yield stream
        return
    with tempfile.TemporaryFile() as plain:
        shutil.copyfileobj(stream, plain)
        plain.seek(0)
        yield plain


def _datasets(file: h5py.File) -> dict[str, tuple[int, ...]]:
    """Shapes of the datasets that could be columns, by name."""
    shapes: dict[str, tuple[int, ...]] = {}

    def note(name: str, item: Any) -> bool | None:
        columns = isinstance(item, h5py.Dataset) and item.dtype.kind in "iuf" and item.shape
        # a damaged name comes as bytes
        if columns and isinstance(name, str):
            shapes[name] = item.shape
        return True if len(shapes) >= _MAX_DATASETS else None

    file.visititems(note)
    return shapes


def _unit_of(file: h5py.File, name: str) -> str | None:
    attributes = {key.lower(): value for key, value in file[name].attrs.items()}
    return _text(attributes.get("unit", attributes.get("units")))


def _text(value: Any) -> str | None:
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.item()
    if isinstance(value, bytes):
        value = value.decode("utf-8", errors="replace")
    return value if isinstance(value, str) and value.strip() else None
