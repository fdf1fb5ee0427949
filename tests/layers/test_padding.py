import numpy as np
import pytest
import tensorflow as tf

from layers import PeriodicPadding3D
from layers.padding import crop, embed


@pytest.mark.parametrize(
    ("padding", "pads"),
    [
        (1, ((1, 1), (1, 1), (1, 1))),
        (0, ((0, 0), (0, 0), (0, 0))),
        ((0, 1, 2), ((0, 0), (1, 1), (2, 2))),
        (((1, 0), (0, 3), (2, 1)), ((1, 0), (0, 3), (2, 1))),
        # wider than the mesh, which is repeated
        ((7, 8, 11), ((7, 7), (8, 8), (11, 11))),
    ],
)
@pytest.mark.parametrize("known", [True, False])
def test_against_wrapped_indices(padding, pads, known):
    inputs = np.arange(2 * 3 * 4 * 5 * 2.0).reshape(2, 3, 4, 5, 2)
    layer = PeriodicPadding3D(padding, dtype="float64")
    shape = inputs.shape if known else (None,) * 5
    function = tf.function(layer, input_signature=[tf.TensorSpec(shape, tf.float64)])
    outputs = function(inputs).numpy()
    assert outputs.shape == layer.compute_output_shape(inputs.shape)
    for b, i, j, k, c in np.ndindex(outputs.shape):
        cell = [
            (n - before) % size
            for n, (before, _), size in zip((i, j, k), pads, inputs.shape[1:4], strict=True)
        ]
        assert outputs[b, i, j, k, c] == inputs[(b, *cell, c)]


def test_unknown_sizes_stay_unknown():
    layer = PeriodicPadding3D((1, 2, (3, 4)))
    assert layer.compute_output_shape((None, 4, None, 5, 1)) == (None, 6, None, 12, 1)


@pytest.mark.parametrize(
    "padding", [-1, 1.0, True, "1", None, (1, 2), (1, 2, -3), ((1, 2, 3), 1, 1), ((1, 0.5), 1, 1)]
)
def test_invalid_padding(padding):
    with pytest.raises(ValueError, match="argument `padding`. Expected a non-negative .*padding="):
        PeriodicPadding3D(padding)


def test_invalid_format_and_inputs():
    with pytest.raises(ValueError, match="`data_format`. Expected one of .*'channels_first'"):
        PeriodicPadding3D(1, data_format="channels_first")
    with pytest.raises(ValueError, match="`input_shape`. Expected .batch, D, H, W, channels."):
        PeriodicPadding3D(1).compute_output_shape((4, 4, 4, 1))
    with pytest.raises(ValueError, match="expected ndim=5"):
        PeriodicPadding3D(1)(np.zeros((4, 4, 4, 1)))


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize(
    ("function", "explicit"),
    [
        (crop, lambda x: x[:, 1:-2, 1:-2, 1:-2]),
        (embed, lambda x: np.pad(x, [(0, 0), (1, 2), (1, 2), (1, 2), (0, 0)])),
    ],
)
def test_crop_and_embed_to_the_third_derivative(function, explicit, jit_compile):
    x = tf.constant(np.random.default_rng(1).normal(size=(2, 4, 5, 6, 1)))
    np.testing.assert_array_equal(function(x, 1, 2), explicit(x.numpy()))

    @tf.function(jit_compile=jit_compile)
    def third(x):
        with tf.GradientTape() as a:
            a.watch(x)
            with tf.GradientTape() as b:
                b.watch(x)
                with tf.GradientTape() as c:
                    c.watch(x)
                    value = function(x, 1, 2) ** 4
                first = c.gradient(value, x)
            second = b.gradient(first, x)
        return a.gradient(second, x)

    kept = np.zeros(x.shape)
    if function is crop:
        kept[:, 1:-2, 1:-2, 1:-2] = 1.0
    else:
        kept[:] = 1.0
    np.testing.assert_allclose(third(x), 24.0 * x * kept, rtol=1e-13)
