"""From a table in the units of its file to haloes in a box: units, subhaloes, edges."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npe_tf.catalogues.header import conflict
from npe_tf.catalogues.table import HaloTable
from npe_tf.catalogues.units import Unit, length_unit, mass_unit

__all__ = ["Selection", "select"]

_ROUNDING = 1e-6
_EXAMPLES = {
    "length_unit": ("positions", "Mpc/h, Mpc, kpc/h or kpc"),
    "mass_unit": ("masses", "Msun/h, Msun or 1e10 Msun/h"),
}


@dataclasses.dataclass(frozen=True, eq=False)
class Selection:
    """Haloes in a box.

    Attributes:
        positions: `[H, 3]` in [0, box_size] [Mpc/h].
        mass: `[H]` [Msun/h].
        box_size: side of the box [Mpc/h].
        periodic: whether its opposite faces touch.
        notes: lines on what was read, assumed and left out, for people.
    """

    positions: NDArray[Any]
    mass: NDArray[Any]
    box_size: float
    periodic: bool
    notes: tuple[str, ...]


def select(
    table: HaloTable,
    *,
    box_size: float | None = None,
    origin: Sequence[float] | None = None,
    length: str | None = None,
    mass: str | None = None,
    h: float | None = None,
    keep_subhaloes: bool = False,
) -> Selection:
    """Haloes of a table in Mpc/h and Msun/h, without subhaloes, in a box.

    Args:
        table: the haloes.
        box_size: side of the box [Mpc/h]; by default the header's. With `origin`, that of the
            sub-box.
        origin: lowest corner of a sub-box to cut out [Mpc/h]; its faces are no longer periodic.
        length: unit of the positions, needed if the file does not state it.
        mass: unit of the masses, needed if the file does not state it.
        h: Hubble constant in units of 100 km/s/Mpc, for units without h; by default the header's.
        keep_subhaloes: whether to keep haloes that have a parent.

    Returns:
        The haloes.

    Raises:
        ValueError: if a unit or the box size is not known or contradicts the file, a halo is
            outside of the box, or none is left.
    """
    where = f"the file {table.path!r}"
    header = table.header
    h = header.get("h") if h is None else h
    lengths = _unit(length, table.length_unit, "length_unit", where)
    masses = _unit(mass, table.mass_unit, "mass_unit", where)
    notes = [f"{table.path}: {table.format}, {len(table.mass)} haloes", *table.notes]
    notes.append(
        f"lengths in {lengths.name} ({_source(length, table.length_unit)}), masses in "
        f"{masses.name} ({_source(mass, table.mass_unit)})"
        + (f", h={h:g}" if h is not None and not (lengths.per_h and masses.per_h) else "")
    )
    stated = None
    if header.get("box_size", 0.0) > 0.0:
        box_lengths = length_unit(table.box_unit) if table.box_unit else lengths
        stated = header["box_size"] * box_lengths.to_internal(h)
    full = box_size if box_size is not None and origin is None else stated
    if full is None and (origin is None or box_size is None):
        raise ValueError(
            "Invalid value for argument `box_size`. Expected the side of the box in Mpc/h "
            f"(--box_size), which {where} does not state. Received: box_size=None"
        )
    known = {} if stated is None or origin is not None else {"box_size": stated}
    if box_size is not None and conflict(known, "box_size", box_size):
        raise ValueError(
            f"Invalid value for argument `box_size`. Expected the {stated:g} Mpc/h of the header "
            f"of {where}, or --origin=x,y,z with it to cut out a smaller box. Received: "
            f"box_size={box_size:g}"
        )
    if table.positions.ndim != 2 or table.positions.shape[1:] != (3,):
        raise ValueError(
            f"Invalid value for argument `columns`. Expected positions of shape (H, 3) in {where}. "
            f"Received: shape {table.positions.shape}"
        )
    if table.mass.shape != table.positions.shape[:1]:
        raise ValueError(
            f"Invalid value for argument `columns`. Expected {len(table.positions)} masses in "
            f"{where}, one for each position. Received: shape {table.mass.shape}"
        )
    kept = np.ones(len(table.mass), dtype=bool)
    if table.parent is None:
        notes.append("no parent ids: subhaloes, if there are any, are in")
    elif keep_subhaloes:
        notes.append(f"{int((table.parent >= 0).sum())} of them subhaloes, kept")
    else:
        kept = table.parent < 0
        notes.append(f"{int((~kept).sum())} of them subhaloes (with a parent id), left out")
        if not kept.any():
            raise ValueError(
                "Invalid value for argument `keep_subhaloes`. Expected at least one halo with a "
                f"negative parent id in {where}; --keep_subhaloes takes all. Received: "
                f"{len(kept)} haloes with a parent"
            )
    numbers = np.flatnonzero(kept)
    scale = lengths.to_internal(h)
    # left as they are, float32 coordinates at the far face are recognised as such
    positions = table.positions[kept]
    if scale != 1.0:
        positions = positions.astype(np.float64) * scale
    halo_mass = table.mass[kept].astype(np.float64) * masses.to_internal(h)
    wrong = ~(np.isfinite(halo_mass) & (halo_mass > 0.0))
    if wrong.any():
        first = int(np.argmax(wrong))
        raise ValueError(
            "Invalid value for argument `mass`. Expected finite and positive masses. Received: "
            f"{halo_mass[first]:g} Msun/h in {table.place(int(numbers[first]))}, and "
            f"{int(wrong.sum()) - 1} more"
        )
    if full is not None:
        positions, wrapped = _in_box(table, positions, numbers, full)
        if wrapped:
            notes.append(f"coordinates at the far faces of the box, wrapped to 0: {wrapped}")
    if origin is None:
        size, periodic = float(full if full is not None else math.nan), True
    else:
        positions, halo_mass, size = _cut(table, positions, halo_mass, origin, box_size, full)
        periodic = False
        corner = ", ".join(f"{x:g}" for x in origin)
        notes.append(
            f"sub-box of {size:g} Mpc/h from ({corner}): {len(halo_mass)} haloes in it; its faces "
            "are not periodic"
        )
    source = "the header" if stated is not None and origin is None else "--box_size"
    notes.append(
        f"box of {size:g} Mpc/h ({source}): {len(halo_mass)} haloes, "
        f"{len(halo_mass) / size**3:.3g} per (Mpc/h)^3, of {halo_mass.min():.3g} to "
        f"{halo_mass.max():.3g} Msun/h"
    )
    return Selection(positions, halo_mass, size, periodic, tuple(notes))


def _unit(given: str | None, stated: str | None, name: str, where: str) -> Unit:
    """The unit of the user and of the file, which must be the same."""
    parse = length_unit if name == "length_unit" else mass_unit
    if given is None and stated is None:
        examples = (
            "Mpc/h, Mpc, kpc/h, kpc" if name == "length_unit" else "Msun/h, Msun, 1e10 Msun/h"
        )
        raise ValueError(
            f"Invalid value for argument `{name}`. Expected the unit of the "
            f"{'positions' if name == 'length_unit' else 'masses'} (--{name}, one of {examples}), "
            f"which {where} does not state. Received: {name}=None"
        )
    if given is None:
        try:
            return parse(stated or "")
        except ValueError as error:
            raise ValueError(f"{error} (in {where}; --{name} says it instead)") from error
    unit = parse(given)
    if stated is not None:
        try:
            of_file = parse(stated)
        except ValueError:  # the file's own words are not understood, the user's are
            return unit
        if (of_file.factor, of_file.per_h) != (unit.factor, unit.per_h):
            raise ValueError(
                f"Invalid value for argument `{name}`. Expected the {of_file.name} that {where} "
                f"states. Received: {name}={given!r}"
            )
    return unit


def _source(given: str | None, stated: str | None) -> str:
    return "as the file says" if stated is not None and given is None else "as given"


def _in_box(
    table: HaloTable, positions: NDArray[Any], numbers: NDArray[np.int64], size: float
) -> tuple[NDArray[Any], int]:
    """Positions in [0, size], and how many coordinates were at or behind the far faces."""
    margin = size * _ROUNDING
    wrong = ~((positions >= -margin) & (positions <= size + margin)).all(axis=1)
    if wrong.any():
        first = int(np.argmax(wrong))
        raise ValueError(
            f"Invalid value for argument `positions`. Expected coordinates in [0, {size:g}] Mpc/h. "
            f"Received: {positions[first].tolist()} in {table.place(int(numbers[first]))}, and "
            f"{int(wrong.sum()) - 1} more outside; --length_unit, --box_size and --origin say "
            "what the box is"
        )
    beyond = positions >= size
    below = positions < 0
    if not (beyond | below).any():
        return positions, 0
    positions = positions.astype(np.float64)
    positions[beyond | below] = 0.0
    return positions, int(beyond.sum())


def _cut(
    table: HaloTable,
    positions: NDArray[Any],
    mass: NDArray[np.float64],
    origin: Sequence[float],
    box_size: float | None,
    full: float | None,
) -> tuple[NDArray[Any], NDArray[np.float64], float]:
    """The haloes of a sub-box, with positions from its corner."""
    corner = np.asarray(origin, dtype=np.float64)
    if corner.shape != (3,) or not np.isfinite(corner).all():
        raise ValueError(
            "Invalid value for argument `origin`. Expected three finite numbers x,y,z in Mpc/h. "
            f"Received: origin={list(origin)!r}"
        )
    if box_size is None:
        raise ValueError(
            "Invalid value for argument `box_size`. Expected the side of the sub-box in Mpc/h "
            f"(--box_size) with origin={corner.tolist()}. Received: box_size=None"
        )
    if full is not None and ((corner < 0.0) | (corner + box_size > full * (1 + _ROUNDING))).any():
        raise ValueError(
            f"Invalid value for argument `origin`. Expected a sub-box inside the {full:g} Mpc/h of "
            f"{table.path!r}. Received: origin={corner.tolist()} with box_size={box_size:g}"
        )
    shifted = positions.astype(np.float64) - corner
    inside = ((shifted >= 0.0) & (shifted < box_size)).all(axis=1)
    if not inside.any():
        low, high = positions.min(axis=0), positions.max(axis=0)
        raise ValueError(
            "Invalid value for argument `origin`. Expected a sub-box with a halo in it; those of "
            f"{table.path!r} lie from {low.tolist()} to {high.tolist()} Mpc/h. Received: "
            f"origin={corner.tolist()} with box_size={box_size:g}"
        )
    return shifted[inside], mass[inside], box_size
