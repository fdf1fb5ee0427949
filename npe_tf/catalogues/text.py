"""Text of columns: comma-separated values, tabs, semicolons or white space.

Columns have names, in the first line that is not empty, with or without a hash, or they are chosen
by number. A name may carry its unit: ``x [Mpc/h]``, ``mass (Msun/h)``. Comments before the haloes
may state what a header states: ``# box_size = 250 Mpc/h``, ``# redshift: 0.5``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from npe_tf.catalogues.header import header_of
from npe_tf.catalogues.table import HaloTable, choose, malformed
from npe_tf.catalogues.text_lines import (
    MAX_HEADER,
    Lines,
    assignments,
    numbers,
    open_lines,
    split,
)

__all__ = ["read"]

_MAX_COLUMNS = 4096


def read(path: str, columns: Mapping[str, str]) -> HaloTable:
    """Read a table.

    Args:
        path: of the file; gzip is accepted.
        columns: the user's choice of columns, see `npe_tf.catalogues.table.choose`; by name, or by
            number from 1.

    Returns:
        All its haloes.

    Raises:
        OSError: if it cannot be read.
        ValueError: if a line is malformed or the columns are not clear.
    """
    with open_lines(path) as lines:
        return _read(path, lines, columns)


def _read(path: str, lines: Lines, columns: Mapping[str, str]) -> HaloTable:
    comments: list[str] = []
    start = None
    for line in lines:
        if lines.number > MAX_HEADER:
            raise malformed(path, "fewer lines before the first halo", f"{MAX_HEADER} of them")
        if line.lstrip().startswith("#"):
            comments.append(line.lstrip().lstrip("#"))
        elif line.strip():
            start = line.removeprefix("\ufeff")
            break
    if start is None:
        raise malformed(path, "at least one halo", "no line of numbers")
    if not start.isprintable() and not start.replace("\t", "").isprintable():
        raise malformed(path, "text", repr(start[:40]), lines.number)
    delimiter = next((sign for sign in ",;\t" if sign in start), None)
    fields = split(start, delimiter)
    if len(fields) > _MAX_COLUMNS:
        raise malformed(
            path, f"at most {_MAX_COLUMNS} columns", f"{len(fields)} of them", lines.number
        )
    titles = _titles(fields)
    if titles is not None:
        start = ""
    else:
        # names are in a comment if it has as many as there are columns
        for comment in reversed(comments):
            for sign in (delimiter, ",", None):
                named = _titles(split(comment.strip(), sign))
                if named is not None and len(named) == len(fields):
                    titles = titles or named
    width = len(fields)
    numbered = titles is None
    if titles is None:
        titles = [f"{number}" for number in range(1, width + 1)]
    pairs = [_name_and_unit(title) for title in titles]
    names = [name for name, _ in pairs]
    if numbered and not {"x", "y", "z", "mass"} <= columns.keys():
        raise ValueError(
            "Invalid value for argument `columns`. Expected numbers for x, y, z and mass, counted "
            "from 1, for a file without names of columns, such as --columns=x=1,y=2,z=3,mass=4. "
            f"Received: {dict(columns)} for the {width} columns of {path!r}"
        )
    choice = choose(names, columns, path, text=True)
    table, at = numbers(path, lines.numbered(start), lines, width, choice.indices, names, delimiter)
    items, box_unit = [], None
    for comment in comments:
        for name, value, unit in assignments(comment):
            if re.sub(r"[^a-z]", "", name.lower()) == "boxsize":
                box_unit = unit or None
            items.append((name, value))
    try:
        header = header_of(items)
    except ValueError as error:
        raise ValueError(f"{error} (in the comments of {path!r})") from error
    units = {pairs[index][1] for index in choice.position}
    if len(units) > 1:
        raise malformed(path, "x, y and z in one unit", repr(sorted(str(unit) for unit in units)))
    what = {None: "white space", ",": "commas", ";": "semicolons", "\t": "tabs"}[delimiter]
    x, y, z = (names[index] for index in choice.position)
    return HaloTable(
        path=path,
        format=f"text with {what}",
        positions=table[:, :3],
        mass=table[:, 3],
        parent=None if choice.parent is None else table[:, 4],
        lines=at,
        length_unit=units.pop(),
        mass_unit=pairs[choice.mass][1],
        header=header,
        box_unit=box_unit,
        notes=(f"columns {x}, {y}, {z}; mass {names[choice.mass]}",),
    )


def _titles(fields: list[str]) -> list[str] | None:
    """The fields, if they name columns; None if one of them is a number or empty."""
    for field in fields:
        try:
            float(field)
        except ValueError:
            if field:
                continue
        return None
    return fields or None


def _name_and_unit(title: str) -> tuple[str, str | None]:
    """Name of a column and the unit in brackets behind it."""
    match = re.fullmatch(r"(.*?)\s*[\[(]([^\])]*[A-Za-z][^\])]*)[\])]", title[:200])
    if match is None or not re.search(r"pc|sun|sol", match[2], re.IGNORECASE):
        return title, None
    return match[1], match[2]
