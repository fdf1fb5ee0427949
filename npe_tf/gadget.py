"""Initial conditions for N-body codes, in the HDF5 snapshot format of Gadget-2 and Gadget-4.

One file holds dark matter particles of equal mass (type 1): the group ``Header`` and the datasets
``PartType1/{Coordinates, Velocities, ParticleIDs}``. In the file, lengths are comoving kpc/h or
Mpc/h, masses 1e10 Msun/h, and velocities Gadget's ``u = v / sqrt(a)`` [km/s], with v the peculiar
velocity ``a dx/dt`` (Springel 2005, MNRAS 364, 1105; user guide of Gadget-2, section 6). The code
must be told the same units: its parameter ``UnitLength_in_cm`` is 3.085678e21 for kpc/h and
3.085678e24 for Mpc/h, ``UnitMass_in_g`` 1.989e43, ``UnitVelocity_in_cm_per_s`` 1e5. They stand in
the header too, where Gadget does not look for them.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import ArrayLike, NDArray

from npe_tf.catalogues.hdf5 import read_dataset
from npe_tf.catalogues.heaps import file_has_sound_heaps

__all__ = [
    "CRITICAL_DENSITY",
    "InitialConditions",
    "read_initial_conditions",
    "write_initial_conditions",
]

Array = NDArray[np.float64]
FilePath = str | os.PathLike[str]

# 3 H0^2 / (8 pi G) with G = 6.6743e-11 m^3/kg/s^2 (CODATA 2018) and the IAU's GM of the Sun.
CRITICAL_DENSITY = 2.77536627e11
"""Critical density today [Msun/h / (Mpc/h)^3]."""

_MASS_UNIT = 1e10  # Msun/h
_LENGTH_UNITS = {"kpc/h": 1e-3, "Mpc/h": 1.0}  # in Mpc/h
_CENTIMETRES = {"kpc/h": 3.085678e21, "Mpc/h": 3.085678e24}
_GRAMS = 1.989e43
_NUM_TYPES = 6
_DARK_MATTER = 1
# what HDF5 says of damage comes as any of these, as do entries that are no numbers
_DAMAGE = (
    OSError, KeyError, RuntimeError, TypeError, IndexError, AttributeError, ValueError,
    OverflowError, MemoryError,
)  # fmt: skip
_FLAGS = (
    "Flag_Sfr",
    "Flag_Cooling",
    "Flag_StellarAge",
    "Flag_Metals",
    "Flag_Feedback",
    "Flag_Entropy_ICs",
)


@dataclasses.dataclass(frozen=True, eq=False)
class InitialConditions:
    """Particles of equal mass and the cosmology that they start in.

    Attributes:
        positions: comoving, `[P, 3]` in [0, box_size) [Mpc/h].
        velocities: peculiar, `[P, 3]` [km/s].
        ids: `[P]`.
        mass: of one particle [Msun/h].
        box_size: comoving side of the cube [Mpc/h].
        redshift: of the particles.
        Omega_m: matter density today in units of the critical density.
        Omega_lambda: density of the cosmological constant likewise.
        h: Hubble constant in units of 100 km/s/Mpc.
    """

    positions: Array
    velocities: Array
    ids: NDArray[np.unsignedinteger[Any]]
    mass: float
    box_size: float
    redshift: float
    Omega_m: float
    Omega_lambda: float
    h: float


def _number(name: str, value: Any, what: str, *, zero: bool = False) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = float("nan")
    if not (np.isfinite(number) and (number > 0 or (zero and number == 0))):
        raise ValueError(
            f"Invalid value for argument `{name}`. Expected {what}. Received: {name}={value!r}"
        )
    return number


def _vectors(name: str, value: ArrayLike, count: int | None = None) -> Array:
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"Invalid value for argument `{name}`. Expected real numbers of shape (P, 3). "
            f"Received: {error}"
        ) from error
    if array.ndim != 2 or array.shape[1] != 3 or not len(array):
        raise ValueError(
            f"Invalid value for argument `{name}`. Expected shape (P, 3) with P > 0. Received: "
            f"shape {array.shape}"
        )
    if count is not None and len(array) != count:
        raise ValueError(
            f"Invalid value for argument `{name}`. Expected {count} vectors, one for each of the "
            f"`positions`. Received: shape {array.shape}"
        )
    wrong = ~np.isfinite(array).all(axis=1)
    if wrong.any():
        first = int(np.argmax(wrong))
        raise ValueError(
            f"Invalid value for argument `{name}`. Expected finite numbers. Received: NaN or "
            f"infinity in {int(wrong.sum())} of {len(array)} rows, first {name}[{first}]="
            f"{array[first].tolist()}"
        )
    return array


def _identifiers(ids: ArrayLike | None, count: int) -> NDArray[np.unsignedinteger[Any]]:
    if ids is None:
        kind = np.uint32 if count < 2**32 else np.uint64
        return np.arange(1, count + 1, dtype=kind)
    given = np.asarray(ids)
    if given.dtype.kind not in "iu" or given.shape != (count,) or given.min() < 0:
        raise ValueError(
            f"Invalid value for argument `ids`. Expected {count} integers that are not negative. "
            f"Received: dtype {given.dtype}, shape {given.shape}"
        )
    if np.unique(given).size != count:
        raise ValueError(
            "Invalid value for argument `ids`. Expected a different number for every particle. "
            f"Received: {np.unique(given).size} numbers for {count} particles"
        )
    return given.astype(np.uint32 if given.max() < 2**32 else np.uint64)


def _omegas(cosmology: Any) -> tuple[float, float, float]:
    """Matter, cosmological constant, and the Hubble constant h."""
    missing = [name for name in ("Omega_m", "h") if not hasattr(cosmology, name)]
    if missing:
        raise ValueError(
            "Invalid value for argument `cosmology`. Expected the attributes Omega_m and h. "
            f"Received: {type(cosmology).__name__} without {missing}"
        )
    omega_m = _number("cosmology.Omega_m", cosmology.Omega_m, "a positive density")
    h = _number("cosmology.h", cosmology.h, "a positive Hubble constant over 100 km/s/Mpc")
    return omega_m, 1.0 - omega_m - float(getattr(cosmology, "Omega_k", 0.0)), h


def _length_unit(length_unit: str) -> float:
    if length_unit not in _LENGTH_UNITS:
        raise ValueError(
            f"Invalid value for argument `length_unit`. Expected one of {tuple(_LENGTH_UNITS)}. "
            f"Received: length_unit={length_unit!r}"
        )
    return _LENGTH_UNITS[length_unit]


def write_initial_conditions(
    path: FilePath,
    positions: ArrayLike,
    velocities: ArrayLike,
    *,
    box_size: float,
    redshift: float,
    cosmology: Any,
    mass: float | None = None,
    ids: ArrayLike | None = None,
    length_unit: str = "kpc/h",
    dtype: str = "float64",
) -> None:
    """Write dark matter particles for Gadget to start from.

    Everything is checked before the file is touched. It is then written under a temporary name in
    the same folder, synchronised to the disk and renamed, so that `path` is at every instant the
    old file or the new one.

    Args:
        path: the file, by Gadget's custom ending in ``.hdf5``; replaced if it exists.
        positions: comoving, `[P, 3]` [Mpc/h]; wrapped into [0, box_size).
        velocities: peculiar, `[P, 3]` [km/s].
        box_size: comoving side of the cube [Mpc/h].
        redshift: of positions and velocities.
        cosmology: has the attributes `Omega_m` and `h`, and `Omega_k` if space is curved.
        mass: of one particle [Msun/h]; by default all the matter of the box, shared equally.
        ids: a different number for every particle, `[P]`; 1 to P by default. Stored in 32 bits
            if they fit, else in 64 bits, for which Gadget-2 must be compiled with LONGIDS.
        length_unit: of the file, ``"kpc/h"`` or ``"Mpc/h"``.
        dtype: precision of positions and velocities in the file, ``"float64"`` or ``"float32"``.

    Raises:
        FileNotFoundError: if the folder does not exist.
        ValueError: if an argument is not as above or not finite.
    """
    unit = _length_unit(length_unit)
    if dtype not in ("float32", "float64"):
        raise ValueError(
            "Invalid value for argument `dtype`. Expected 'float64' or 'float32'. Received: "
            f"dtype={dtype!r}"
        )
    side = _number("box_size", box_size, "a positive finite length in Mpc/h")
    z = _number("redshift", redshift, "a finite redshift of zero or more", zero=True)
    omega_m, omega_lambda, h = _omegas(cosmology)
    x = _vectors("positions", positions)
    v = _vectors("velocities", velocities, len(x))
    names = _identifiers(ids, len(x))
    if mass is None:
        mass = omega_m * CRITICAL_DENSITY * side**3 / len(x)
    particle_mass = _number("mass", mass, "a positive finite mass in Msun/h")
    target = Path(path)
    if not target.parent.is_dir():
        raise FileNotFoundError(
            "Invalid value for argument `path`. Expected a file in an existing folder. Received: "
            f"path={os.fspath(path)!r}"
        )

    scale_factor = 1.0 / (1.0 + z)
    stored_side = side / unit
    coordinates = (np.mod(x, side) / unit).astype(dtype)
    # rounding takes what is just below the far face to the face
    coordinates[coordinates >= stored_side] = 0.0
    header = _header(len(x), particle_mass / _MASS_UNIT, dtype) | {
        "Time": scale_factor,
        "Redshift": z,
        "BoxSize": stored_side,
        "Omega0": omega_m,
        "OmegaLambda": omega_lambda,
        "HubbleParam": h,
        "UnitLength_in_cm": _CENTIMETRES[length_unit],
        "UnitMass_in_g": _GRAMS,
        "UnitVelocity_in_cm_per_s": 1e5,
    }
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with h5py.File(temporary, "w") as file:
            file.create_group("Header").attrs.update(header)
            group = file.create_group(f"PartType{_DARK_MATTER}")
            group["Coordinates"] = coordinates
            group["Velocities"] = (v / np.sqrt(scale_factor)).astype(dtype)
            group["ParticleIDs"] = names
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _header(count: int, mass: float, dtype: str) -> dict[str, Any]:
    """Attributes that speak of the particles, in the types of Gadget's header."""

    def per_type(value: float, kind: Any) -> NDArray[Any]:
        values = np.zeros(_NUM_TYPES, kind)
        values[_DARK_MATTER] = value
        return values

    return {
        # signed in Gadget-2; 2^31 particles or more in one file need Gadget-4
        "NumPart_ThisFile": per_type(count, np.int32 if count < 2**31 else np.int64),
        "NumPart_Total": per_type(count % 2**32, np.uint32),
        "NumPart_Total_HighWord": per_type(count >> 32, np.uint32),
        "MassTable": per_type(mass, np.float64),
        "NumFilesPerSnapshot": np.int32(1),
        "Flag_DoublePrecision": np.int32(dtype == "float64"),
        **{flag: np.int32(0) for flag in _FLAGS},
    }


def read_initial_conditions(path: FilePath, *, length_unit: str | None = None) -> InitialConditions:
    """Read one file of dark matter particles of equal mass, as `write_initial_conditions` does.

    Args:
        path: the file.
        length_unit: of the file, ``"kpc/h"`` or ``"Mpc/h"``; by default what its header says in
            ``UnitLength_in_cm``.

    Returns:
        The particles in Mpc/h, km/s and Msun/h.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not HDF5, lacks a part, says nothing of its unit of length, is one
            file of several, or has particles of other types or of unequal masses.
    """
    name = os.fspath(path)
    if not Path(name).is_file():
        raise FileNotFoundError(
            f"Invalid value for argument `path`. Expected a file. Received: path={name!r}, which "
            "does not exist"
        )
    if length_unit is not None:
        _length_unit(length_unit)

    def refuse(expected: str, received: Any) -> ValueError:
        return ValueError(
            f"Invalid value for argument `path`. Expected {expected}. Received: {name!r} with "
            f"{received}"
        )

    try:
        if not file_has_sound_heaps(name):
            raise OSError("a damaged heap of strings")
        with h5py.File(name, "r") as file:
            header = dict(file["Header"].attrs)
            group = file[f"PartType{_DARK_MATTER}"]
            coordinates, velocities, ids = (
                read_dataset(group, part, name)
                for part in ("Coordinates", "Velocities", "ParticleIDs")
            )
            count = np.asarray(header["NumPart_ThisFile"])
            total = np.asarray(header["NumPart_Total"])
            mass = float(header["MassTable"][_DARK_MATTER])
            scale_factor, redshift, side, omega_m, omega_lambda, h = (
                float(header[key])
                for key in ("Time", "Redshift", "BoxSize", "Omega0", "OmegaLambda", "HubbleParam")
            )
    except _DAMAGE as error:
        if isinstance(error, ValueError) and str(error).startswith("Invalid value"):
            raise
        raise refuse("an HDF5 file of Gadget's dark matter particles", f"error {error}") from error
    if coordinates.ndim != 2 or coordinates.shape[1] != 3 or velocities.shape != coordinates.shape:
        raise refuse("vectors of three numbers", f"shapes {coordinates.shape}, {velocities.shape}")
    if ids.shape != coordinates.shape[:1] or count.shape != (_NUM_TYPES,):
        raise refuse("an id for every particle", f"shapes {ids.shape} and {count.shape}")
    if total.shape != (_NUM_TYPES,):
        raise refuse(f"numbers of {_NUM_TYPES} types", f"shape {total.shape}")
    if count.sum() != len(coordinates) or count[_DARK_MATTER] != len(coordinates):
        raise refuse(f"only dark matter, {len(coordinates)} particles", f"{count.tolist()}")
    if total[_DARK_MATTER] != len(coordinates) % 2**32:
        raise refuse("all particles in one file", f"{len(coordinates)} of {total[_DARK_MATTER]}")
    if not mass > 0:
        raise refuse("particles of equal mass, in MassTable", f"MassTable of {mass:g}")
    if length_unit is None:
        stated = float(header.get("UnitLength_in_cm", 0.0))
        known = [u for u, cm in _CENTIMETRES.items() if np.isclose(stated, cm, rtol=1e-3)]
        if not known:
            raise ValueError(
                "Invalid value for argument `length_unit`. Expected the unit of length, which the "
                f"header of {name!r} does not give. Received: length_unit=None"
            )
        length_unit = known[0]
    unit = _LENGTH_UNITS[length_unit]
    return InitialConditions(
        positions=coordinates.astype(np.float64) * unit,
        velocities=velocities.astype(np.float64) * np.sqrt(scale_factor),
        ids=ids,
        mass=mass * _MASS_UNIT,
        box_size=side * unit,
        redshift=redshift,
        Omega_m=omega_m,
        Omega_lambda=omega_lambda,
        h=h,
    )
