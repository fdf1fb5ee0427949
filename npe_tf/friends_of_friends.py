"""Friends-of-friends haloes: particles closer than a linking length are of one halo.

Davis et al. 1985 (ApJ 292, 371). The length is stated in units of the mean separation of the
particles, L / P^(1/3); 0.2 of it is the usual choice. A halo is where its particles' centre of mass
is, in the periodic box, and has their mean velocity.

Pairs come from SciPy's k-d tree, groups from its connected components (the extra ``simulate``).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "FoundHaloes",
    "find_haloes",
    "friends_of_friends",
    "require_scipy",
    "warren_number",
]

Array = NDArray[np.float64]
Integers = NDArray[np.int64]

# particles of which all pairs are in memory at a time; a pair takes 16 bytes, and a particle of a
# halo has tens of friends
_AT_ONCE = 500_000


class FoundHaloes(NamedTuple):
    """Haloes, the largest first.

    Attributes:
        positions: centres of mass `[H, 3]` in [0, box_size) [Mpc/h].
        velocities: mean peculiar velocities `[H, 3]` [km/s]; `None` if those of the particles are
            not known.
        mass: `[H]` [Msun/h].
        num_particles: `[H]`.
    """

    positions: Array
    velocities: Array | None
    mass: Array
    num_particles: Integers


def require_scipy() -> None:
    """Refuse to begin without SciPy.

    Raises:
        ImportError: if it is not installed.
    """
    try:
        import scipy.sparse.csgraph
        import scipy.spatial  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "Friends-of-friends needs SciPy. Expected the extra `simulate`: pip install "
            "'npe_tf[simulate]'"
        ) from error


def friends_of_friends(positions: ArrayLike, box_size: float, linking_length: float) -> Integers:
    """Tell groups of particles apart.

    Args:
        positions: `[P, 3]` [Mpc/h], anywhere: they are wrapped into the box.
        box_size: side of the periodic box [Mpc/h].
        linking_length: largest distance of two friends [Mpc/h].

    Returns:
        Number of the group of each particle, `[P]`, counted from 0. A particle without friends is
        a group.

    Raises:
        ImportError: if SciPy is not installed.
        ValueError: if the positions are not finite and `[P, 3]`, or the length is not positive or
            half of the box or more.
    """
    require_scipy()
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    wrapped = _wrapped(positions, box_size)
    if not (np.isfinite(linking_length) and 0.0 < linking_length < box_size / 2.0):
        raise ValueError(
            "Invalid value for argument `linking_length`. Expected a positive length below half "
            f"of box_size={box_size:g}. Received: linking_length={linking_length!r}"
        )

    def components(pairs: Integers, count: int) -> Integers:
        ones = np.ones(len(pairs), dtype=np.int8)
        graph = coo_matrix((ones, (pairs[:, 0], pairs[:, 1])), shape=(count, count))
        return np.asarray(connected_components(graph, directed=False)[1], dtype=np.int64)

    links = []
    for members, pairs in _pairs(wrapped, box_size, linking_length):
        label = components(pairs, len(members))
        # every member to the first of its group: all that the pairs say, in fewer numbers
        _, first = np.unique(label, return_index=True)
        star = np.stack([members, members[first[label]]], axis=1)
        links.append(star[star[:, 0] != star[:, 1]])
    return components(np.concatenate(links), len(wrapped))


def find_haloes(
    positions: ArrayLike,
    box_size: float,
    particle_mass: float,
    velocities: ArrayLike | None = None,
    *,
    linking_length: float = 0.2,
    min_particles: int = 20,
    warren_correction: bool = False,
) -> FoundHaloes:
    """Find the haloes of equal particles in a periodic box.

    Args:
        positions: `[P, 3]` [Mpc/h], anywhere: they are wrapped into the box.
        box_size: side of the box [Mpc/h].
        particle_mass: [Msun/h].
        velocities: peculiar `[P, 3]` [km/s].
        linking_length: in units of the mean separation of the particles.
        min_particles: of a halo.
        warren_correction: whether masses are those of `warren_number` particles.

    Returns:
        The haloes; there may be none.

    Raises:
        ImportError: if SciPy is not installed.
        ValueError: if an argument is out of range.
    """
    wrapped = _wrapped(positions, box_size)
    if not (np.isfinite(particle_mass) and particle_mass > 0.0):
        raise ValueError(
            "Invalid value for argument `particle_mass`. Expected a positive mass in Msun/h. "
            f"Received: particle_mass={particle_mass!r}"
        )
    if (
        isinstance(min_particles, bool)
        or not isinstance(min_particles, (int, np.integer))
        or min_particles < 1
    ):
        raise ValueError(
            "Invalid value for argument `min_particles`. Expected a positive integer. Received: "
            f"min_particles={min_particles!r}"
        )
    moving = None if velocities is None else np.asarray(velocities, dtype=np.float64)
    if moving is not None and moving.shape != wrapped.shape:
        raise ValueError(
            f"Invalid value for argument `velocities`. Expected shape {wrapped.shape}, that of the "
            f"positions. Received: shape {moving.shape}"
        )
    separation = box_size / len(wrapped) ** (1.0 / 3.0)
    label = friends_of_friends(wrapped, box_size, linking_length * separation)
    count = np.bincount(label)
    order = np.argsort(-count, kind="stable")
    kept = order[count[order] >= min_particles]
    halo_of_label = np.full(len(count), -1)
    halo_of_label[kept] = np.arange(len(kept))
    member = np.flatnonzero(halo_of_label[label] >= 0)
    halo, number = halo_of_label[label[member]], count[kept]

    def mean(values: Array) -> Array:
        sums = [np.bincount(halo, weights=axis, minlength=len(kept)) for axis in values.T]
        return np.stack(sums, axis=1) / number[:, np.newaxis]

    inside = wrapped[member]
    angle = (2.0 * np.pi / box_size) * inside
    # the mean direction on the circle does not know where the box is cut open; from there the
    # centre of mass is a mean of short distances
    middle = np.arctan2(mean(np.sin(angle)), mean(np.cos(angle))) * (box_size / (2.0 * np.pi))
    offset = inside - middle[halo]
    centre = middle + mean(offset - box_size * np.round(offset / box_size))
    weight = warren_number(number) if warren_correction else number.astype(np.float64)
    return FoundHaloes(
        _wrapped(centre, box_size, empty=True),
        None if moving is None else mean(moving[member]),
        particle_mass * weight,
        number.astype(np.int64),
    )


def warren_number(num_particles: ArrayLike) -> Array:
    """Number of particles without what friends-of-friends finds too many of in small haloes.

    N (1 - N^-0.6), Warren et al. 2006 (ApJ 646, 881); for a linking length of 0.2.

    Args:
        num_particles: N, any shape.

    Returns:
        Numbers of the same shape.
    """
    number = np.asarray(num_particles, dtype=np.float64)
    return np.asarray(number * (1.0 - number**-0.6))


def _wrapped(positions: ArrayLike, box_size: float, empty: bool = False) -> Array:
    """Positions `[P, 3]` in [0, box_size)."""
    found = np.asarray(positions, dtype=np.float64)
    if not (np.isfinite(box_size) and box_size > 0.0):
        raise ValueError(
            "Invalid value for argument `box_size`. Expected a positive length in Mpc/h. Received: "
            f"box_size={box_size!r}"
        )
    if found.ndim != 2 or found.shape[1] != 3 or not (empty or len(found)):
        raise ValueError(
            "Invalid value for argument `positions`. Expected shape [P, 3]. Received: shape "
            f"{found.shape}"
        )
    if not np.isfinite(found).all():
        raise ValueError(
            "Invalid value for argument `positions`. Expected finite coordinates. Received: "
            f"{int((~np.isfinite(found).all(axis=1)).sum())} particles with others"
        )
    wrapped = np.mod(found, box_size)
    wrapped[wrapped >= box_size] = 0.0  # np.mod rounds what is just below zero up
    return wrapped


def _pairs(positions: Array, box_size: float, length: float) -> Iterator[tuple[Integers, Any]]:
    """Pairs of friends, a slab of the box at a time.

    Yields:
        The particles of the slab and of what is within `length` beyond it, `[p]`, and pairs of
        them, `[pairs, 2]`, by their place among these. Every pair of friends comes at least once.
    """
    from scipy.spatial import cKDTree

    order = np.argsort(positions[:, 0], kind="stable")
    x = positions[order, 0]
    for start in range(0, len(order), _AT_ONCE):
        own = order[start : start + _AT_ONCE]
        members = own
        if len(own) < len(order):
            # a little more than the length, which rounding may not cut
            beyond = np.mod(x - x[start + len(own) - 1], box_size) <= length * (1.0 + 1e-9)
            beyond[start : start + len(own)] = False
            members = np.concatenate([own, order[beyond]])
        tree = cKDTree(positions[members], boxsize=box_size)
        yield members, tree.query_pairs(length, output_type="ndarray")
