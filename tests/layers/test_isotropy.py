"""Isotropic combinations of shells: exact on the polynomials that smooth fields begin with."""

import numpy as np
import pytest

from layers import MultipoleConv2D, MultipoleConv3D, MultipolePower

LAYERS = {2: MultipoleConv2D, 3: MultipoleConv3D}


def polynomial(degree, num_axes, turn, size, rng):
    """A random homogeneous polynomial of the rotated coordinates, on the cells of a kernel."""
    axis = np.arange(size) - (size - 1) / 2
    cells = np.stack(np.meshgrid(*[axis] * num_axes, indexing="ij"), -1) @ turn.T
    directions = rng.normal(size=(4, degree, num_axes))
    values = np.prod(np.einsum("tda,...a->...td", directions, cells), axis=-1).sum(-1)
    return values[np.newaxis, ..., np.newaxis]


def turns(num_axes, rng, count=5):
    q, _ = np.linalg.qr(rng.normal(size=(count, num_axes, num_axes)))
    return [np.eye(num_axes), *q]


def powers(multipole, num_axes, size, degree, isotropic):
    """Power of a random kernel's maps on one polynomial in several orientations."""
    layer = LAYERS[num_axes](
        1, size, (multipole,), share_orders=True, isotropic=isotropic, dtype="float64"
    )
    layer.build((None, *(None,) * num_axes, 1))
    rng = np.random.default_rng(3)
    layer.set_weights([rng.normal(size=w.shape) for w in layer.weights])
    results = []
    for turn in turns(num_axes, np.random.default_rng(4)):
        field = polynomial(degree, num_axes, turn, size, np.random.default_rng(5))
        maps = layer(field)
        results.append(np.asarray(MultipolePower((multipole,), dtype="float64")(maps)).item())
    return np.array(results)


@pytest.mark.parametrize(
    ("multipole", "num_axes", "size"),
    [(1, 3, 3), (2, 3, 3), (3, 3, 5), (4, 3, 5), (2, 2, 3), (3, 2, 5), (2, 3, 4), (4, 2, 7)],
)
def test_power_is_the_same_in_every_orientation(multipole, num_axes, size):
    values = powers(multipole, num_axes, size, multipole, isotropic=True)
    assert values[0] > 1e-6
    np.testing.assert_allclose(values, values[0], rtol=1e-9)


@pytest.mark.parametrize(("multipole", "num_axes", "size"), [(2, 3, 3), (2, 2, 5), (3, 3, 5)])
def test_shells_with_weights_of_their_own_are_not_isotropic(multipole, num_axes, size):
    values = powers(multipole, num_axes, size, multipole, isotropic=False)
    assert np.ptp(values) > 0.05 * values.mean()


@pytest.mark.parametrize(("multipole", "degree"), [(3, 1), (4, 2), (4, 0), (2, 0)])
def test_lower_polynomials_are_not_seen(multipole, degree):
    values = powers(multipole, 3, 5, degree, isotropic=True)
    np.testing.assert_allclose(values, 0.0, atol=1e-18)


def test_a_kernel_of_l_3_on_single_shells_sees_a_gradient():
    assert powers(3, 3, 5, 1, isotropic=False).max() > 1e-6


@pytest.mark.parametrize(
    ("size", "counts"), [(3, {0: 4, 1: 3, 2: 2}), (5, {0: 10, 1: 9, 2: 8, 3: 6, 4: 3})]
)
def test_number_of_weights(size, counts):
    for multipole, expected in counts.items():
        layer = MultipoleConv3D(1, size, (multipole,), share_orders=True, isotropic=True)
        assert layer.num_weights == expected


def test_the_quadrupole_of_3_cubed_by_hand():
    # maps m = -2 and m = 2 have one norm for xy and for (x^2 - y^2) / 2
    layer = MultipoleConv3D(1, 3, (2,), share_orders=True, isotropic=True, dtype="float64")
    layer.build((None, None, None, None, 1))
    axis = np.arange(3) - 1.0
    x, y, z = np.meshgrid(axis, axis, axis, indexing="ij")
    for weights in np.eye(layer.num_weights):
        layer.set_weights([weights.reshape(-1, 1, 1), *layer.get_weights()[1:]])
        kernels = np.asarray(layer.kernel)[..., 0, :]
        off_diagonal = np.sum(kernels[..., 0] * x * y)
        diagonal = np.sum(kernels[..., 4] * (x**2 - y**2) / 2)
        np.testing.assert_allclose(off_diagonal, diagonal, rtol=1e-12)


def test_weights_mean_the_same_in_a_second_layer():
    first, second = (
        MultipoleConv3D(2, 5, (0, 2, 3), share_orders=True, isotropic=True) for _ in range(2)
    )
    for layer in (first, second):
        layer.build((None, None, None, None, 1))
    second.set_weights(first.get_weights())
    np.testing.assert_array_equal(first.kernel, second.kernel)


@pytest.mark.parametrize("method", ["dense", "shells"])
def test_methods_and_responses_agree(method):
    layer = MultipoleConv3D(
        2, 5, (0, 2, 3), True, padding="periodic", isotropic=True, method=method, dtype="float64"
    )
    inputs = np.random.default_rng(1).normal(size=(1, 6, 5, 7, 2))
    outputs = layer(inputs)
    other = MultipoleConv3D.from_config({**layer.get_config(), "method": "dense"})
    other.build(inputs.shape)
    other.set_weights(layer.get_weights())
    np.testing.assert_allclose(outputs, other(inputs), atol=1e-12)
    np.testing.assert_allclose(layer.contract(layer.shell_responses(inputs)), outputs, atol=1e-12)


def test_impossible_requests_are_refused():
    with pytest.raises(ValueError, match="`isotropic`. Expected False where `share_orders` is Fal"):
        MultipoleConv3D(1, 3, (2,), isotropic=True)
    with pytest.raises(ValueError, match="`kernel_size`. Expected extents with isotropic l = 3"):
        MultipoleConv3D(1, 3, (0, 3), share_orders=True, isotropic=True)
