"""The window of a survey: which fraction of the haloes of every voxel it can have seen.

The completeness of a direction (an angular mask) times that of a distance (a radial selection),
averaged over the voxel of every vertex. Directions are unit vectors in the equatorial frame
(ICRS): x towards right ascension 0, y towards 90 degrees, z towards the north pole. The axes of
the box are the same, unless a rotation is given. Lengths are comoving, in Mpc/h.

Maps on the HEALPix tessellation (Gorski et al. 2005, ApJ 622, 759) need the extra `survey`:
``pip install npe_tf[survey]``.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from npe_tf.grid import Grid, check_position

__all__ = ["AngularMask", "completeness", "read_angular_mask"]

Array = NDArray[np.float64]
FilePath = str | os.PathLike[str]
Selection = Callable[[Array], ArrayLike]

_UNSEEN = -1.6375e30

# From equatorial (ICRS) to galactic coordinates: The Hipparcos and Tycho Catalogues,
# ESA SP-1200 (1997), vol. 1, eq. 1.5.11.
_EQUATORIAL_TO_GALACTIC = np.array(
    [
        [-0.0548755604, -0.8734370902, -0.4838350155],
        [+0.4941094279, -0.4448296300, +0.7469822445],
        [-0.8676661490, -0.1980763734, +0.4559837762],
    ]
)


def _in_unit_range(name: str, values: Any) -> Array:
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"Invalid value for argument `{name}`. Expected numbers in [0, 1]. Received: {error}"
        ) from error
    wrong = ~((array >= 0.0) & (array <= 1.0))
    if wrong.any():
        raise ValueError(
            f"Invalid value for argument `{name}`. Expected values in [0, 1]. Received: "
            f"{int(wrong.sum())} of {array.size} values outside, the first {array[wrong].flat[0]}"
        )
    return array


def _healpix() -> Any:
    try:
        import astropy_healpix
    except ImportError as error:
        raise ImportError(
            "HEALPix maps need the packages astropy and astropy-healpix: pip install npe_tf[survey]"
        ) from error
    return astropy_healpix


@dataclasses.dataclass(frozen=True, eq=False)
class AngularMask:
    """Completeness of every direction, as a HEALPix map.

    Attributes:
        values: completeness of each pixel, `[12 nside^2]` in [0, 1].
        nested: pixels are in nested order; ring order by default.
        galactic: the map is in galactic coordinates; equatorial by default.

    Raises:
        ValueError: if a value is not in [0, 1] or the number of pixels is not that of a map.
    """

    values: Array
    nested: bool = False
    galactic: bool = False

    def __post_init__(self) -> None:
        """Check the map."""
        values = _in_unit_range("values", self.values)
        side = round(float(np.sqrt(values.size / 12)))
        if values.ndim != 1 or side < 1 or 12 * side**2 != values.size:
            raise ValueError(
                "Invalid value for argument `values`. Expected a HEALPix map of 12 nside^2 "
                f"pixels. Received: shape {values.shape}"
            )
        if self.nested and side & (side - 1):
            raise ValueError(
                "Invalid value for argument `nested`. Expected False: nested order needs an nside "
                f"that is a power of two. Received: nested=True with nside={side}"
            )
        object.__setattr__(self, "values", values)

    @property
    def nside(self) -> int:
        """Resolution of the map: pixels along the side of one of its twelve faces."""
        return round(float(np.sqrt(self.values.size / 12)))

    def __call__(self, directions: ArrayLike) -> Array:
        """Completeness of the pixel in each direction.

        Args:
            directions: equatorial unit vectors, `[..., 3]`.

        Returns:
            `[...]`.

        Raises:
            ImportError: if astropy-healpix is not installed.
        """
        healpix = _healpix()
        vectors = np.asarray(directions, dtype=np.float64)
        if self.galactic:
            vectors = vectors @ _EQUATORIAL_TO_GALACTIC.T
        longitude = np.arctan2(vectors[..., 1], vectors[..., 0])
        latitude = np.arctan2(vectors[..., 2], np.hypot(vectors[..., 0], vectors[..., 1]))
        pixel = healpix.core.lonlat_to_healpix(
            np.rad2deg(longitude) * _degree(),
            np.rad2deg(latitude) * _degree(),
            self.nside,
            order="nested" if self.nested else "ring",
        )
        return np.asarray(self.values[np.asarray(pixel)])


def _degree() -> Any:
    from astropy import units

    return units.deg


def read_angular_mask(path: FilePath, *, hdu: int = 1, column: int = 0) -> AngularMask:
    """Read an angular completeness from a HEALPix map in a FITS file.

    The order of the pixels comes from the header (``ORDERING``), and so do the frame
    (``COORDSYS``, equatorial if it is absent) and whether the file lists all pixels or some
    (``INDXSCHM``; those that are not listed are not seen).

    Args:
        path: the file.
        hdu: number of the extension that holds the map.
        column: which column of its table is the completeness; in a table that lists some of the
            pixels, which column after theirs.

    Returns:
        The map; pixels that are NaN or ``UNSEEN`` have completeness zero.

    Raises:
        FileNotFoundError: if there is no such file.
        ImportError: if astropy is not installed.
        ValueError: if the file is no FITS file, the extension is no HEALPix map, or its values
            are not in [0, 1].
    """
    name = os.fspath(path)
    if not Path(name).is_file():
        raise FileNotFoundError(
            f"Invalid value for argument `path`. Expected a file. Received: path={name!r}, which "
            "does not exist"
        )
    _healpix()
    from astropy.io import fits

    def refuse(expected: str, received: str) -> ValueError:
        return ValueError(
            f"Invalid value for argument `path`. Expected {expected}. Received: {name!r} with "
            f"{received}"
        )

    try:
        with fits.open(name, memmap=False) as file:
            if not 0 <= hdu < len(file):
                raise refuse(f"an extension number {hdu}", f"{len(file)} extensions")
            header, table = file[hdu].header, file[hdu].data
            columns = [] if table is None or table.names is None else list(table.names)
            arrays = [np.asarray(table[c], dtype=np.float64).ravel() for c in columns]
    except (OSError, AttributeError, TypeError) as error:
        raise refuse("a FITS file with a table of pixels", f"error {error}") from error

    explicit = str(header.get("INDXSCHM", "IMPLICIT")).strip().upper() == "EXPLICIT"
    ordering = str(header.get("ORDERING", "")).strip().upper()
    frame = str(header.get("COORDSYS", "C")).strip().upper()
    if ordering not in ("RING", "NEST", "NESTED"):
        raise refuse("ORDERING of RING or NESTED in the header", f"ORDERING={ordering!r}")
    if frame[:1] not in ("C", "G", "Q", "I"):
        raise refuse("COORDSYS of C (equatorial) or G (galactic)", f"COORDSYS={frame!r}")
    if not 0 <= column + explicit < len(arrays):
        raise refuse(f"a column number {column}", f"the columns {columns}")
    values = arrays[column + explicit]
    values = np.where(np.isfinite(values) & (values != np.float32(_UNSEEN)), values, _UNSEEN)
    values = np.where(values < 0.999 * _UNSEEN, 0.0, values)
    if explicit:
        nside = int(header.get("NSIDE", 0))
        pixels = arrays[0].astype(np.int64)
        if nside < 1 or pixels.min(initial=0) < 0 or pixels.max(initial=0) >= 12 * nside**2:
            raise refuse("pixel numbers below 12 NSIDE^2", f"NSIDE={nside}")
        whole = np.zeros(12 * nside**2)
        whole[pixels] = values
        values = whole
    try:
        return AngularMask(values, ordering != "RING", frame.startswith("G"))
    except ValueError as error:
        raise ValueError(f"{error} (in the file {name!r})") from error


def _rotation(rotation: ArrayLike | None) -> Array:
    matrix = np.eye(3) if rotation is None else np.asarray(rotation, dtype=np.float64)
    proper = matrix.shape == (3, 3) and np.allclose(matrix @ matrix.T, np.eye(3), atol=1e-6)
    if not proper or np.linalg.det(matrix) < 0:
        raise ValueError(
            "Invalid value for argument `rotation`. Expected an orthogonal matrix [3, 3] of "
            f"determinant 1. Received: rotation={rotation!r}"
        )
    return matrix


def _angular(mask: Selection | ArrayLike | None) -> Selection | None:
    if mask is None or callable(mask):
        return mask
    try:
        return AngularMask(np.asarray(mask, dtype=np.float64))
    except ValueError as error:
        raise ValueError(
            "Invalid value for argument `angular_mask`. Expected a callable of unit vectors or a "
            f"HEALPix map in ring order. Received: {error}"
        ) from error


def _radial(selection: Selection | tuple[ArrayLike, ArrayLike] | None) -> Selection | None:
    if selection is None or callable(selection):
        return selection
    try:
        distance, value = (np.asarray(part, dtype=np.float64) for part in selection)
    except (TypeError, ValueError):
        distance = value = np.zeros(0)
    if distance.ndim != 1 or distance.shape != value.shape or len(distance) < 2:
        raise ValueError(
            "Invalid value for argument `radial_selection`. Expected a callable of distance or "
            "a table (distances, values) of two sequences of equal length, at least 2. Received: "
            f"radial_selection={selection!r}"
        )
    if not np.all(np.isfinite(distance)) or np.any(np.diff(distance) <= 0) or distance[0] < 0:
        raise ValueError(
            "Invalid value for argument `radial_selection`. Expected distances in Mpc/h that "
            f"increase from zero or more. Received: {distance.tolist()}"
        )
    _in_unit_range("radial_selection", value)
    return lambda r: np.interp(r, distance, value, left=0.0, right=0.0)


def _evaluate(name: str, selection: Selection, argument: Array, shape: tuple[int, ...]) -> Array:
    values = _in_unit_range(name, selection(argument))
    try:
        return np.broadcast_to(values, shape)
    except ValueError as error:
        raise ValueError(
            f"Invalid value for argument `{name}`. Expected one value for each of {shape} points. "
            f"Received: shape {values.shape}"
        ) from error


def completeness(
    grid: Grid,
    observer: ArrayLike,
    angular_mask: Selection | ArrayLike | None = None,
    radial_selection: Selection | tuple[ArrayLike, ArrayLike] | None = None,
    *,
    rotation: ArrayLike | None = None,
    supersampling: int = 4,
    periodic: bool = False,
) -> Array:
    """Average the window of a survey over the voxel of every vertex.

    The voxel of a vertex is the cube around it in which haloes are nearest to it; around the
    first vertices that cube reaches over the faces of the box, and its parts lie at either end.

    Args:
        grid: the mesh.
        observer: where the survey was made from, in coordinates of the box `[3]` [Mpc/h]; may lie
            outside the box unless `periodic`.
        angular_mask: completeness in [0, 1] as a callable that takes unit vectors `[..., 3]` to
            `[...]` (as `AngularMask` does), or a HEALPix map in ring order `[12 nside^2]` in the
            equatorial frame; ones by default.
        radial_selection: completeness in [0, 1] as a callable of comoving distance, or a table
            (distances [Mpc/h], values) that is interpolated linearly and is zero beyond its ends;
            ones by default.
        rotation: matrix R `[3, 3]` that takes an equatorial unit vector to the axes of the box,
            ``v_box = R v``; the identity by default.
        supersampling: points at which a voxel is evaluated, along each side. What lies between
            them is not seen: a halo in a sliver of the window can be at completeness zero.
        periodic: measure to the nearest image of the observer. A survey in a box of its own has
            no images, and a voxel at the far side is far away.

    Returns:
        `[N, N, N]` in [0, 1], as `PoissonLikelihood` takes it. A point where the observer is
        counts as seen along the first axis.

    Raises:
        ImportError: if a HEALPix map is given and astropy-healpix is not installed.
        ValueError: if an argument is not as above or a completeness is not in [0, 1].
    """
    origin, matrix = check_position("observer", observer), _rotation(rotation)
    integer = isinstance(supersampling, (int, np.integer)) and not isinstance(supersampling, bool)
    if not integer or supersampling < 1:
        raise ValueError(
            "Invalid value for argument `supersampling`. Expected a strictly positive integer. "
            f"Received: supersampling={supersampling!r}"
        )
    angular, radial = _angular(angular_mask), _radial(radial_selection)
    n, s, box_size = grid.num_cells, int(supersampling), grid.box_size
    # the parts of the first voxels beyond a face lie at the other end of the box
    points = (((np.arange(n * s) + 0.5) / s - 0.5) * grid.cell_size) % box_size
    offsets = [points - coordinate for coordinate in origin]
    if periodic:
        offsets = [d - box_size * np.rint(d / box_size) for d in offsets]

    window = np.empty(grid.shape)
    for plane in range(n):  # one at a time: the points of all voxels need not fit in memory
        near = offsets[0][plane * s : (plane + 1) * s]
        separation = np.stack(np.meshgrid(near, *offsets[1:], indexing="ij"), axis=-1)
        distance = np.sqrt(np.sum(separation**2, axis=-1))
        seen = np.ones(distance.shape)
        if radial is not None:
            seen = seen * _evaluate("radial_selection", radial, distance, distance.shape)
        if angular is not None:
            at_observer = distance == 0
            direction = separation / np.where(at_observer, 1.0, distance)[..., None]
            direction[at_observer] = [1.0, 0.0, 0.0]
            # the transposed rotation, from the right
            seen = seen * _evaluate("angular_mask", angular, direction @ matrix, distance.shape)
        window[plane] = seen.reshape(s, n, s, n, s).mean(axis=(0, 2, 4))
    # a mean of ones may round to more than one
    return np.clip(window, 0.0, 1.0)
