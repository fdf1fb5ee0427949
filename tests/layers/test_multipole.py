import math
from itertools import product

import numpy as np
import pytest

from layers import (
    BasisReport,
    MultipoleLabel,
    kernel_panels,
    multipole_basis,
    project_multipoles,
)
from layers.harmonics import orders_m, real_harmonics
from layers.multipole import cell_offsets
from tests.layers import reference
from tests.layers.symmetries import lattice_symmetries, wigner

Y_00 = 1 / (2 * math.sqrt(math.pi))

# (kernel_size, dilation_rate) in one, two and three dimensions: odd, even, anisotropic, spread out
LATTICES = [
    ((1,), (1,)),
    ((3,), (1,)),
    ((4,), (1,)),
    ((5,), (3,)),
    ((3, 3), (1, 1)),
    ((4, 4), (1, 1)),
    ((2, 3), (1, 1)),
    ((3, 5), (2, 1)),
    ((1, 3), (1, 1)),
    ((3, 3, 3), (1, 1, 1)),
    ((5, 5, 5), (1, 1, 1)),
    ((2, 2, 2), (1, 1, 1)),
    ((4, 2, 3), (1, 1, 1)),
    ((3, 3, 3), (1, 2, 2)),
    ((3, 1, 3), (1, 1, 1)),
]


def normal(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def orders_of(kernel_size):
    return (0, 1) if len(kernel_size) == 1 else (0, 1, 2, 3, 4)


@pytest.mark.parametrize(("kernel_size", "dilation_rate"), LATTICES)
def test_against_loops_over_cells(kernel_size, dilation_rate):
    numbers, radii = reference.shell_numbers(kernel_size, dilation_rate)
    for order in orders_of(kernel_size):
        expected = reference.multipole_kernels(kernel_size, order, dilation_rate)
        if not expected:
            with pytest.raises(ValueError, match=f"extents on which l = {order} does not vanish"):
                multipole_basis(kernel_size, order, dilation_rate=dilation_rate)
            continue
        basis = multipole_basis(kernel_size, order, dilation_rate=dilation_rate)
        assert basis.labels == tuple((order, m, radius) for m, radius, _ in expected)
        kernels = np.stack([kernel for *_, kernel in expected])
        np.testing.assert_allclose(basis.kernels, kernels, rtol=1e-13, atol=1e-13)
        # what vanishes vanishes exactly
        np.testing.assert_array_equal(basis.kernels == 0, np.abs(kernels) < 1e-9)
        np.testing.assert_array_equal(basis.shells, numbers)
        np.testing.assert_array_equal(basis.squared_radii, [float(radius) for radius in radii])


@pytest.mark.parametrize(
    ("kernel_size", "multipole", "num_weights", "rank"),
    [
        (1, 0, 1, 1),
        (3, 0, 4, 4),
        (3, 1, 9, 9),
        (3, 2, 10, 10),
        (3, 3, 17, 13),
        (3, (0, 1, 2), 23, 23),
        (3, (0, 1, 2, 3), 40, 27),
        # squared radii 0 1 2 3 4 5 6 8 9 12
        (5, 0, 10, 10),
        (5, 1, 27, 27),
        (5, 2, 35, 35),
        (2, 0, 1, 1),
        (2, 1, 3, 3),
        (2, 2, 3, 3),
        (2, (0, 1, 2, 3), 13, 8),
        ((3, 3), 0, 3, 3),
        ((3, 3), 1, 4, 4),
        ((3, 3), 2, 2, 2),
        ((3, 3), (0, 1, 2), 9, 9),
        ((5, 5), 0, 6, 6),
        ((5, 5), 1, 10, 10),
        ((5, 5), 4, 6, 6),
        ((3,), 0, 2, 2),
        ((3,), 1, 1, 1),
        ((4,), (0, 1), 4, 4),
        ((5,), (0, 1), 5, 5),
        ((1, 3), 1, 1, 1),
        ((1, 3, 5), 0, 5, 5),
    ],
)
def test_number_of_weights_and_rank(kernel_size, multipole, num_weights, rank):
    basis = multipole_basis(kernel_size, multipole)
    report = basis.report()
    assert basis.num_weights == len(basis.labels) == len(basis.kernels) == num_weights
    assert (report.num_weights, report.rank) == (num_weights, rank)


@pytest.mark.parametrize(
    ("kernel_size", "cells"),
    [(1, [1]), (3, [1, 6, 12, 8]), (5, [1, 6, 12, 8, 6, 24, 24, 12, 24, 8])],
)
def test_cells_of_the_shells(kernel_size, cells):
    basis = multipole_basis(kernel_size)
    assert np.bincount(basis.shells.ravel()).tolist() == cells
    assert [np.count_nonzero(kernel) for kernel in basis.kernels] == cells
    np.testing.assert_array_equal(np.unique(basis.kernels), [0, Y_00][kernel_size == 1 :])


def test_the_3_cubed_kernel_is_centre_faces_edges_corners():
    basis = multipole_basis(3)
    assert basis.labels == tuple(MultipoleLabel(0, 0, n) for n in range(4))
    for number, cell in enumerate([(1, 1, 1), (1, 1, 2), (1, 2, 0), (0, 2, 0)]):
        assert np.flatnonzero(basis.kernels[(slice(None), *cell)]).tolist() == [number]
        assert basis.shells[cell] == number
    assert [label.radius for label in basis.labels] == [0, 1, math.sqrt(2), math.sqrt(3)]


def test_cells_at_equal_distance_in_different_directions_share_a_shell():
    # (3, 0, 0) and (2, 2, 1) are both at distance 3
    basis = multipole_basis(7)
    shell = basis.labels.index((0, 0, 9))
    assert basis.shells[6, 3, 3] == basis.shells[5, 5, 4] == shell
    assert basis.kernels[shell, 6, 3, 3] == basis.kernels[shell, 5, 5, 4] == Y_00
    vector = multipole_basis(7, 1)
    along_first = vector.kernels[vector.labels.index((1, 1, 9))]
    np.testing.assert_allclose(along_first[5, 5, 4] / along_first[6, 3, 3], 2 / 3, rtol=1e-15)


def test_labels_are_exact_numbers():
    assert [label.squared_radius for label in multipole_basis(2).labels] == [0.75]
    assert [label.squared_radius for label in multipole_basis((2,), 1).labels] == [0.25]
    spread = multipole_basis((3, 3), dilation_rate=(1, 3)).labels
    assert [label.squared_radius for label in spread] == [0, 1, 9, 10]
    assert all(isinstance(label.squared_radius, int) for label in spread)


def test_several_orders_are_the_single_ones_in_the_order_asked_for():
    together = multipole_basis(3, (2, 0, 1))
    single = [multipole_basis(3, order) for order in (2, 0, 1)]
    assert together.labels == sum((basis.labels for basis in single), ())
    np.testing.assert_array_equal(
        together.kernels, np.concatenate([basis.kernels for basis in single])
    )


def test_harmonics_of_order_1_point_along_axes_1_2_0():
    basis = multipole_basis(3, 1)
    for m, axis in ((-1, 1), (0, 2), (1, 0)):
        ahead = tuple(2 if n == axis else 1 for n in range(3))
        for label, kernel in zip(basis.labels, basis.kernels, strict=True):
            if label.squared_radius == 1:
                assert (kernel[ahead] > 0) == (label.m == m)
    flat = multipole_basis((3, 3), 1)
    assert [label.m for label in flat.labels] == [-1, 1, -1, 1]
    assert flat.kernels[0, 1, 2] > 0 and flat.kernels[1, 2, 1] > 0
    line = multipole_basis((3,), 1)
    np.testing.assert_array_equal(line.kernels, [[-math.sqrt(0.5), 0, math.sqrt(0.5)]])


@pytest.mark.parametrize("kernel_size", [(7, 7, 7), (6, 4, 5), (9, 9), (8, 8)])
@pytest.mark.parametrize("multipole", [1, 2, 3, 4, 5, 6])
def test_nothing_is_nearly_zero(kernel_size, multipole):
    kernels = multipole_basis(kernel_size, multipole).kernels
    assert np.abs(kernels[kernels != 0]).min() > 1e-4


@pytest.mark.parametrize("multipole", [0, 1, 2, 3, 4])
def test_kernels_have_the_parity_of_their_order(multipole):
    kernels = multipole_basis(5, multipole).kernels
    np.testing.assert_array_equal(np.flip(kernels, (1, 2, 3)), (-1) ** multipole * kernels)


def test_offsets_are_exact_integers():
    offsets = cell_offsets((5, 4, 3), (1, 1, 3))
    assert offsets.dtype == np.int64
    for i, j, k in product(range(5), range(4), range(3)):
        assert offsets[:, i, j, k].tolist() == [2 * i - 4, 2 * j - 3, 6 * k - 6]


def integer_rotation(a, b, c, d):
    """A rotation matrix times the squared norm of its quaternion: integers."""
    return np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a - b * b + c * c - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a - b * b - c * c + d * d],
        ]
    )


class TestHarmonics:
    def points(self, num_axes, seed=0):
        return np.random.default_rng(seed).integers(1, 50, (num_axes, 60)) * np.array(
            [[1]] * (num_axes - 1) + [[-1]]
        )

    @pytest.mark.parametrize("num_axes", [1, 2, 3])
    def test_orthonormal(self, num_axes):
        # quadratures over integer directions, exact for polynomials of degree 7: in space
        # Lebedev's with 26 points, in the plane eight equal angles
        vectors = np.array(list(product((-1, 0, 1), repeat=num_axes))).T
        numbers = np.abs(vectors).sum(axis=0)
        weights = {1: [0, 1], 2: [0, math.pi / 4, math.pi / 4]}.get(
            num_axes, [0, *(4 * math.pi * np.array([1 / 21, 4 / 105, 9 / 280]))]
        )
        highest = 1 if num_axes == 1 else 3
        values = np.concatenate([real_harmonics(vectors, order) for order in range(highest + 1)])
        gram = (values * np.array(weights)[numbers]) @ values.T
        np.testing.assert_allclose(gram, np.eye(len(values)), atol=1e-14)

    @pytest.mark.parametrize("multipole", range(9))
    def test_addition_theorem_in_space(self, multipole):
        a, b = self.points(3, 1), self.points(3, 2)
        cosine = (a * b).sum(0) / np.linalg.norm(a, axis=0) / np.linalg.norm(b, axis=0)
        legendre = np.polynomial.legendre.Legendre.basis(multipole)(cosine)
        products = real_harmonics(a, multipole) * real_harmonics(b, multipole)
        expected = (2 * multipole + 1) / (4 * math.pi) * legendre
        np.testing.assert_allclose(products.sum(axis=0), expected, atol=1e-13)

    @pytest.mark.parametrize("multipole", range(1, 9))
    def test_addition_theorem_in_the_plane(self, multipole):
        a, b = self.points(2, 1), self.points(2, 2)
        angle = np.arctan2(a[1], a[0]) - np.arctan2(b[1], b[0])
        products = real_harmonics(a, multipole) * real_harmonics(b, multipole)
        np.testing.assert_allclose(
            products.sum(axis=0), np.cos(multipole * angle) / math.pi, atol=1e-13
        )

    @pytest.mark.parametrize("multipole", range(7))
    @pytest.mark.parametrize("quaternion", [(1, 2, 3, 4), (5, -1, 2, 1)])
    def test_rotated_harmonics_span_themselves(self, multipole, quaternion):
        rotation = integer_rotation(*quaternion)
        vectors = self.points(3)
        before = real_harmonics(vectors, multipole)
        after = real_harmonics(rotation @ vectors, multipole)
        mixing, *_ = np.linalg.lstsq(before.T, after.T, rcond=None)
        np.testing.assert_allclose(mixing.T @ before, after, atol=1e-12)
        np.testing.assert_allclose(mixing.T @ mixing, np.eye(2 * multipole + 1), atol=1e-12)

    @pytest.mark.parametrize("num_axes", [1, 2, 3])
    def test_symmetries_of_the_lattice_mix_them_as_they_should(self, num_axes):
        vectors = self.points(num_axes)
        for order in (0, 1) if num_axes == 1 else (0, 1, 2, 3):
            before = real_harmonics(vectors, order)
            for matrix in lattice_symmetries(num_axes):
                after = real_harmonics(matrix @ vectors, order)
                np.testing.assert_allclose(after, wigner(matrix, order) @ before, atol=1e-12)

    def test_numbers_of_m(self):
        assert orders_m(3, 2) == (-2, -1, 0, 1, 2)
        assert orders_m(2, 2) == (-2, 2)
        assert orders_m(1, 1) == orders_m(2, 0) == orders_m(3, 0) == (0,)

    def test_high_orders_and_large_offsets_stay_finite(self):
        vectors = np.array([[10**6, 3], [-(10**6), 4], [10**6 + 1, 12]])
        values = real_harmonics(vectors, 20)
        assert np.all(np.isfinite(values))
        # the addition theorem for one direction
        np.testing.assert_allclose(np.square(values).sum(axis=0), 41 / (4 * math.pi), rtol=1e-12)


class TestBasis:
    def test_gram_by_loops(self):
        basis = multipole_basis((2, 3, 3), (0, 1))
        gram = basis.gram()
        assert gram.shape == (basis.num_weights,) * 2
        for i, j in np.ndindex(gram.shape):
            np.testing.assert_allclose(
                gram[i, j], np.sum(basis.kernels[i] * basis.kernels[j]), atol=1e-14
            )

    def test_reports(self):
        assert multipole_basis(3).report() == BasisReport(4, 4, True, 0.0)
        assert multipole_basis(1).report() == BasisReport(1, 1, True, 0.0)
        assert multipole_basis(3, (0, 1, 2)).report()[:3] == (23, 23, True)
        # on the faces Y_3,1 and Y_3,3 are the same odd function of x
        report = multipole_basis(3, 3).report()
        assert report[:3] == (17, 13, False)
        np.testing.assert_allclose(report.largest_overlap, 1.0, rtol=1e-14)

    def test_overlaps_below_1(self):
        # l = 0 and l = 4 overlap on the faces, where Y_40 is not zero on average
        basis = multipole_basis((3, 3), (0, 4))
        gram = basis.gram()
        cosines = [
            abs(gram[i, j]) / math.sqrt(gram[i, i] * gram[j, j])
            for i, j in product(range(basis.num_weights), repeat=2)
            if i != j
        ]
        report = basis.report()
        np.testing.assert_allclose(report.largest_overlap, max(cosines), rtol=1e-14)
        assert not report.orthogonal

    def test_kernel_of_weights(self):
        basis = multipole_basis((3, 2), (0, 1))
        weights = normal(basis.num_weights)
        expected = sum(w * kernel for w, kernel in zip(weights, basis.kernels, strict=True))
        np.testing.assert_allclose(basis.kernel(weights), expected, rtol=1e-14)
        np.testing.assert_allclose(basis.kernel(list(weights)), expected, rtol=1e-14)

    @pytest.mark.parametrize("weights", [[1.0, 2.0, 3.0], 1.0, [[1.0, 2.0, 3.0, 4.0]]])
    def test_wrong_number_of_weights(self, weights):
        message = r"`weights`\. Expected an array of shape \(4,\)\. Received: weights="
        with pytest.raises(ValueError, match=message):
            multipole_basis(3).kernel(weights)


class TestProjection:
    @pytest.mark.parametrize(
        ("kernel_size", "multipoles", "dilation_rate"),
        [
            ((3, 3, 3), (0,), 1),
            ((3, 3, 3), (0, 1, 2), 1),
            ((5, 5, 5), (2, 1), 1),
            ((2, 2, 2), (0, 1), 1),
            ((3, 3), (0, 1, 2), 1),
            ((3, 4), (1, 0), (2, 1)),
            ((5,), (0, 1), 1),
            ((4,), (1,), 3),
        ],
    )
    def test_known_multipoles_are_recovered(self, kernel_size, multipoles, dilation_rate):
        bases = [multipole_basis(kernel_size, n, dilation_rate=dilation_rate) for n in multipoles]
        weights = [normal((basis.num_weights, 2, 3)) for basis in bases]
        kernel = sum(
            np.einsum("j...,jcf->...cf", basis.kernels, w)
            for basis, w in zip(bases, weights, strict=True)
        )
        projection = project_multipoles(kernel, multipoles, dilation_rate)
        assert projection.multipoles == multipoles
        np.testing.assert_allclose(projection.kernel, kernel, atol=1e-12)
        for found, expected in zip(projection.weights, weights, strict=True):
            np.testing.assert_allclose(found, expected, atol=1e-12)
        np.testing.assert_allclose(projection.fractions.sum(), 1.0, rtol=1e-13)
        np.testing.assert_allclose(projection.filter_fractions.sum(axis=0), 1.0, rtol=1e-13)

    @pytest.mark.parametrize("kernel_size", [(3, 3, 3), (5, 5, 5), (3, 3), (4, 3), (5,), (4,)])
    def test_against_residuals_of_least_squares(self, kernel_size):
        multipoles = (0, 1) if len(kernel_size) == 1 else (0, 1, 2, 3)
        kernel = normal((*kernel_size, 2, 3))
        projection = project_multipoles(kernel, multipoles)
        dilation = (1,) * len(kernel_size)
        columns = [
            np.stack([k.ravel() for *_, k in reference.multipole_kernels(kernel_size, n, dilation)])
            for n in multipoles
        ]
        left = [np.square(kernel).sum(axis=tuple(range(len(kernel_size) + 1)))]
        for count in range(1, len(multipoles) + 1):
            span = np.concatenate(columns[:count]).T
            inside = span @ np.linalg.pinv(span, rcond=1e-9)
            residual = kernel - np.tensordot(inside, kernel.reshape(-1, 2, 3), 1).reshape(
                kernel.shape
            )
            left.append(np.square(residual).sum(axis=tuple(range(len(kernel_size) + 1))))
        gains = -np.diff(np.stack(left), axis=0)
        np.testing.assert_allclose(projection.filter_fractions, gains / left[0], atol=1e-12)
        np.testing.assert_allclose(
            projection.fractions, gains.sum(axis=1) / left[0].sum(), atol=1e-12
        )
        np.testing.assert_allclose(projection.kernel, kernel - residual, atol=1e-12)

    def test_orders_up_to_3_keep_all_of_a_3_cubed_kernel(self):
        kernel = normal((3, 3, 3, 2, 4))
        projection = project_multipoles(kernel)
        np.testing.assert_allclose(projection.kernel, kernel, atol=1e-12)
        np.testing.assert_allclose(projection.fractions.sum(), 1.0, rtol=1e-13)
        # white noise spreads over the dimensions that each order adds
        assert np.all(projection.fractions > 0.05)
        assert [len(w) for w in projection.weights] == [4, 9, 10, 17]

    def test_weights_that_the_kernel_does_not_determine_are_the_smallest(self):
        kernel = normal((3, 3, 3, 1, 1))
        projection = project_multipoles(kernel)
        basis = multipole_basis(3, (0, 1, 2, 3)).kernels.reshape(-1, 27)
        expected = np.linalg.pinv(basis.T, rcond=1e-9) @ kernel.ravel()
        found = np.concatenate(projection.weights).ravel()
        np.testing.assert_allclose(found, expected, atol=1e-12)

    def test_an_isotropic_kernel_is_all_monopole(self):
        kernel = multipole_basis(3).kernel([1.0, -2.0, 0.5, 3.0])[..., None, None]
        projection = project_multipoles(kernel)
        np.testing.assert_allclose(projection.fractions, [1, 0, 0, 0], atol=1e-14)
        np.testing.assert_allclose(
            projection.weights[0][:, 0, 0], [1.0, -2.0, 0.5, 3.0], rtol=1e-12
        )

    def test_the_norm_is_attributed_in_the_order_asked_for(self):
        # l = 4 reaches what l = 0 can do on the faces: whoever comes first gets it
        kernel = multipole_basis(3).kernel([0.0, 1.0, 0.0, 0.0])[..., None, None]
        for multipoles in ((0, 4), (4, 0)):
            fractions = project_multipoles(kernel, multipoles).fractions
            np.testing.assert_allclose(fractions, [1, 0], atol=1e-14)

    def test_a_kernel_of_zeros_has_none(self):
        projection = project_multipoles(np.zeros((3, 3, 3, 2, 2)))
        np.testing.assert_array_equal(projection.fractions, np.zeros(4))
        np.testing.assert_array_equal(projection.filter_fractions, np.zeros((4, 2)))
        np.testing.assert_array_equal(projection.kernel, np.zeros((3, 3, 3, 2, 2)))

    def test_fractions_of_each_filter(self):
        kernel = np.zeros((3, 3, 3, 1, 4))
        for order in (0, 1, 2):
            basis = multipole_basis(3, order)
            kernel[..., 0, order] = (1 + order) * basis.kernel(normal(basis.num_weights))
        projection = project_multipoles(kernel, (0, 1, 2))
        expected = np.eye(3, 4)
        np.testing.assert_allclose(projection.filter_fractions, expected, atol=1e-14)
        norms = np.square(kernel).sum(axis=(0, 1, 2, 3))
        np.testing.assert_allclose(projection.fractions, norms[:3] / norms.sum(), rtol=1e-12)

    @pytest.mark.parametrize(
        "kernel",
        [
            np.zeros((3, 3)),
            np.zeros((3, 3, 3, 3, 1, 1)),
            np.zeros((3, 3, 0, 1)),
            np.full((3, 1, 1), np.nan),
            np.full((3, 1, 1), np.inf),
        ],
    )
    def test_invalid_kernels(self, kernel):
        message = r"`kernel`\. Expected finite numbers of shape \(\*kernel_size, channels, filters"
        with pytest.raises(ValueError, match=f"{message}.*Received: kernel.shape="):
            project_multipoles(kernel, (0,))

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"multipoles": ()}, "`multipoles`. Expected a tuple of different non-negative int"),
            ({"multipoles": 0}, "`multipoles`. Expected a tuple .* Received: multipoles=0"),
            ({"multipoles": (0, 0)}, r"`multipoles`. .* Received: multipoles=\(0, 0\)"),
            ({"multipoles": (-1,)}, "`multipoles`. Expected a tuple"),
            (
                {"dilation_rate": 0},
                "`dilation_rate`. .* Received: dilation_rate=0",
            ),
            ({"dilation_rate": (1, 2)}, r"`dilation_rate`. .* three of them. .*rate=\(1, 2\)"),
        ],
    )
    def test_invalid_arguments(self, arguments, message):
        with pytest.raises(ValueError, match=f"Invalid value for argument {message}"):
            project_multipoles(np.ones((3, 3, 3, 1, 1)), **arguments)

    def test_one_dimension_has_only_even_and_odd(self):
        with pytest.raises(ValueError, match=r"`multipoles`. Expected a tuple of 0 .even. and 1 "):
            project_multipoles(np.ones((3, 1, 1)))


class TestPanels:
    def test_slices_side_by_side(self):
        kernel = normal((3, 2, 4))
        panels = kernel_panels(kernel)
        assert panels.shape == (2, 3 * 4 + 2)
        for number in range(3):
            np.testing.assert_array_equal(panels[:, 5 * number : 5 * number + 4], kernel[number])
        assert np.all(np.isnan(panels[:, 4])) and np.all(np.isnan(panels[:, 9]))
        assert np.isnan(panels).sum() == 4

    def test_lines_and_planes(self):
        np.testing.assert_array_equal(kernel_panels([1, 2, 3]), [[1, 2, 3]])
        np.testing.assert_array_equal(kernel_panels([[1, 2], [3, 4]]), [[1, 2], [3, 4]])

    @pytest.mark.parametrize("kernel", [1.0, np.ones((2, 2, 2, 2)), np.ones((2, 0, 2))])
    def test_other_kernels_are_refused(self, kernel):
        message = r"`kernel`\. Expected an array with 1, 2 or 3 axes\. Received: kernel\.shape="
        with pytest.raises(ValueError, match=message):
            kernel_panels(kernel)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kernel_size": 0}, "`kernel_size`. Expected a strictly positive integer or three of "),
        ({"kernel_size": -3}, "`kernel_size`. .* Received: kernel_size=-3"),
        ({"kernel_size": 3.0}, "`kernel_size`. .* Received: kernel_size=3.0"),
        ({"kernel_size": True}, "`kernel_size`. .* Received: kernel_size=True"),
        ({"kernel_size": (3, 0)}, r"`kernel_size`. .* a pair of them. .* kernel_size=\(3, 0\)"),
        ({"kernel_size": (0,)}, r"`kernel_size`. Expected a strictly positive integer. Received"),
        ({"kernel_size": ()}, r"`kernel_size`. Expected extents along 1, 2 or 3 axes. Received: k"),
        ({"kernel_size": (3,) * 4}, "`kernel_size`. Expected extents along 1, 2 or 3 axes"),
        ({"kernel_size": (3, 3), "num_axes": 3}, "`kernel_size`. .* three of them. Received: ker"),
        ({"num_axes": 4}, "`num_axes`. Expected 1, 2 or 3. Received: num_axes=4"),
        ({"num_axes": 2.0}, "`num_axes`. Expected 1, 2 or 3. Received: num_axes=2.0"),
        ({"num_axes": 0}, "`num_axes`. Expected 1, 2 or 3. Received: num_axes=0"),
        ({"multipole": -1}, "`multipole`. Expected a tuple of different non-negative integers"),
        ({"multipole": 0.5}, "`multipole`. Expected a tuple of different non-negative integers"),
        ({"multipole": True}, "`multipole`. Expected a tuple of different non-negative integers"),
        ({"multipole": "0"}, "`multipole`. Expected a tuple of different non-negative integers"),
        ({"multipole": (1, 1)}, r"`multipole`. .* Received: multipole=\(1, 1\)"),
        ({"multipole": ()}, r"`multipole`. .* Received: multipole=\(\)"),
        ({"kernel_size": (3,), "multipole": 2}, "`multipole`. Expected a tuple of 0 .even. and 1"),
        ({"kernel_size": 1, "multipole": 1}, "`kernel_size`. Expected extents on which l = 1 does"),
        ({"kernel_size": (1, 1), "multipole": (2, 3)}, r"`kernel_size`. .* l = \(2, 3\) does not"),
        ({"dilation_rate": 0}, "`dilation_rate`. .* Received: dilation_rate=0"),
        ({"dilation_rate": (1, 1)}, r"`dilation_rate`. .* three of them. .*rate=\(1, 1\)"),
    ],
)
def test_invalid_arguments(arguments, message):
    with pytest.raises(ValueError, match=f"Invalid value for argument {message}"):
        multipole_basis(**{"kernel_size": 3, **arguments})


def test_numpy_integers_are_integers():
    basis = multipole_basis(np.int64(3), np.int64(1), num_axes=np.int32(2))
    assert basis.labels == multipole_basis((3, 3), 1).labels


def test_an_order_that_vanishes_has_no_share_of_a_kernel():
    kernel = np.random.default_rng(2).normal(size=(1, 1, 1, 2, 3))
    projection = project_multipoles(kernel, (0, 1, 2))
    np.testing.assert_allclose(projection.fractions, [1.0, 0.0, 0.0], atol=1e-15)
    np.testing.assert_allclose(projection.kernel, kernel, rtol=1e-12)
    assert [weights.shape for weights in projection.weights] == [(1, 2, 3), (0, 2, 3), (0, 2, 3)]
