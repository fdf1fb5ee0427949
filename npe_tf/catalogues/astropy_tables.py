"""FITS binary tables and ECSV, read by astropy (the extra ``formats``).

Units of columns are those of the files; box, epoch and cosmology are keywords of the FITS table
(``BOXSIZE``, ``REDSHIFT``, ``OMEGA_M``) or of ECSV's ``meta``.
"""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npe_tf.catalogues.header import header_of
from npe_tf.catalogues.table import HaloTable, choose, damaged, malformed
from npe_tf.catalogues.text_lines import MAX_HEADER, Lines, open_binary

__all__ = ["read"]

_SIGNATURE = b"SIMPLE  ="


def read(path: str, columns: Mapping[str, str]) -> HaloTable:
    """Read a table.

    Args:
        path: of the file; gzip is accepted.
        columns: the user's choice of columns, see `npe_tf.catalogues.table.choose`.

    Returns:
        All its haloes.

    Raises:
        ImportError: if astropy is not installed.
        OSError: if the file cannot be read.
        ValueError: if it is damaged or the columns are not clear.
    """
    try:
        import astropy  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"Reading {path!r} needs astropy. Expected the extra `formats`: pip install "
            "'npe_tf[formats]'"
        ) from error
    with open_binary(path) as stream:
        fits = stream.read(len(_SIGNATURE)) == _SIGNATURE
        stream.seek(0)
        data = stream.read() if fits else b""
        text = "" if fits else _ecsv_text(path, stream)
    kind = "FITS table" if fits else "ECSV table"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _fits(path, data, columns) if fits else _ecsv(path, text, columns)
    except ValueError as error:
        if str(error).startswith("Invalid value") or "(in the header of " in str(error):
            raise
        raise damaged(path, kind, error) from error
    except Exception as error:  # whatever astropy makes of a damaged file
        raise damaged(path, kind, error) from error


def _fits(path: str, data: bytes, columns: Mapping[str, str]) -> HaloTable:
    from astropy.io import fits

    # the bytes are there, so astropy makes views of them and allocates nothing of what headers say
    with fits.open(io.BytesIO(data), memmap=False, lazy_load_hdus=False) as hdus:
        tables = [hdu for hdu in hdus if isinstance(hdu, fits.BinTableHDU)]
        if len(tables) != 1:
            raise malformed(path, "one binary table", f"{len(tables)} of them")
        table = tables[0]
        start = table._data_offset
        needed = int(table.header["NAXIS1"]) * int(table.header["NAXIS2"])
        if needed < 0 or start + needed > len(data):
            raise malformed(path, f"{needed} bytes of table", f"{max(0, len(data) - start)}")
        names = [str(name) for name in table.columns.names]
        units = [None if unit is None else str(unit) for unit in table.columns.units]
        choice = choose(names, columns, path)
        arrays = [np.array(table.data.field(names[index])) for index in choice.indices]
        items = [item for hdu in hdus for item in hdu.header.items()]
    return _table(path, "FITS table", names, units, choice.indices, arrays, items, choice)


def _ecsv_text(path: str, stream: io.BufferedIOBase) -> str:
    lines = Lines(path, stream)
    try:
        text = list(lines)
        if lines.number and not lines.complete:
            raise malformed(
                path, "a last line with an end (if the file is complete, add a newline to it)",
                "a file that may have been cut there", lines.number,
            )  # fmt: skip
    finally:
        lines.close()
    if sum(line.startswith("#") for line in text) > MAX_HEADER:
        raise malformed(path, f"at most {MAX_HEADER} comments", "more of them")
    return "\n".join(text)


def _ecsv(path: str, text: str, columns: Mapping[str, str]) -> HaloTable:
    from astropy.table import Table

    table = Table.read(text + "\n", format="ascii.ecsv")
    names = [str(name) for name in table.colnames]
    choice = choose(names, columns, path)
    chosen = [table[names[index]] for index in choice.indices]
    for name, column in ((names[i], c) for i, c in zip(choice.indices, chosen, strict=True)):
        if getattr(column, "mask", None) is not None and np.any(column.mask):
            raise malformed(path, f"a number for every halo in {name!r}", "an empty field")
    units = [None if table[name].unit is None else str(table[name].unit) for name in names]
    arrays = [np.asarray(column) for column in chosen]
    return _table(
        path, "ECSV table", names, units, choice.indices, arrays, list(table.meta.items()), choice
    )


def _table(
    path: str,
    format: str,
    names: list[str],
    units: list[str | None],
    indices: tuple[int, ...],
    arrays: list[NDArray[Any]],
    items: list[tuple[Any, Any]],
    choice: Any,
) -> HaloTable:
    for index, array in zip(indices, arrays, strict=True):
        if array.dtype.kind not in "iuf":
            raise malformed(path, f"real numbers in {names[index]!r}", f"dtype {array.dtype}")
    count = len(choice.position)
    position_units = {units[index] for index in choice.position}
    if len(position_units) > 1:
        raise malformed(
            path, "x, y and z in one unit", repr(sorted(str(unit) for unit in position_units))
        )
    try:
        header = header_of(items)
    except ValueError as error:
        raise ValueError(f"{error} (in the header of {path!r})") from error
    stated = {str(key).lower(): value for key, value in items if isinstance(value, str)}
    return HaloTable(
        path=os.fspath(path),
        format=format,
        positions=arrays[0] if count == 1 else np.stack(arrays[:3], axis=-1),
        mass=arrays[count],
        parent=arrays[count + 1] if choice.parent is not None else None,
        length_unit=position_units.pop() or stated.get("length_unit", stated.get("lenunit")),
        mass_unit=units[choice.mass] or stated.get("mass_unit", stated.get("massunit")),
        header=header,
        notes=(
            f"columns {', '.join(names[index] for index in choice.position)}; mass "
            f"{names[choice.mass]}",
        ),
    )
