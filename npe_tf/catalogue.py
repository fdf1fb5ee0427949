"""Halo catalogues: what is in one, how it is checked, and the HDF5 layout it is read from.

Positions are comoving in Mpc/h inside a periodic cube, masses in Msun/h, logarithms natural. A
mesh of `N`^3 cells has its value ``[i, j, k]`` at the vertex ``(i, j, k) * box_size / N``, and a
halo belongs to the vertex nearest to it, because that is where cloud-in-cell centres its cloud.

The layout of a file, in which everything but the fields is needed:

* ``halos/position`` `[H, 3]` [Mpc/h] and ``halos/mass`` `[H]` [Msun/h];
* the attribute ``box_size`` [Mpc/h] of the root group;
* ``fields/delta_linear`` and ``fields/delta_final`` `[N, N, N]`, the linear overdensity at a = 1
  and the evolved one, if the truth is known.

The attributes of the root group may state ``scale_factor`` and parameters of the cosmology by the
names of `npe_tf.cosmology.Cosmology`, and ``periodic`` if opposite faces do not touch. Other
datasets and attributes are left alone. `Catalogue.read` takes the files of other codes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import ArrayLike, NDArray

from npe_tf.catalogues.formats import read_table
from npe_tf.catalogues.header import header_of
from npe_tf.catalogues.heaps import file_has_sound_heaps
from npe_tf.catalogues.selection import select
from npe_tf.catalogues.table import MOST_COMPRESSION

__all__ = ["FIELDS", "Catalogue", "read_fields"]

FIELDS = ("delta_linear", "delta_final")

_POSITION = "halos/position"
_MASS = "halos/mass"
_BOX_SIZE = "box_size"
_PERIODIC = "periodic"

# Bounds of what is usual. The comoving diameter of the observable universe is about this:
_LARGEST_BOX = 2e4
# fewer haloes than this may by chance leave a face of the box empty
_ENOUGH = 100
_LEAST_EXTENT = 0.8
# the most massive halo of a catalogue; clusters end near 3e15 Msun/h
_LIGHTEST, _HEAVIEST = 1e8, 1e17

_DAMAGE = (OSError, RuntimeError, KeyError, ValueError, TypeError, OverflowError, MemoryError)

FilePath = str | os.PathLike[str]
Field = NDArray[np.floating[Any]]


@dataclasses.dataclass(frozen=True, eq=False)
class Catalogue:
    """Haloes in a periodic cube.

    The arrays are copied and made read-only, so a catalogue that was valid once stays valid. Two
    catalogues compare by identity.

    Attributes:
        positions: comoving positions `[H, 3]` in [0, box_size), float64 [Mpc/h]. A coordinate
            equal to `box_size` is wrapped to 0: writers of float32 round the last few
            coordinates below the box size up to it. For the same reason a float32 coordinate
            equal to the float32 nearest to `box_size` is wrapped, even where that is the larger.
        mass: halo masses `[H]`, float64 [Msun/h].
        box_size: comoving side of the cube [Mpc/h].
        periodic: whether opposite faces of the cube touch; false for one cut out of a larger box.
        header: what its file says of epoch and cosmology: ``"scale_factor"`` and names of
            `npe_tf.cosmology.Cosmology`.
        notes: lines on how it was read: columns, units, what was assumed and what left out.

    Raises:
        ValueError: if there is no halo, the shapes do not match, a position is not finite or not
            in the box, a mass is not finite and positive, or `box_size` is not a positive finite
            number.
    """

    positions: NDArray[np.float64]
    mass: NDArray[np.float64]
    box_size: float
    periodic: bool = True
    header: Mapping[str, float] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check every halo, and wrap positions at the far faces of the box."""
        box_size = _positive_number("box_size", self.box_size, "length in Mpc/h")
        received = _numbers("positions", self.positions)
        mass = _numbers("mass", self.mass).astype(np.float64)
        if received.ndim != 2 or received.shape[1] != 3:
            raise ValueError(
                "Invalid value for argument `positions`. Expected shape (num_haloes, 3). "
                f"Received: shape {received.shape}"
            )
        if mass.ndim != 1:
            raise ValueError(
                "Invalid value for argument `mass`. Expected shape (num_haloes,). "
                f"Received: shape {mass.shape}"
            )
        if len(received) != len(mass):
            raise ValueError(
                f"Invalid value for argument `mass`. Expected {len(received)} masses, one for each "
                f"of the `positions`. Received: {len(mass)} masses"
            )
        if not len(received):
            raise ValueError(
                "Invalid value for argument `positions`. Expected at least one halo. "
                "Received: an empty catalogue"
            )

        positions = received.astype(np.float64)
        positions[_at_far_face(received, box_size)] = 0.0
        _refuse(
            "positions",
            ~np.isfinite(positions).all(axis=1),
            positions,
            "finite coordinates in Mpc/h",
            "NaN or infinite coordinates",
        )
        _refuse(
            "positions",
            ((positions < 0.0) | (positions >= box_size)).any(axis=1),
            positions,
            f"coordinates in [0, box_size={box_size:g}) Mpc/h",
            "coordinates outside the box",
        )
        _refuse(
            "mass",
            ~(np.isfinite(mass) & (mass > 0.0)),
            mass,
            "finite and positive masses in Msun/h",
            "masses that are NaN, infinite, zero or negative",
        )

        positions.flags.writeable = False
        mass.flags.writeable = False
        object.__setattr__(self, "positions", positions)
        object.__setattr__(self, "mass", mass)
        object.__setattr__(self, "box_size", box_size)

    def __len__(self) -> int:
        """Number of haloes."""
        return len(self.mass)

    def __repr__(self) -> str:
        """Say how many haloes of which masses, rather than print the arrays."""
        return (
            f"Catalogue({len(self)} haloes of {self.mass.min():.3g} to {self.mass.max():.3g} "
            f"Msun/h, box_size={self.box_size:g} Mpc/h)"
        )

    @property
    def log_mass(self) -> NDArray[np.float64]:
        """Natural logarithm of the masses in Msun/h, `[H]`."""
        return np.log(self.mass)

    def above(self, mass_threshold: float) -> Catalogue:
        """The haloes of at least `mass_threshold`, in their old order.

        Args:
            mass_threshold: smallest mass that is kept [Msun/h].

        Returns:
            A catalogue of the same box.

        Raises:
            ValueError: if the threshold is not a positive finite number or no halo reaches it.
        """
        threshold = _positive_number("mass_threshold", mass_threshold, "mass in Msun/h")
        kept = self.mass >= threshold
        if not kept.any():
            largest = float(self.mass.max())
            unit = "" if largest > _LIGHTEST else " (no halo is so light: what is --mass_unit?)"
            raise ValueError(
                "Invalid value for argument `mass_threshold`. Expected at least one halo of that "
                f"mass; the largest of the {len(self)} has {largest:g} Msun/h{unit}. Received: "
                f"mass_threshold={threshold:g}"
            )
        return dataclasses.replace(self, positions=self.positions[kept], mass=self.mass[kept])

    def require_padding(self, padding: str) -> None:
        """Refuse periodic edges for a cube that has none.

        Args:
            padding: ``"periodic"`` or ``"valid"``.

        Raises:
            ValueError: if it is ``"periodic"`` and the cube is not.
        """
        if padding == "periodic" and not self.periodic:
            raise ValueError(
                "Invalid value for argument `padding`. Expected padding='valid' (--padding=valid) "
                "for a sub-box of a larger simulation, whose faces are not periodic. Received: "
                f"padding={padding!r}"
            )

    def doubts(self, mass_threshold: float | None = None) -> tuple[str, ...]:
        """What can be true but rarely is: most often a unit or the box is wrong.

        Args:
            mass_threshold: above which the catalogue is taken to be complete [Msun/h].

        Returns:
            Lines for people; none for most catalogues.
        """
        lines = []
        if self.box_size > _LARGEST_BOX:
            lines.append(
                f"a box of {self.box_size:g} Mpc/h is larger than the observable universe: are "
                "lengths in kpc/h (--length_unit)?"
            )
        low, high = self.positions.min(axis=0), self.positions.max(axis=0)
        axis = int(np.argmin(high - low))
        if len(self) >= _ENOUGH and high[axis] - low[axis] < _LEAST_EXTENT * self.box_size:
            lines.append(
                f"all haloes lie from {low[axis]:.3g} to {high[axis]:.3g} Mpc/h along "
                f"{'xyz'[axis]}, in a box of {self.box_size:g} Mpc/h: are their unit "
                "(--length_unit) and the box (--box_size) right? A survey that sees a part of its "
                "box needs --completeness"
            )
        smallest, largest = float(self.mass.min()), float(self.mass.max())
        if not _LIGHTEST < largest < _HEAVIEST:
            lines.append(
                f"the largest halo has {largest:.3g} Msun/h: is the unit of the masses right "
                "(--mass_unit)?"
            )
        if mass_threshold is not None and smallest > 1.5 * mass_threshold:
            lines.append(
                f"the smallest halo has {smallest:.3g} Msun/h, the mass_threshold is "
                f"{mass_threshold:.3g}: the model will take the range between for empty. Set "
                "--mass_threshold to the mass above which the catalogue is complete"
            )
        return tuple(lines)

    def voxel_index(self, num_cells: int) -> NDArray[np.int64]:
        """Flat index of the vertex nearest to every halo.

        A coordinate halfway between two vertices goes to the even one (the rounding of IEEE 754);
        beyond the last vertex follows the first.

        Args:
            num_cells: number of cells along each side of the mesh, N.

        Returns:
            Indices into the mesh in C order, `[H]`.

        Raises:
            ValueError: if `num_cells` is not a positive integer.
        """
        n = _num_cells(num_cells)
        vertex = np.rint(self.positions / (self.box_size / n)).astype(np.int64) % n
        return (vertex[:, 0] * n + vertex[:, 1]) * n + vertex[:, 2]

    def counts(self, num_cells: int) -> NDArray[np.int64]:
        """Number of haloes at every vertex of a mesh, `[N, N, N]`.

        Args:
            num_cells: number of cells along each side of the mesh, N.

        Returns:
            Counts whose sum is the number of haloes.

        Raises:
            ValueError: if `num_cells` is not a positive integer.
        """
        n = _num_cells(num_cells)
        counts = np.bincount(self.voxel_index(n), minlength=n**3).astype(np.int64)
        return counts.reshape(n, n, n)

    @classmethod
    def read(
        cls,
        path: FilePath,
        format: str = "auto",
        *,
        columns: Mapping[str, str] | None = None,
        box_size: float | None = None,
        origin: Sequence[float] | None = None,
        length_unit: str | None = None,
        mass_unit: str | None = None,
        h: float | None = None,
        keep_subhaloes: bool = False,
    ) -> Catalogue:
        """Read a catalogue of another code, or one of our own, whatever its format.

        ``docs/catalogues.md`` describes the formats. What was read, assumed and left out is in the
        `notes` of the catalogue, what the file says of epoch and cosmology in its `header`.

        Args:
            path: the file; any format may be compressed with gzip.
            format: ``"hdf5"``, ``"rockstar"`` (and consistent-trees), ``"pinocchio"``, ``"text"``,
                ``"npz"``, ``"fits"`` or ``"ecsv"``; ``"auto"`` tells them apart by their first
                bytes.
            columns: names in the file of ``"x"``, ``"y"`` and ``"z"`` (or ``"position"``),
                ``"mass"`` and ``"parent"``; for text also numbers, from 1. By default the usual
                names.
            box_size: side of the cube [Mpc/h], if the file does not say; one that does must agree.
            origin: lowest corner [Mpc/h] of a sub-box of side `box_size` to cut out.
            length_unit: of the positions (``"Mpc/h"``, ``"kpc"``, ...), if the file does not say.
            mass_unit: of the masses (``"Msun/h"``, ``"1e10 Msun/h"``, ...), likewise.
            h: Hubble constant in units of 100 km/s/Mpc, to read units without h.
            keep_subhaloes: whether haloes with a parent are kept.

        Returns:
            The haloes.

        Raises:
            ImportError: if the format needs a package that is not installed.
            OSError: if the file cannot be read.
            ValueError: if it is malformed (the message names the line), or columns, units or box
                are not clear or contradict it.
        """
        name = os.fspath(path)
        plain = all(option is None for option in (columns, origin, length_unit, mass_unit))
        if plain and format in ("auto", "hdf5") and _has_our_layout(name):
            return cls.read_hdf5(name, box_size=box_size)
        if box_size is not None:
            box_size = _positive_number("box_size", box_size, "length in Mpc/h")
        table = read_table(name, format, columns)
        try:
            found = select(
                table,
                box_size=box_size,
                origin=origin,
                length=length_unit,
                mass=mass_unit,
                h=h,
                keep_subhaloes=keep_subhaloes,
            )
            header = {key: value for key, value in table.header.items() if key != _BOX_SIZE}
            return cls(
                found.positions, found.mass, found.box_size, found.periodic, header, found.notes
            )
        except ValueError as error:
            if repr(name) in str(error):
                raise
            raise ValueError(f"{error} (in the file {name!r})") from error

    @classmethod
    def read_hdf5(cls, path: FilePath, *, box_size: float | None = None) -> Catalogue:
        """Read a catalogue in the layout of this module's docstring.

        Args:
            path: the file.
            box_size: side of the cube [Mpc/h], for a file that does not say; one that does must
                agree.

        Returns:
            All its haloes.

        Raises:
            FileNotFoundError: if there is no such file.
            PermissionError: if it may not be read.
            ValueError: if the file is not HDF5 or is damaged, lacks a dataset or the box size
                (the message lists what is there), or its haloes are not valid.
        """
        if box_size is not None:
            box_size = _positive_number("box_size", box_size, "length in Mpc/h")
        with _open(path) as file:
            stated: Any = box_size
            if _BOX_SIZE in file.attrs:
                attribute = np.asarray(file.attrs[_BOX_SIZE])
                # writers differ in whether a number is a scalar or an array of length one
                stated = attribute.item() if attribute.size == 1 else attribute
            elif box_size is None:
                raise ValueError(
                    f"Invalid value for argument `path`. Expected the attribute {_BOX_SIZE!r} on "
                    f"the root group. Received: {os.fspath(path)!r} with the attributes "
                    f"{sorted(file.attrs)}"
                )
            positions = _read(file, _POSITION)
            mass = _read(file, _MASS)
            header, notes = _header(file)
            periodic = bool(np.all(file.attrs.get(_PERIODIC, True)))
        try:
            catalogue = cls(positions, mass, stated, periodic, header, notes)
        except ValueError as error:
            raise ValueError(f"{error} (in the file {os.fspath(path)!r})") from error
        if box_size is not None and not np.isclose(box_size, catalogue.box_size, rtol=1e-6):
            raise ValueError(
                f"Invalid value for argument `box_size`. Expected the {catalogue.box_size:g} "
                f"Mpc/h of the file {os.fspath(path)!r}. Received: box_size={box_size:g}"
            )
        return catalogue

    def write_hdf5(
        self,
        path: FilePath,
        *,
        fields: Mapping[str, ArrayLike] | None = None,
        datasets: Mapping[str, ArrayLike] | None = None,
        attributes: Mapping[str, Any] | None = None,
    ) -> None:
        """Write the catalogue so that `read_hdf5` and `read_fields` can read it.

        The file is written under a temporary name in the same folder, synchronised to the disk and
        renamed, so that `path` is at every instant the old file or the new one.

        Args:
            path: the file; replaced if it exists.
            fields: overdensities `[N, N, N]` by name, out of `FIELDS`.
            datasets: other arrays by their path in the file, which readers leave alone.
            attributes: of the root group, besides those of the layout.

        Raises:
            FileNotFoundError: if the folder does not exist.
            ValueError: if a field has another name or is not a finite cube, or a dataset or an
                attribute has a name of the layout.
        """
        cubes = {name: _cube(name, value) for name, value in (fields or {}).items()}
        others, stated = dict(datasets or {}), dict(attributes or {})
        taken = {_POSITION, _MASS, *(f"fields/{name}" for name in FIELDS)} & set(others)
        taken |= {*self.header, _BOX_SIZE, _PERIODIC, "lengths", "masses"} & set(stated)
        if taken:
            raise ValueError(
                f"Invalid value for argument `{'datasets' if taken & set(others) else 'attributes'}"
                f"`. Expected names that the layout does not use. Received: {sorted(taken)}"
            )
        target = Path(path)
        if not target.parent.is_dir():
            raise FileNotFoundError(
                "Invalid value for argument `path`. Expected a file in an existing folder. "
                f"Received: path={os.fspath(path)!r}"
            )
        temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        try:
            with h5py.File(temporary, "w") as file:
                file.attrs.update(
                    {
                        **stated,
                        **self.header,
                        _BOX_SIZE: self.box_size,
                        "lengths": "Mpc/h",
                        "masses": "Msun/h",
                    }
                )
                if not self.periodic:
                    file.attrs[_PERIODIC] = False
                file[_POSITION] = self.positions
                file[_MASS] = self.mass
                for name, cube in cubes.items():
                    file[f"fields/{name}"] = cube
                for name, values in others.items():
                    file[name] = values
            with open(temporary, "rb") as written:
                os.fsync(written.fileno())
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)


def read_fields(path: FilePath) -> dict[str, Field]:
    """Read the true overdensities that a catalogue file may carry.

    Args:
        path: a file in the layout of this module's docstring.

    Returns:
        What the file has of ``delta_linear`` (linear, at a = 1) and ``delta_final`` (evolved), each
        `[N, N, N]` in the precision of the file; an empty dictionary if it has neither.

    Raises:
        FileNotFoundError: if there is no such file.
        PermissionError: if it may not be read.
        ValueError: if the file is not HDF5 or is damaged, or a field is not a finite cube.
    """
    with _open(path) as file:
        present = [name for name in FIELDS if f"fields/{name}" in file]
        values = {name: _read(file, f"fields/{name}") for name in present}
    try:
        return {name: _cube(name, value) for name, value in values.items()}
    except ValueError as error:
        raise ValueError(f"{error} (in the file {os.fspath(path)!r})") from error


def _numbers(name: str, value: Any) -> NDArray[Any]:
    """`value` as an array of real numbers, in whatever precision it came."""
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise ValueError(
            f"Invalid value for argument `{name}`. Expected an array of real numbers. "
            f"Received: a ragged sequence of type {type(value).__name__}"
        ) from error
    if array.dtype.kind not in "iuf":
        raise ValueError(
            f"Invalid value for argument `{name}`. Expected an array of real numbers. "
            f"Received: dtype {array.dtype}"
        )
    return array


def _positive_number(name: str, value: Any, what: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = float("nan")
    if not (np.isfinite(number) and number > 0.0):
        raise ValueError(
            f"Invalid value for argument `{name}`. Expected a positive finite {what}. "
            f"Received: {name}={value!r}"
        )
    return number


def _num_cells(value: Any) -> int:
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < 1:
        raise ValueError(
            "Invalid value for argument `num_cells`. Expected a strictly positive integer. "
            f"Received: num_cells={value!r}"
        )
    return int(value)


def _at_far_face(positions: NDArray[Any], box_size: float) -> NDArray[np.bool_]:
    """Coordinates that are the box size, in the precision in which they came."""
    if positions.dtype.kind != "f":
        return np.asarray(positions == box_size)
    with np.errstate(over="ignore"):
        rounded = float(positions.dtype.type(box_size))
    # rounded down, the box size lies in the box and needs no wrapping
    faces = [box_size, rounded] if box_size < rounded < np.inf else [box_size]
    return np.isin(positions.astype(np.float64), faces)


def _refuse(
    name: str, wrong: ArrayLike, values: NDArray[np.float64], expected: str, received: str
) -> None:
    """Raise if a halo is wrong, with how many are and the first of them."""
    wrong = np.asarray(wrong)
    if wrong.any():
        first = int(np.argmax(wrong))
        raise ValueError(
            f"Invalid value for argument `{name}`. Expected {expected}. Received: {received} in "
            f"{int(wrong.sum())} of {len(wrong)} haloes, first {name}[{first}]="
            f"{values[first].tolist()}"
        )


def _cube(name: str, value: Any) -> Field:
    if name not in FIELDS:
        raise ValueError(
            f"Invalid value for argument `fields`. Expected names out of {FIELDS}. "
            f"Received: {name!r}"
        )
    cube = _numbers(name, value)
    if cube.ndim != 3 or len(set(cube.shape)) != 1 or not cube.size:
        raise ValueError(
            f"Invalid value for argument `{name}`. Expected shape (N, N, N). "
            f"Received: shape {cube.shape}"
        )
    if cube.dtype.kind != "f":
        cube = cube.astype(np.float64)
    if not np.isfinite(cube).all():
        raise ValueError(
            f"Invalid value for argument `{name}`. Expected finite overdensities. Received: "
            f"{int((~np.isfinite(cube)).sum())} values that are NaN or infinite"
        )
    return cube


def _has_our_layout(name: str) -> bool:
    """Whether a file is HDF5 in the layout of this module's docstring."""
    if not os.path.isfile(name) or not h5py.is_hdf5(name):
        return False
    with _open(name) as file:
        return _POSITION in file or _MASS in file


def _header(file: h5py.File) -> tuple[Mapping[str, float], tuple[str, ...]]:
    """Epoch and cosmology in the attributes; a line if they cannot be understood."""
    try:
        found = header_of(file.attrs.items())
    except ValueError as error:
        return {}, (f"attributes of {file.filename} not taken for epoch and cosmology: {error}",)
    return {name: value for name, value in found.items() if name != _BOX_SIZE}, ()


@contextlib.contextmanager
def _open(path: FilePath) -> Iterator[h5py.File]:
    name = os.fspath(path)
    if not os.path.exists(name):
        raise FileNotFoundError(
            "Invalid value for argument `path`. Expected an HDF5 file. Received: "
            f"path={name!r}, which does not exist"
        )
    try:
        if os.path.isfile(name) and not file_has_sound_heaps(name):
            raise OSError("a damaged heap of strings")
        file = h5py.File(name, "r")
    except PermissionError:
        raise
    except OSError as error:
        raise ValueError(
            "Invalid value for argument `path`. Expected an HDF5 file. Received: "
            f"path={name!r} ({error})"
        ) from error
    try:
        with file:
            yield file
    except _DAMAGE as error:
        # what HDF5 says of damage comes as any of these, and names no file
        if isinstance(error, ValueError) and str(error).startswith("Invalid value"):
            raise
        raise ValueError(
            f"Invalid value for argument `path`. Expected an undamaged HDF5 file. Received: "
            f"path={name!r} ({' '.join(str(error).split())[:200]})"
        ) from error


def _read(file: h5py.File, name: str) -> NDArray[Any]:
    if not isinstance(file.get(name), h5py.Dataset):
        present: list[str] = []
        file.visititems(
            lambda key, item: present.append(key) if isinstance(item, h5py.Dataset) else None
        )
        raise ValueError(
            f"Invalid value for argument `path`. Expected the dataset {name!r}. Received: "
            f"{file.filename!r} with the datasets {sorted(present)}"
        )
    dataset = file[name]
    # a damaged or hostile file may claim a shape for which there is no memory
    if (
        dataset.shape is not None
        and dataset.nbytes > dataset.id.get_storage_size() * MOST_COMPRESSION
    ):
        raise ValueError(
            f"Invalid value for argument `path`. Expected an undamaged dataset {name!r}. "
            f"Received: {file.filename!r} with {dataset.id.get_storage_size()} bytes of the "
            f"{dataset.nbytes} that its shape {dataset.shape} takes"
        )
    try:
        return np.asarray(dataset[()])
    except OSError as error:
        raise ValueError(
            f"Invalid value for argument `path`. Expected an undamaged dataset {name!r}. "
            f"Received: {file.filename!r} ({error})"
        ) from error
