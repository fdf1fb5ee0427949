"""Units of length and mass as halo catalogues write them.

Internally lengths are comoving Mpc/h and masses Msun/h. Files and people write the same unit in
many ways: ``Mpc/h``, ``Mpc / h (comoving)``, ``h^-1 Mpc``, ``ckpc/h``, ``1e10 Msun/h``, astropy's
``Mpc / littleh`` and ``solMass``.
"""

from __future__ import annotations

import dataclasses
import re

__all__ = ["Unit", "length_unit", "mass_unit"]

_LENGTHS = {"pc": 1e-6, "kpc": 1e-3, "mpc": 1.0, "gpc": 1e3}
_MASSES = ("msun", "m_sun", "msol", "m_sol", "solmass", "solarmass", "solarmasses")

_FACTOR = r"(?P<factor>10\^\d+|\d+(?:\.\d*)?(?:e[+-]?\d+)?)?"
_INVERSE_H = r"h\^?-1"
_PATTERN = (
    rf"{_FACTOR}(?P<before>{_INVERSE_H})?(?P<base>{{}})(?P<after>/h|{_INVERSE_H})?(?:comoving)?"
)
_LENGTH = re.compile(_PATTERN.format(r"c?(?:[kmg]?pc)"))
_MASS = re.compile(_PATTERN.format("|".join(_MASSES)))


@dataclasses.dataclass(frozen=True)
class Unit:
    """A unit of length or mass.

    Attributes:
        name: as it is printed, such as ``"kpc/h"``.
        factor: in Mpc or Msun, with the same power of h.
        per_h: whether the unit is divided by h.
    """

    name: str
    factor: float
    per_h: bool

    def to_internal(self, h: float | None) -> float:
        """Factor that turns numbers in this unit into Mpc/h or Msun/h.

        Args:
            h: Hubble constant in units of 100 km/s/Mpc; not needed for a unit divided by h.

        Raises:
            ValueError: if it is needed and not known.
        """
        if self.per_h:
            return self.factor
        if h is None:
            raise ValueError(
                f"Invalid value for argument `h`. Expected the Hubble constant (--h), to turn "
                f"{self.name} into {self.name}/h. Received: h=None, and the file does not say"
            )
        return self.factor * h


def length_unit(text: str, name: str = "length_unit") -> Unit:
    """Understand a unit of comoving length.

    Args:
        text: such as ``"Mpc/h"``, ``"kpc"``, ``"h^-1 Mpc"``.
        name: of the argument, for the message.

    Raises:
        ValueError: if it is not a length, or a physical rather than a comoving one.
    """
    return _parse(text, name, _LENGTH, "a comoving length such as Mpc/h, Mpc, kpc/h or kpc")


def mass_unit(text: str, name: str = "mass_unit") -> Unit:
    """Understand a unit of mass.

    Args:
        text: such as ``"Msun/h"``, ``"1e10 Msun/h"``, ``"solMass"``.
        name: of the argument, for the message.

    Raises:
        ValueError: if it is not a mass.
    """
    return _parse(text, name, _MASS, "a mass such as Msun/h, Msun or 1e10 Msun/h")


def _parse(text: str, name: str, pattern: re.Pattern[str], expected: str) -> Unit:
    plain = text.lower().replace("littleh", "h").replace("**", "^")
    plain = re.sub(r"[\s*()\[\]]", "", plain)
    match = pattern.fullmatch(plain) if len(plain) < 100 else None
    if match is None or (match["before"] and match["after"]):
        raise ValueError(
            f"Invalid value for argument `{name}`. Expected {expected}. Received: "
            f"{name}={text[:100]!r}"
        )
    written = match["factor"]
    factor = 1.0 if written is None else float(written.replace("10^", "1e"))
    base = match["base"]
    if base in _MASSES:
        printed = "Msun"
    else:
        base = base.removeprefix("c")
        factor *= _LENGTHS[base]
        printed = base if base in ("kpc", "pc") else base.capitalize()
    per_h = bool(match["before"] or match["after"])
    if not 0.0 < factor < float("inf"):
        raise ValueError(
            f"Invalid value for argument `{name}`. Expected {expected}. Received: {name}={text!r}"
        )
    printed = f"{written} {printed}" if written else printed
    return Unit(f"{printed}/h" if per_h else printed, factor, per_h)
