"""Catalogues of the code PINOCCHIO (Monaco et al. 2002, MNRAS 331, 587), in text.

Comments before the haloes give redshift, columns and units: ``# Group catalog for redshift 0.5
...``, ``#    2) group mass (Msun/h)``, ``# 6- 8) final position (Mpc/h)``. Lengths and masses of
runs that were asked for it are without h. Box size and cosmology are in other files of the run.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from npe_tf.catalogues.header import header_of
from npe_tf.catalogues.table import HaloTable, choose, malformed
from npe_tf.catalogues.text_lines import MAX_HEADER, Lines, numbers, open_lines

__all__ = ["is_pinocchio", "read"]

_FIRST = re.compile(r"#\s*Group catalog for redshift\s+([-+0-9.eE]+)")
_COLUMN = re.compile(r"#\s*(\d{1,3})\s*(?:-\s*(\d{1,3}))?\)\s*([^()]+?)\s*(?:\(([^()]*)\))?\s*")
_MASS, _POSITION = "group mass", "final position"


def is_pinocchio(first: str) -> bool:
    """Whether the first line of a file is that of such a catalogue."""
    return _FIRST.match(first) is not None


def read(path: str, columns: Mapping[str, str]) -> HaloTable:
    """Read a catalogue.

    Args:
        path: of the file; gzip is accepted.
        columns: the user's choice of columns, see `npe_tf.catalogues.table.choose`; by default the
            group mass and the final position. Those of three numbers have the names ``"final
            position x"`` and so on.

    Returns:
        All its haloes.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is not such a catalogue or a line is malformed.
    """
    with open_lines(path) as lines:
        return _read(path, lines, columns)


def _read(path: str, lines: Lines, columns: Mapping[str, str]) -> HaloTable:
    rest = iter(lines)
    first = next(rest, "")
    match = _FIRST.match(first)
    if match is None:
        raise malformed(
            path, "a first line '# Group catalog for redshift ...'", repr(first[:60]), 1
        )
    try:
        header = header_of([("redshift", float(match[1]))])
    except ValueError:
        raise malformed(path, "a redshift", repr(match[1][:60]), 1) from None
    names: list[str] = []
    units: list[str | None] = []
    start = ""
    for line in rest:
        if not line.startswith("#"):
            start = line
            break
        if lines.number > MAX_HEADER:
            raise malformed(path, "fewer comments before the first halo", f"{MAX_HEADER} of them")
        column = _COLUMN.fullmatch(line[:1000])
        if column is None:
            continue
        low, high = int(column[1]), int(column[2] or column[1])
        if low != len(names) + 1 or high - low not in (0, 2):
            raise malformed(
                path, f"the description of column {len(names) + 1}", repr(line[:60]), lines.number
            )
        axes = [""] if high == low else [" x", " y", " z"]
        names += [column[3] + axis for axis in axes]
        units += [column[4]] * len(axes)
    if not names:
        raise malformed(path, "comments that describe the columns", "none of them")
    wanted = dict(columns)
    if not {"x", "y", "z"} & wanted.keys():
        wanted |= {axis: f"{_POSITION} {axis}" for axis in "xyz"}
    wanted.setdefault("mass", _MASS)
    choice = choose(names, wanted, path, text=True)
    table, at = numbers(path, lines.numbered(start), lines, len(names), choice.indices, names)
    x, y, z = (names[index] for index in choice.position)
    return HaloTable(
        path=path,
        format="PINOCCHIO catalogue",
        positions=table[:, :3],
        mass=table[:, 3],
        parent=None if choice.parent is None else table[:, 4],
        lines=at,
        length_unit=units[choice.position[0]],
        mass_unit=units[choice.mass],
        header=header,
        notes=(f"columns {x}, {y}, {z}; mass {names[choice.mass]}",),
    )
