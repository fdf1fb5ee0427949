"""Formats of halo catalogues, told apart by their first bytes."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping

from npe_tf.catalogues.pinocchio import is_pinocchio
from npe_tf.catalogues.rockstar import is_rockstar
from npe_tf.catalogues.table import HaloTable, check_columns, malformed
from npe_tf.catalogues.text_lines import open_binary

__all__ = ["FORMATS", "format_of", "read_table"]

FORMATS = ("hdf5", "rockstar", "pinocchio", "text", "npz", "fits", "ecsv")
"""Names of the formats; ``"auto"`` stands for the one that the file seems to have."""

_HOMES = {"fits": "astropy_tables", "ecsv": "astropy_tables"}
_HDF5 = b"\x89HDF\r\n\x1a\n"


def format_of(path: str) -> str:
    """Which of `FORMATS` a file seems to have.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is empty, a damaged gzip file or in a format that is known and not read.
    """
    with open_binary(path) as stream:
        start = stream.read(4096)
    if not start:
        raise malformed(path, "a halo catalogue", "an empty file")
    if start.startswith(_HDF5):
        return "hdf5"
    if start.startswith(b"PK\x03\x04"):
        return "npz"
    if start.startswith(b"\x93NUMPY"):
        raise malformed(path, "arrays with names (numpy.savez)", "one array without (numpy.save)")
    if start.startswith(b"SIMPLE  ="):
        return "fits"
    if start.startswith(b"# %ECSV"):
        return "ecsv"
    first = start.decode("utf-8", errors="replace").replace("\r", "\n").partition("\n")[0]
    if is_pinocchio(first):
        return "pinocchio"
    return "rockstar" if is_rockstar(first) else "text"


def read_table(
    path: str | os.PathLike[str], format: str = "auto", columns: Mapping[str, str] | None = None
) -> HaloTable:
    """Read haloes in the units of their file.

    Args:
        path: of the file.
        format: one of `FORMATS`, or ``"auto"``.
        columns: which columns to read, see `npe_tf.catalogues.table.choose`.

    Returns:
        The haloes, subhaloes among them.

    Raises:
        ImportError: if the format needs a package that is not installed.
        OSError: if the file cannot be read.
        ValueError: if there is no such format, or the file is malformed.
    """
    name = os.fspath(path)
    if format not in ("auto", *FORMATS):
        raise ValueError(
            f"Invalid value for argument `format`. Expected one of {('auto', *FORMATS)}. "
            f"Received: format={format!r}"
        )
    chosen = check_columns(columns or {})
    found = format_of(name) if format == "auto" else format
    module = importlib.import_module(f"npe_tf.catalogues.{_HOMES.get(found, found)}")
    table: HaloTable = module.read(name, chosen)
    return table
