"""A table of haloes as it stands in a file, and the choice of its columns."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npe_tf.catalogues.header import Header

__all__ = [
    "COLUMNS",
    "MOST_COMPRESSION",
    "Choice",
    "HaloTable",
    "check_columns",
    "choose",
    "damaged",
    "malformed",
    "one_line",
    "shown",
]

COLUMNS = ("x", "y", "z", "position", "mass", "parent")
"""What a column can be chosen for."""

MOST_COMPRESSION = 1100
"""Bytes that a stored byte can become; deflate's limit is 1,032."""

_POSITIONS = ("position", "positions", "pos", "xyz", "coordinates", "grouppos", "groupcm")
_AXES = ("{}", "pos{}", "{}pos", "position{}", "{}position", "halo{}", "{}halo", "{}com", "{}c")
_MASSES = ("mass", "masses", "halomass", "groupmass", "mhalo", "m")
_MASS_DEFINITION = re.compile(r"(halo|group)?m(ass)?(vir|fof|tot|bn98|\d{3,4}(b|c|m|mean|crit)?)")
_PARENTS = ("pid", "parentid", "parent", "haloparentid", "halopid", "upid", "haloupid")


@dataclasses.dataclass(frozen=True, eq=False)
class HaloTable:
    """Haloes in the units of their file.

    Attributes:
        path: of the file.
        format: what it was read as, for people.
        positions: `[H, 3]`, in the type in which they came.
        mass: `[H]`.
        parent: identity of the halo of which each is a subhalo, negative for none, `[H]`; None if
            the file does not say.
        lines: line of the file of each halo, `[H]`; None for binary files.
        length_unit: as the file states it; None if it does not.
        mass_unit: as the file states it; None if it does not.
        header: what the header says, see `npe_tf.catalogues.header`.
        box_unit: unit of the header's box size; None for that of the positions.
        notes: lines on which columns were read, for people.
    """

    path: str
    format: str
    positions: NDArray[Any]
    mass: NDArray[Any]
    parent: NDArray[Any] | None = None
    lines: NDArray[np.int64] | None = None
    length_unit: str | None = None
    mass_unit: str | None = None
    header: Header = dataclasses.field(default_factory=dict)
    box_unit: str | None = None
    notes: tuple[str, ...] = ()

    def place(self, halo: int) -> str:
        """Where in the file a halo is, for a message."""
        if self.lines is not None:
            return f"line {int(self.lines[halo])} of {self.path!r}"
        return f"halo {halo} of {self.path!r}"


@dataclasses.dataclass(frozen=True)
class Choice:
    """Columns that were chosen.

    Attributes:
        position: index of x, y and z, or of one column of three numbers.
        mass: index.
        parent: index, or None.
    """

    position: tuple[int, ...]
    mass: int
    parent: int | None

    @property
    def indices(self) -> tuple[int, ...]:
        """All of them: positions, mass, parent."""
        return (*self.position, self.mass, *(() if self.parent is None else (self.parent,)))


def malformed(path: str, expected: str, received: str, line: int | None = None) -> ValueError:
    """The error of a file that is not what it should be."""
    where = f"{path!r}" if line is None else f"line {line} of {path!r}"
    return ValueError(
        f"Invalid value for argument `path`. Expected {expected}. Received: {received} in {where}"
    )


def one_line(error: BaseException) -> str:
    """What an error says, on one line of no great length."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def damaged(path: str, what: str, error: BaseException) -> ValueError:
    """The error of a file of which a library says that it cannot be read."""
    return malformed(path, f"an undamaged {what}", one_line(error))


def shown(names: Sequence[str]) -> str:
    """Names of columns, not too many, on one line."""
    return repr([name[:60] for name in names[:100]]) + (" and more" if len(names) > 100 else "")


def choose(
    names: Sequence[str],
    wanted: Mapping[str, str],
    path: str,
    *,
    text: bool = False,
    mass: str | None = None,
) -> Choice:
    """Find the columns of positions, mass and parent.

    Args:
        names: of all columns, without units.
        wanted: the user's choice: some of `COLUMNS` and their names in the file.
        path: of the file, for messages.
        text: whether columns may also be chosen by number, counted from 1, and hold one number
            each.
        mass: the column that is the mass if the user does not choose.

    Returns:
        Indices into `names`.

    Raises:
        ValueError: if there is none, or more than one.
    """
    plain = [re.sub(r"[^a-z0-9]", "", name.rpartition("/")[2].lower()) for name in names]

    def asked(what: str) -> int | None:
        if what not in wanted:
            return None
        name = wanted[what]
        if name in names:
            return list(names).index(name)
        lower = [other.lower() for other in names]
        if lower.count(name.lower()) == 1:
            return lower.index(name.lower())
        if text and name.isdecimal() and name.isascii():
            if len(name) < 10 and 1 <= int(name) <= len(names):
                return int(name) - 1
            numbers = f", or a number from 1 to {len(names)}"
        else:
            numbers = ", or a number (from 1)" if text else ""
        raise ValueError(
            f"Invalid value for argument `columns`. Expected for {what} one of the columns "
            f"{shown(names)}{numbers} of {path!r}. Received: {what}={name!r}"
        )

    def known(what: str, words: Sequence[str]) -> int | None:
        for word in words:
            found = [index for index, name in enumerate(plain) if name == word]
            if len(found) > 1:
                raise _ambiguous(what, [names[index] for index in found], path)
            if found:
                return found[0]
        return None

    def required(what: str, found: int | None) -> int:
        if found is None:
            raise ValueError(
                f"Invalid value for argument `columns`. Expected a column for {what}: choose it "
                f"with --columns={what}=NAME"
                f"{' or =NUMBER, counted from 1' if text else ''}. Received: {path!r} with "
                f"the columns {shown(names)}"
            )
        return found

    if text and "position" in wanted:
        raise ValueError(
            "Invalid value for argument `columns`. Expected x, y and z for a file of text. "
            f"Received: position={wanted['position']!r}"
        )
    axes = [asked(axis) for axis in "xyz"]
    vector = asked("position")
    if vector is None and all(axis is None for axis in axes):
        axes = [known(axis, [form.format(axis) for form in _AXES]) for axis in "xyz"]
        if not text and any(axis is None for axis in axes):
            vector = known("position", _POSITIONS)
    if vector is not None:
        if any(axis in wanted for axis in "xyz"):
            raise ValueError(
                "Invalid value for argument `columns`. Expected either position or x, y and z. "
                f"Received: {dict(wanted)}"
            )
        position: tuple[int, ...] = (vector,)
    else:
        position = tuple(
            required(axis, found if found is not None else known(axis, [axis]))
            for axis, found in zip("xyz", axes, strict=True)
        )
    chosen = asked("mass")
    if chosen is None and mass is not None:
        chosen = list(names).index(mass)
    if chosen is None:
        chosen = known("mass", _MASSES)
    if chosen is None:
        defined = [i for i, name in enumerate(plain) if _MASS_DEFINITION.fullmatch(name)]
        if len(defined) > 1:
            raise _ambiguous("mass", [names[index] for index in defined], path)
        chosen = defined[0] if defined else None
    parent = asked("parent")
    return Choice(
        position,
        required("mass", chosen),
        known("parent", _PARENTS) if parent is None else parent,
    )


def check_columns(columns: Mapping[str, str]) -> dict[str, str]:
    """Refuse a choice of columns for what no column can be.

    Raises:
        ValueError: if a key is not one of `COLUMNS` or a value is empty.
    """
    for what, name in columns.items():
        if what not in COLUMNS or not str(name):
            raise ValueError(
                f"Invalid value for argument `columns`. Expected names for some of {COLUMNS}. "
                f"Received: {what}={name!r}"
            )
    return {what: str(name) for what, name in columns.items()}


def _ambiguous(what: str, names: Sequence[str], path: str) -> ValueError:
    return ValueError(
        f"Invalid value for argument `columns`. Expected one column for {what}: choose it with "
        f"--columns={what}=NAME. Received: {shown(names)} in {path!r}"
    )
