import itertools

import numpy as np
import pytest
import tensorflow as tf

from npe_tf.cosmology import Cosmology
from npe_tf.fourier import (
    irfft3d,
    pad_modes,
    resample,
    resample_white_noise,
    rfft3d,
    truncate,
)
from npe_tf.grid import Grid
from npe_tf.initial_field import InitialField


@pytest.fixture
def rng():
    return np.random.default_rng(1)


def test_transforms_equal_numpy(rng):
    field = rng.standard_normal((2, 6, 6, 6))
    modes = rfft3d(field).numpy()
    np.testing.assert_allclose(modes, np.fft.rfftn(field, axes=(1, 2, 3)), atol=1e-12)
    np.testing.assert_allclose(irfft3d(modes).numpy(), field, atol=1e-13)


def test_inverse_transform_ignores_what_no_real_field_has(rng):
    modes = rng.standard_normal((6, 6, 4)) + 1j * rng.standard_normal((6, 6, 4))
    full = np.fft.ifftn(modes, axes=(0, 1))
    expected = np.fft.irfft(full, n=6, axis=2)
    np.testing.assert_allclose(irfft3d(modes).numpy(), expected, atol=1e-13)


@pytest.mark.parametrize("order", [1, 2])
def test_gradients_of_any_order(rng, order):
    """d^n/de^n of sum((irfft(A rfft(x + e v)))^3) against its polynomial in e."""
    x, v = rng.standard_normal((2, 4, 4, 4))
    amplitude = rng.standard_normal((4, 4, 3)) + 1j * rng.standard_normal((4, 4, 3))

    def smooth(field):
        return irfft3d(rfft3d(field) * amplitude)

    def value(e):
        return tf.reduce_sum(smooth(x + e * v) ** 3)

    e = tf.constant(0.0, tf.float64)
    with tf.GradientTape() as outer:
        outer.watch(e)
        with tf.GradientTape() as inner:
            inner.watch(e)
            y = value(e)
        first = inner.gradient(y, e)
    second = outer.gradient(first, e)
    a, b = smooth(x).numpy(), smooth(v).numpy()
    expected = {1: 3 * np.sum(a**2 * b), 2: 6 * np.sum(a * b**2)}[order]
    np.testing.assert_allclose({1: first, 2: second}[order].numpy(), expected, rtol=1e-10)


def test_gradient_with_respect_to_modes(rng):
    modes = tf.constant(rng.standard_normal((4, 4, 3)) + 1j * rng.standard_normal((4, 4, 3)))
    direction = rng.standard_normal((4, 4, 3)) + 1j * rng.standard_normal((4, 4, 3))
    weight = rng.standard_normal((4, 4, 4))
    with tf.GradientTape() as tape:
        tape.watch(modes)
        y = tf.reduce_sum(weight * irfft3d(modes))
    gradient = tape.gradient(y, modes).numpy()
    expected = np.sum(weight * irfft3d(direction).numpy())
    np.testing.assert_allclose(np.sum((np.conj(gradient) * direction).real), expected, rtol=1e-10)


def test_pad_modes_interpolates(rng):
    grid = Grid(6, 1.0)
    modes = np.fft.rfftn(rng.standard_normal(grid.shape)) * grid.alive
    coarse = irfft3d(modes).numpy()
    fine = irfft3d(pad_modes(tf.constant(modes), grid, 3)).numpy()
    np.testing.assert_allclose(fine[::3, ::3, ::3], coarse, atol=1e-12)
    # and has no power beyond the coarse mesh's Nyquist frequency
    spectrum = np.fft.rfftn(fine)
    frequency = np.abs(np.fft.fftfreq(18) * 18)
    beyond = (frequency[:, None, None] >= 3) | (frequency[None, :, None] >= 3)
    np.testing.assert_allclose((spectrum * beyond)[..., :], 0.0, atol=1e-10)


@pytest.mark.parametrize(("fine", "coarse"), [(12, 6), (12, 8), (10, 4)])
def test_resampling_keeps_the_shared_modes(rng, fine, coarse):
    field = rng.standard_normal((2, fine, fine, fine))
    down = resample(field, coarse)
    full, kept = (np.fft.fftn(x, axes=(1, 2, 3)) / x[0].size for x in (field, down))
    for f in itertools.product(range(-coarse // 2, coarse // 2), repeat=3):
        empty = -coarse // 2 in f
        expected = 0.0 if empty else full[(slice(None), *f)]
        np.testing.assert_allclose(kept[(slice(None), *f)], expected, atol=1e-13)
    np.testing.assert_allclose(resample(resample(down, fine), coarse), down, atol=1e-13)
    np.testing.assert_array_equal(truncate(field, coarse), down)


@pytest.mark.parametrize("factor", [2, 3])
def test_resampling_to_a_finer_mesh_interpolates(rng, factor):
    """Values stay at shared vertices, Nyquist planes included; no new modes appear."""
    field = rng.standard_normal((6, 6, 6))
    fine = resample(field, 6 * factor)
    np.testing.assert_allclose(fine[::factor, ::factor, ::factor], field, atol=1e-13)
    frequency = np.abs(np.fft.fftfreq(6 * factor) * 6 * factor)
    beyond = np.maximum.outer(np.maximum.outer(frequency, frequency), frequency) > 3
    np.testing.assert_allclose(np.fft.fftn(fine)[beyond], 0.0, atol=1e-10)


def test_resampling_of_a_plane_wave():
    """Between meshes of which neither divides the other."""

    def wave(num_cells):
        x, y, z = np.meshgrid(*[2 * np.pi * np.arange(num_cells) / num_cells] * 3, indexing="ij")
        return np.cos(2 * x - y + z + 0.3) + 0.5

    np.testing.assert_allclose(resample(wave(8), 10), wave(10), atol=1e-13)
    np.testing.assert_allclose(resample(wave(10), 8), wave(8), atol=1e-13)
    np.testing.assert_array_equal(resample(wave(8), 8), wave(8))


@pytest.mark.parametrize(("coarse", "fine"), [(4, 6), (4, 8)])
def test_resampled_white_noise_is_exactly_white(coarse, fine):
    """The map to the coarser mesh has orthonormal rows, and the one upwards unit covariance."""
    basis = np.eye(fine**3).reshape(-1, fine, fine, fine)
    down = resample_white_noise(basis, coarse).reshape(fine**3, coarse**3)
    np.testing.assert_allclose(down.T @ down, np.eye(coarse**3), atol=1e-12)

    zero = np.zeros((coarse, coarse, coarse))
    filled = resample_white_noise(zero, fine, seed=1).ravel()
    noise = np.random.default_rng(1).standard_normal(fine**3)
    np.testing.assert_allclose(filled, noise - down @ (down.T @ noise), atol=1e-12)
    units = np.eye(coarse**3).reshape(-1, coarse, coarse, coarse)
    up = np.stack([resample_white_noise(x, fine, seed=1).ravel() - filled for x in units])
    # covariance of u + P^T (x - P u): (1 - P^T P) + P^T P
    np.testing.assert_allclose(up, down.T, atol=1e-12)


def test_white_noise_survives_the_finer_mesh(rng):
    x = rng.standard_normal((2, 8, 8, 8))
    fine = resample_white_noise(x, 12, seed=3)
    np.testing.assert_allclose(resample_white_noise(fine, 8), x, atol=1e-12)
    assert np.array_equal(fine, resample_white_noise(x, 12, seed=3))
    assert not np.allclose(fine, resample_white_noise(x, 12, seed=4))
    # two fields of one call are filled with different noise
    both = resample_white_noise(np.zeros((2, 8, 8, 8)), 12, seed=3)
    assert abs(np.corrcoef(both.reshape(2, -1))[0, 1]) < 0.15
    np.testing.assert_array_equal(resample_white_noise(x, 8), x)


def test_resampled_white_noise_has_unit_variance_in_every_mode(rng):
    """Chi-squared of many draws, plane by plane, Nyquist planes among them."""
    draws = rng.standard_normal((400, 4, 4, 4))
    fine = resample_white_noise(draws, 8, seed=5)
    power = np.abs(np.fft.fftn(fine, axes=(1, 2, 3))) ** 2 / 8**3
    assert abs(fine.mean()) < 4 / np.sqrt(fine.size)
    # of at least 400 exponentials or squares of a normal
    assert np.all(np.abs(power.mean(axis=0) - 1) < 5.5 * np.sqrt(2 / 400))
    assert np.std(power.mean(axis=0)) > 0.5 * np.sqrt(1 / 400)


@pytest.mark.parametrize(("before", "after"), [(8, 12), (12, 8)])
def test_initial_fields_of_both_meshes_have_the_same_large_scales(rng, before, after):
    x = rng.standard_normal((before,) * 3)
    y = resample_white_noise(x, after, seed=7)
    first, second = (
        InitialField(Grid(n, 100.0), Cosmology())(noise).numpy()
        for n, noise in ((before, x), (after, y))
    )
    coarse = min(before, after)
    np.testing.assert_allclose(resample(first, coarse), resample(second, coarse), atol=1e-12)
    assert np.std(resample(first, coarse)) > 0.1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: resample(x[0], 8), "`field`.*shape"),
        (lambda x: resample(x[..., :3, :3, :3], 8), "`field`.*even"),
        (lambda x: resample(x, 7), "`num_cells`.*num_cells=7"),
        (lambda x: resample(x, 0), "`num_cells`"),
        (lambda x: truncate(x, 8), "`num_cells`.*up to 6"),
        (lambda x: resample_white_noise(x, 8), "`seed`.*seed=None"),
        (lambda x: resample_white_noise(x[:4], 8, 1), "`white_noise`"),
    ],
)
def test_bad_resampling_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(np.zeros((6, 6, 6)))
