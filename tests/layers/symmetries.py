"""The symmetries of a lattice, what they do to a mesh and to harmonics; nothing from `layers`."""

from itertools import permutations, product

import numpy as np

from tests.layers.reference import harmonics


def lattice_symmetries(num_axes):
    """All signed permutation matrices: 2, 8 or 48 of them."""
    return [
        np.eye(num_axes, dtype=int)[list(order)].T * np.array(signs)
        for order in permutations(range(num_axes))
        for signs in product((1, -1), repeat=num_axes)
    ]


def turn(mesh, matrix):
    """The mesh `[batch, *mesh, channels]` seen in turned coordinates.

    Its value at x is that of the given one at ``matrix @ x``, both from the middle of the mesh.
    """
    sources = [int(np.flatnonzero(column)[0]) for column in matrix.T]
    mesh = np.transpose(mesh, (0, *(1 + axis for axis in sources), mesh.ndim - 1))
    flipped = [1 + axis for axis, column in enumerate(matrix.T) if column.sum() < 0]
    return np.flip(mesh, flipped)


def harmonics_table(vectors, multipole):
    """Harmonics of one order in several directions, `[directions, M]`."""
    return np.array([list(harmonics(vector, multipole).values()) for vector in vectors])


def wigner(matrix, multipole):
    """The matrix D by which harmonics mix, Y(matrix @ n) = D Y(n), by a fit to many directions."""
    vectors = np.random.default_rng(5).normal(size=(40, len(matrix)))
    before = harmonics_table(vectors, multipole)
    after = harmonics_table(vectors @ np.transpose(matrix), multipole)
    mixing, *_ = np.linalg.lstsq(before, after, rcond=None)
    np.testing.assert_allclose(before @ mixing, after, atol=1e-12)
    return mixing.T


def mix_maps(maps, matrix, multipoles, filters):
    """Maps `[..., maps]` of an input that was turned, from those of the input turned alike."""
    pieces, first = [], 0
    for order, count in zip(multipoles, filters, strict=True):
        mixing = wigner(np.transpose(matrix), order)
        for _ in range(count):
            pieces.append(maps[..., first : first + len(mixing)] @ mixing.T)
            first += len(mixing)
    assert first == maps.shape[-1]
    return np.concatenate(pieces, axis=-1)
