"""Hats: against their definition, and as an interpolation."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import integrate

from layers import HatComponents, mixtures
from layers.components import ComponentFamily

THRESHOLD = 2.0
FAMILY = HatComponents()


def constants(*values, dtype=tf.float64):
    return [tf.constant(value, dtype) for value in values]


@pytest.mark.parametrize(("mean", "scale"), [(2.0, 0.25), (4.0, 1.5), (30.0, 0.01)])
def test_density_and_its_integral(mean, scale):
    x = mean + scale * np.array([-1.5, -1.0, -0.7, -0.2, 0.0, 0.4, 0.9, 1.0, 3.0])
    height = np.maximum(1.0 - np.abs(x - mean) / scale, 0.0) / scale
    arguments = constants(mean, scale, THRESHOLD)
    found = np.exp(FAMILY.log_density(tf.constant(x), *arguments))
    np.testing.assert_allclose(found, height, rtol=1e-9, atol=1e-25)
    for low in x:
        fine = np.linspace(max(low, mean - scale), max(mean + scale, low), 4001)
        density = np.maximum(1.0 - np.abs(fine - mean) / scale, 0.0) / scale
        area = integrate.simpson(density, x=fine)
        # the kink costs Simpson's rule some digits
        survival = FAMILY.log_survival(*constants(low), *arguments)
        np.testing.assert_allclose(np.exp(survival), area, rtol=1e-6, atol=1e-25)
        scaled = FAMILY.integral(*constants(-1.5, low), *arguments)
        np.testing.assert_allclose(scaled, np.exp(-1.5) * area, rtol=1e-6, atol=1e-25)


def test_a_mixture_of_hats_is_a_linear_interpolation():
    vertices = THRESHOLD + 0.5 * np.arange(8)
    values = np.exp(np.random.default_rng(0).standard_normal(8))
    numbers = (np.log(values * 0.5), vertices, np.full(8, 0.5))
    x = np.random.default_rng(1).uniform(THRESHOLD, vertices[-1], 50)
    low = constants(THRESHOLD)[0]
    log_amplitude, mean, scale = (np.broadcast_to(n, (50, 8)) for n in numbers)
    found = mixtures.log_intensity(log_amplitude, mean, scale, x, FAMILY, low)
    np.testing.assert_allclose(np.exp(found), np.interp(x, vertices, values), rtol=1e-10)
    beyond = np.append(vertices, vertices[-1] + 0.5)
    total = mixtures.integral(*(tf.constant(n) for n in numbers), FAMILY, low)
    np.testing.assert_allclose(total, np.trapezoid(np.append(values, 0.0), beyond), rtol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_inverse_of_the_survival(dtype):
    area = np.array([1e-4, 0.1, 0.4999, 0.5, 0.51, 0.999])
    arguments = constants(4.0, 0.5, THRESHOLD, dtype=dtype)
    x = FAMILY.inverse_log_survival(tf.constant(np.log(area), dtype), *arguments)
    found = np.exp(FAMILY.log_survival(x, *arguments))
    np.testing.assert_allclose(found, area, rtol=1e-12 if dtype == "float64" else 1e-2)
    # as the bisection of the base class has it
    slow = ComponentFamily.inverse_log_survival(
        FAMILY, tf.constant(np.log(area), dtype), *arguments
    )
    np.testing.assert_allclose(x, slow, atol=1e-12 if dtype == "float64" else 1e-4)


def test_no_sample_is_below_the_threshold():
    arguments = constants(THRESHOLD, 0.5, THRESHOLD)
    x = FAMILY.inverse_log_survival(*constants(np.log([0.3, 0.5, 0.8])), *arguments)
    assert np.all(x >= THRESHOLD)
    assert x[0] > THRESHOLD


def test_gradients_are_finite_far_from_the_hat():
    x = tf.constant([-100.0, 3.0, 4.0, 4.5, 5.0, 100.0])
    mean, scale, low = constants(4.0, 0.5, THRESHOLD, dtype=tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = tf.reduce_sum(FAMILY.log_density(x, mean, scale, low))
        value += tf.reduce_sum(FAMILY.log_survival(x, mean, scale, low))
    assert np.all(np.isfinite(tape.gradient(value, x)))


def test_keras_keeps_the_family():
    config = keras.saving.serialize_keras_object(FAMILY)
    assert keras.saving.deserialize_keras_object(config) == FAMILY
