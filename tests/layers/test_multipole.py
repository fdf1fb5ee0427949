import math
from itertools import product

import numpy as np
import pytest

from layers import MultipoleLabel, multipole_basis
from layers.multipole import lattice_offsets, squared_radii
from tests.layers.reference import shell_numbers

Y_00 = 1 / (2 * math.sqrt(math.pi))


@pytest.mark.parametrize(
    ("kernel_size", "cells"),
    [
        (1, [1]),
        (3, [1, 6, 12, 8]),
        # squared radii 0 1 2 3 4 5 6 8 9 12
        (5, [1, 6, 12, 8, 6, 24, 24, 12, 24, 8]),
    ],
)
def test_number_of_weights_and_cells(kernel_size, cells):
    basis, labels = multipole_basis(kernel_size)
    assert basis.shape == (len(cells), kernel_size, kernel_size, kernel_size)
    assert [np.count_nonzero(kernel) for kernel in basis] == cells
    assert len(labels) == len(cells)


def test_the_3_cubed_kernel_is_centre_faces_edges_corners():
    basis, labels = multipole_basis(3)
    assert labels == tuple(MultipoleLabel(0, 0, n) for n in range(4))
    for number, cell in enumerate([(1, 1, 1), (1, 1, 2), (1, 2, 0), (0, 2, 0)]):
        assert np.flatnonzero(basis[(slice(None), *cell)]).tolist() == [number]


@pytest.mark.parametrize("kernel_size", [1, 3, 5, 7])
def test_shells_by_brute_force(kernel_size):
    basis, labels = multipole_basis(kernel_size)
    numbers = shell_numbers(kernel_size)
    for number, (kernel, label) in enumerate(zip(basis, labels, strict=True)):
        np.testing.assert_array_equal(kernel, np.where(numbers == number, Y_00, 0.0))
        assert set(squared_radii(kernel_size)[numbers == number]) == {label.squared_radius}


def test_cells_at_equal_distance_in_different_directions_share_a_shell():
    # (3, 0, 0) and (2, 2, 1) are both at distance 3
    basis, labels = multipole_basis(7)
    shell = [label.squared_radius for label in labels].index(9)
    assert basis[shell, 6, 3, 3] == basis[shell, 5, 5, 4] == Y_00


def test_offsets_are_exact_integers():
    offsets = lattice_offsets(5)
    assert offsets.dtype == np.int64
    for i, j, k in product(range(5), repeat=3):
        assert offsets[:, i, j, k].tolist() == [i - 2, j - 2, k - 2]


@pytest.mark.parametrize("multipole", [1, -1, 0.5, True, "0"])
def test_other_multipoles_are_refused(multipole):
    with pytest.raises(ValueError, match=r"`multipole`\. Expected one of \(0,\).*Received: multip"):
        multipole_basis(3, multipole)


@pytest.mark.parametrize(
    ("kernel_size", "expected"),
    [(0, "strictly positive"), (-3, "strictly positive"), (3.0, "strictly"), (4, "an odd integer")],
)
def test_wrong_kernel_sizes_are_refused(kernel_size, expected):
    with pytest.raises(ValueError, match=f"`kernel_size`. Expected .*{expected}.*kernel_size="):
        multipole_basis(kernel_size)
