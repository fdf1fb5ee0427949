"""Lists of the halo finder ROCKSTAR and of consistent-trees.

Behroozi, Wechsler & Wu 2013, ApJ 762, 109 and Behroozi et al. 2013, ApJ 763, 18. The first line
names the columns, after a hash: ``#ID DescID Mvir ...`` in ``out_*.list``, ``#scale(0) id(1) ...``,
numbered from 0, in the lists of consistent-trees. Comments state scale factor, cosmology, box size
and units. Subhaloes have a ``PID`` that is not -1; ``out_*.list`` has the column only after
ROCKSTAR's ``find_parents`` or consistent-trees.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from npe_tf.catalogues.header import header_of
from npe_tf.catalogues.table import HaloTable, choose, malformed
from npe_tf.catalogues.text_lines import MAX_HEADER, Lines, assignments, numbers, open_lines

__all__ = ["is_rockstar", "read"]

_MASS = re.compile(r"(mvir|m\d+[bcm])", re.IGNORECASE)


def is_rockstar(first: str) -> bool:
    """Whether the first line of a file is that of such a list."""
    names = _names(first)
    plain = {name.lower() for name in names}
    return first.startswith("#") and {"x", "y", "z"} <= plain and bool({"id", "scale"} & plain)


def _names(first: str) -> list[str]:
    """Columns that a first line names."""
    return [re.sub(r"\(\d+\)$", "", name) for name in first.lstrip("#").split()]


def read(path: str, columns: Mapping[str, str]) -> HaloTable:
    """Read a list.

    Args:
        path: of the file; gzip is accepted.
        columns: the user's choice of columns, see `npe_tf.catalogues.table.choose`. The mass is
            by default the first that the file lists, ``Mvir`` unless ROCKSTAR was told otherwise.

    Returns:
        All its haloes, with subhaloes.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is not such a list, a line is malformed, or haloes of several epochs are
            in it.
    """
    with open_lines(path) as lines:
        return _read(path, lines, columns)


def _read(path: str, lines: Lines, columns: Mapping[str, str]) -> HaloTable:
    rest = iter(lines)
    first = next(rest, "")
    names = _names(first)
    if not is_rockstar(first):
        raise malformed(
            path, "a first line '#ID ...' or '#scale(0) id(1) ...' with the names of the columns",
            repr(first[:60]), 1,
        )  # fmt: skip
    comments: list[str] = []
    start = ""
    for line in rest:
        if not line.startswith("#"):
            start = line
            break
        comments.append(line.lstrip("#"))
        if len(comments) > MAX_HEADER:
            raise malformed(path, "fewer comments before the first halo", f"{MAX_HEADER} of them")
    before = [name for name in names if _MASS.fullmatch(name)]
    choice = choose(names, columns, path, text=True, mass=before[0] if before else None)
    # haloes of all epochs are in the files of trees
    scale = [i for i, name in enumerate(names) if name.lower() == "scale"]
    wanted = [*choice.indices, *scale]
    table, at = numbers(path, lines.numbered(start), lines, len(names), wanted, names)
    items: list[tuple[str, float]] = []
    box_unit = None
    for comment in comments:
        for name, value, unit in assignments(comment):
            if name.lower().endswith("box size"):
                box_unit = unit or None
                if value <= 0.0:  # of a simulation that is not periodic
                    continue
            items.append((name, value))
    if scale:
        epochs = np.unique(table[:, -1])
        if len(epochs) > 1:
            raise malformed(
                path,
                "haloes of one epoch (the column 'scale')",
                f"{len(epochs)} scale factors from {epochs[0]:g} to {epochs[-1]:g}",
            )
        items.append(("scale", float(epochs[0])))
    try:
        header = header_of(items)
    except ValueError as error:
        raise ValueError(f"{error} (in the header of {path!r})") from error
    parent = None if choice.parent is None else table[:, 4]
    x, y, z = (names[index] for index in choice.position)
    return HaloTable(
        path=path,
        format="consistent-trees list" if scale else "ROCKSTAR list",
        positions=table[:, :3],
        mass=table[:, 3],
        parent=parent,
        lines=at,
        length_unit=_unit(comments, r"\s*X/Y/Z:.*\(([^)]*)\)", r"\s*Units: Positions in (.*)"),
        mass_unit=_unit(
            comments,
            rf"\s*{re.escape(names[choice.mass])}: .*\(((?:[^()]*Msun)[^()]*)\)",
            r"\s*M(?:ass|vir)[^:]*: .*\(((?:[^()]*Msun)[^()]*)\)",
            r"\s*Units: Masses in (.*)",
        ),
        header=header,
        box_unit=box_unit,
        notes=(f"columns {x}, {y}, {z}; mass {names[choice.mass]}",),
    )


def _unit(comments: list[str], *patterns: str) -> str | None:
    """What the first of the patterns finds in the comments."""
    for pattern in patterns:
        for comment in comments:
            match = re.match(pattern, comment[:1000], re.IGNORECASE)
            if match:
                return match[1]
    return None
