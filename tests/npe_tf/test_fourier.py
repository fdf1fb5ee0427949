import numpy as np
import pytest
import tensorflow as tf

from npe_tf.fourier import irfft3d, pad_modes, rfft3d
from npe_tf.grid import Grid


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
