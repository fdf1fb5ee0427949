"""What the header of a catalogue says of box, epoch and cosmology, in whatever words.

Simulations and halo finders name the same number differently: ``Om``, ``Omega_M``, ``OmegaMatter``,
``Omega0``. The names here are those of `npe_tf.cosmology.Cosmology`, and ``scale_factor`` and
``box_size``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["COSMOLOGY", "Header", "conflict", "header_of"]

COSMOLOGY = ("Omega_m", "Omega_b", "h", "sigma8", "n_s", "w0", "wa", "Omega_k")
"""Parameters that a header may state."""

Header = dict[str, float]
"""Numbers by name: of `COSMOLOGY`, ``"scale_factor"``, and ``"box_size"`` in the file's unit."""

_NAMES = {
    "box_size": ("boxsize", "lbox", "boxlength", "boxlen", "fullboxsize"),
    "scale_factor": ("scalefactor", "a", "aexp", "expansionfactor", "scale"),
    "redshift": ("redshift", "zsnap", "zred"),
    "Omega_m": ("omegam", "om", "om0", "omega0", "omegamatter", "omegam0"),
    "Omega_L": ("omegalambda", "ol", "omegal", "omegade", "omegalambda0", "ode0"),
    "Omega_b": ("omegab", "ob", "ob0", "omegabaryon"),
    "h": ("h", "h0", "hubbleparam", "hubble", "littleh", "hubble0"),
    "sigma8": ("sigma8",),
    "n_s": ("ns", "nspec", "primordialindex", "spectralindex"),
    "w0": ("w0",),
    "wa": ("wa",),
    "Omega_k": ("omegak", "ok0"),
}
_BY_WORD = {word: name for name, words in _NAMES.items() for word in words}


def header_of(items: Iterable[tuple[str, Any]]) -> Header:
    """Pick out of names and values what is known here.

    Args:
        items: names as they stand in the file, and values; what is not a number is left alone.

    Returns:
        Numbers by name. A redshift becomes a scale factor; a Hubble constant in km/s/Mpc is
        divided by 100; the density of dark energy becomes a curvature.

    Raises:
        ValueError: if two entries contradict each other or a number is out of range.
    """
    found: Header = {}
    for word, value in items:
        name = _BY_WORD.get(re.sub(r"[^a-z0-9]", "", str(word).lower()))
        number = _number(value)
        if name is None or number is None:
            continue
        if name == "redshift":
            name, number = "scale_factor", 1.0 / (1.0 + number) if number > -1.0 else math.nan
        elif name == "h" and number > 10.0:
            number /= 100.0
        if name not in ("box_size", "w0", "wa", "Omega_k", "Omega_L", "n_s") and not number > 0.0:
            raise ValueError(f"Expected a positive number. Received: {word}={value!r}")
        if name in found and not _agree(found[name], number, 1e-4):
            raise ValueError(
                f"Expected one value of {name}. Received: {found[name]:g} and {number:g}"
            )
        found.setdefault(name, number)
    if "Omega_L" in found:
        dark = found.pop("Omega_L")
        if "Omega_m" in found:
            curvature = 1.0 - found["Omega_m"] - dark
            # a few digits of each are printed
            found.setdefault("Omega_k", curvature if abs(curvature) > 2e-3 else 0.0)
    return found


def conflict(header: Mapping[str, float], name: str, value: float) -> bool:
    """Whether a header states another value of a number, beyond the digits it prints."""
    return name in header and not _agree(header[name], value, 1e-3)


def _agree(one: float, other: float, tolerance: float) -> bool:
    return math.isclose(one, other, rel_tol=tolerance, abs_tol=tolerance * 1e-2)


def _number(value: Any) -> float | None:
    size = getattr(value, "size", 1)
    if isinstance(value, (str, bytes, bool)) or size != 1:
        return None
    try:
        number = float(value.item() if hasattr(value, "item") else value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
