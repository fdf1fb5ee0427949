import math
from itertools import permutations, product

import keras
import numpy as np
import pytest
import tensorflow as tf

from layers import MultipoleConv3D
from tests.layers import reference

PADDINGS = ["valid", "same", "periodic"]
METHODS = ["dense", "shells"]


def normal(shape, seed=0, dtype="float64"):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def built(channels, *args, **kwargs):
    """A float64 layer with random weights."""
    layer = MultipoleConv3D(*args, **{"dtype": "float64", **kwargs})
    layer.build((None, None, None, None, channels))
    layer.set_weights([normal(w.shape, seed=3) for w in layer.weights])
    return layer


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize(
    ("channels", "filters", "kernel_size", "mesh"),
    [(1, 1, 3, (4, 3, 5)), (2, 3, 3, (3, 4, 3)), (1, 2, 5, (5, 6, 5)), (1, 1, 1, (2, 3, 4))],
)
def test_against_loops(channels, filters, kernel_size, mesh, padding, method):
    layer = built(channels, filters, kernel_size, padding=padding, method=method)
    inputs = normal((2, *mesh, channels))
    expected = reference.multipole_conv(
        inputs, *(np.asarray(w) for w in layer.get_weights()), kernel_size, padding
    )
    np.testing.assert_allclose(layer(inputs), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("padding", ["same", "periodic"])
@pytest.mark.parametrize("mesh", [(1, 2, 3), (2, 2, 2)])
def test_meshes_smaller_than_the_kernel(mesh, padding, method):
    layer = built(1, 1, 7, padding=padding, method=method)
    inputs = normal((1, *mesh, 1))
    expected = reference.multipole_conv(inputs, *layer.get_weights(), 7, padding)
    np.testing.assert_allclose(layer(inputs), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize(("channels", "filters"), [(1, 1), (2, 3), (1, 4), (3, 1)])
def test_methods_agree_in_value_and_gradients(channels, filters, padding):
    inputs = tf.constant(normal((2, 6, 5, 7, channels)))
    results = []
    for method in METHODS:
        layer = built(channels, filters, 3, padding=padding, method=method)
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            total = tf.reduce_sum(tf.sin(layer(inputs)))
        gradients = tape.gradient(total, [inputs, *(w.value for w in layer.weights)])
        results.append([total, *gradients])
    for dense, shells in zip(*results, strict=True):
        np.testing.assert_allclose(dense, shells, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("channels", "filters", "kernel_size"), [(1, 1, 3), (2, 3, 5)])
def test_contracted_responses_are_the_output(channels, filters, kernel_size, padding, method):
    layer = built(
        channels, filters, kernel_size, padding=padding, method=method, activation="softplus"
    )
    inputs = normal((2, 6, 5, 7, channels))
    responses = layer.shell_responses(inputs)
    assert responses.shape[-1] == layer.num_weights * channels
    np.testing.assert_allclose(layer.contract(responses), layer(inputs), rtol=1e-11, atol=1e-13)


def test_responses_do_not_depend_on_the_weights():
    layer = built(2, 3, 3, padding="periodic")
    inputs = normal((1, 4, 4, 4, 2))
    before = layer.shell_responses(inputs)
    layer.set_weights([7.0 + normal(w.shape) for w in layer.weights])
    np.testing.assert_array_equal(layer.shell_responses(inputs), before)


def test_cached_responses_serve_other_weights():
    layer = built(2, 3, 3, padding="periodic", activation="softplus")
    inputs = normal((1, 4, 4, 4, 2))
    responses = layer.shell_responses(inputs)
    others = [tf.constant(normal(w.shape, seed=8)) for w in layer.weights]
    with keras.StatelessScope(list(zip(layer.weights, others, strict=True))):
        from_cache = layer.contract(responses)
    direct, _ = layer.stateless_call(others, [], inputs)
    assert not np.allclose(direct, layer(inputs))
    np.testing.assert_allclose(from_cache, direct, rtol=1e-12)


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_responses_are_in_the_compute_dtype(policy):
    layer = MultipoleConv3D(1, 3, dtype=policy)
    inputs = normal((1, 4, 4, 4, 1))
    layer.build(inputs.shape)
    responses = layer.shell_responses(inputs)
    assert responses.dtype == layer.contract(responses).dtype == layer.compute_dtype


def test_the_dense_kernel():
    layer = built(2, 3, 5)
    weights = layer.get_weights()[0]
    numbers = reference.shell_numbers(5)
    assert layer.kernel.shape == (5, 5, 5, 2, 3)
    for cell in np.ndindex(5, 5, 5):
        expected = weights[numbers[cell]] / (2 * math.sqrt(math.pi))
        np.testing.assert_allclose(layer.kernel[cell], expected, rtol=1e-15)


@pytest.mark.parametrize("padding", ["valid", "same"])
def test_agrees_with_keras_own_convolution(padding):
    layer = built(2, 3, 3, padding=padding, activation="tanh")
    dense = keras.layers.Conv3D(3, 3, padding=padding, activation="tanh", dtype="float64")
    dense.build((None, None, None, None, 2))
    dense.set_weights([layer.kernel, layer.get_weights()[1]])
    inputs = normal((2, 4, 5, 4, 2))
    np.testing.assert_allclose(layer(inputs), dense(inputs), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_commutes_with_the_48_symmetries_of_the_cube(method):
    layer = built(1, 1, 3, padding="periodic", method=method)
    inputs = normal((1, 5, 5, 5, 1))
    outputs = layer(inputs).numpy()
    symmetries = 0
    for order in permutations((1, 2, 3)):
        for flips in product((1, -1), repeat=3):

            def turn(mesh, order=order, flips=flips):
                turned = np.transpose(mesh, (0, *order, 4))
                return turned[:, :: flips[0], :: flips[1], :: flips[2]]

            np.testing.assert_allclose(layer(turn(inputs)), turn(outputs), atol=1e-13)
            symmetries += 1
    assert symmetries == 48


def test_commutes_with_periodic_translations():
    layer = built(1, 1, 3, padding="periodic")
    inputs = normal((1, 5, 4, 6, 1))
    rolled = layer(np.roll(inputs, (2, 3, -1), (1, 2, 3)))
    np.testing.assert_allclose(
        rolled, np.roll(layer(inputs), (2, 3, -1), (1, 2, 3)), rtol=1e-12, atol=1e-13
    )


def test_its_own_adjoint_on_a_periodic_mesh():
    layer = built(1, 1, 3, padding="periodic", use_bias=False)
    a, b = normal((1, 5, 4, 6, 1), 1), normal((1, 5, 4, 6, 1), 2)
    np.testing.assert_allclose(np.sum(a * layer(b)), np.sum(b * layer(a)), rtol=1e-12)


@pytest.mark.parametrize("initializer", ["glorot_uniform", "he_normal"])
@pytest.mark.parametrize("kernel_size", [3, 5])
def test_output_variance_is_that_of_a_dense_convolution(initializer, kernel_size):
    channels, filters = 16, 400
    # for white noise the expected output variance is the sum of the squared kernel
    variances = []
    for layer in (
        MultipoleConv3D(filters, kernel_size, kernel_initializer=initializer),
        keras.layers.Conv3D(filters, kernel_size, kernel_initializer=initializer),
    ):
        keras.utils.set_random_seed(5)
        layer.build((None, None, None, None, channels))
        variances.append(np.square(layer.kernel).sum((0, 1, 2, 3)).mean())
    # 4 shells x 16 channels x 400 filters draws of unequal worth: about 1% of scatter
    np.testing.assert_allclose(variances[0], variances[1], rtol=0.05)


def test_a_constant_initializer_is_of_the_dense_kernel():
    layer = MultipoleConv3D(2, 3, kernel_initializer="ones", dtype="float64")
    layer.build((None, 4, 4, 4, 3))
    np.testing.assert_allclose(layer.kernel, np.ones((3, 3, 3, 3, 2)), rtol=1e-14)


def test_auto_takes_shells_for_one_channel_and_one_filter_only():
    inputs = normal((1, 4, 4, 4, 1), dtype="float32")
    for filters, convolves in ((1, False), (2, True)):
        layer = MultipoleConv3D(filters, 3)
        graph = tf.function(layer).get_concrete_function(tf.constant(inputs)).graph
        kinds = {operation.type for operation in graph.get_operations()}
        assert ("Conv3D" in kinds) == convolves
        assert ("Roll" in kinds) != convolves


def test_regularizers_and_constraints_reach_the_weights():
    layer = MultipoleConv3D(
        1,
        3,
        kernel_regularizer=keras.regularizers.L2(2.0),
        bias_regularizer=keras.regularizers.L1(3.0),
        kernel_constraint="non_neg",
        bias_constraint="unit_norm",
        bias_initializer="ones",
    )
    layer.build((None, 4, 4, 4, 1))
    weights = layer.kernel_weights.numpy()
    np.testing.assert_allclose(sum(layer.losses), 2.0 * np.square(weights).sum() + 3.0, rtol=1e-6)
    assert isinstance(layer.kernel_weights.constraint, keras.constraints.NonNeg)
    assert isinstance(layer.bias.constraint, keras.constraints.UnitNorm)


def test_without_bias_there_is_one_weight():
    layer = MultipoleConv3D(1, 3, use_bias=False)
    layer.build((None, 4, 4, 4, 1))
    assert [w.name for w in layer.weights] == ["kernel_weights"]
    assert layer.kernel_weights.shape == (4, 1, 1)


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("method", METHODS)
def test_a_mesh_of_unknown_size(padding, method):
    layer = built(1, 1, 3, padding=padding, method=method)
    signature = [tf.TensorSpec([None, None, None, None, 1], tf.float64)]
    function = tf.function(layer, input_signature=signature)
    inputs = normal((2, 4, 3, 5, 1))
    np.testing.assert_allclose(function(inputs), layer(inputs), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"filters": -1}, "`filters`. Expected a strictly positive integer. Received: filters=-1"),
        ({"filters": 2.0}, "`filters`. Expected a strictly positive integer. Received: filters=2"),
        ({"filters": True}, "`filters`. Expected a strictly positive integer"),
        ({"kernel_size": 4}, "`kernel_size`. Expected an odd integer, .* kernel_size=4"),
        ({"kernel_size": 0}, "`kernel_size`. Expected a strictly positive integer"),
        ({"kernel_size": (3, 3, 5)}, "`kernel_size`. Expected an odd integer, or three equal ones"),
        ({"kernel_size": (3, 3)}, "`kernel_size`. Expected an odd integer, or three equal ones"),
        ({"kernel_size": ()}, "`kernel_size`. Expected an odd integer, or three equal ones"),
        ({"multipoles": (0, 1)}, r"`multipoles`. Expected distinct orders .* multipoles=\(0, 1\)"),
        ({"multipoles": (0, 0)}, "`multipoles`. Expected distinct orders"),
        ({"multipoles": ()}, "`multipoles`. Expected distinct orders"),
        ({"multipoles": 0}, "`multipoles`. Expected distinct orders .* Received: multipoles=0"),
        ({"strides": 2}, "`strides`. Expected 1; others are not implemented. Received: strides=2"),
        ({"strides": (1, 1, 2)}, "`strides`. Expected 1"),
        ({"padding": "causal"}, "`padding`. Expected one of .* Received: padding='causal'"),
        ({"data_format": "channels_first"}, "`data_format`. Expected one of .*'channels_first'"),
        ({"method": "fast"}, "`method`. Expected one of .* Received: method='fast'"),
    ],
)
def test_invalid_arguments(arguments, message):
    with pytest.raises(ValueError, match=f"Invalid value for argument {message}"):
        MultipoleConv3D(**{"filters": 1, "kernel_size": 3, **arguments})


def test_three_equal_sizes_and_strides_are_accepted():
    config = MultipoleConv3D(1, (3, 3, 3), strides=(1, 1, 1)).get_config()
    assert (config["kernel_size"], config["strides"]) == (3, 1)


def test_invalid_inputs():
    with pytest.raises(ValueError, match="argument `input_shape`. Expected a known number of chan"):
        MultipoleConv3D(1, 3).build((None, 4, 4, 4, None))
    with pytest.raises(ValueError, match=r"argument `input_shape`. Expected \(batch, D, H, W, ch"):
        MultipoleConv3D(1, 3).compute_output_shape((4, 4, 4, 1))
    layer = MultipoleConv3D(1, 3)
    small = np.zeros((1, 4, 2, 4, 1), "float32")
    message = "Expected at least 3 cells along each axis .* Received: inputs.shape="
    with pytest.raises(ValueError, match=message):
        layer.compute_output_shape(small.shape)
    layer.build(small.shape)
    with pytest.raises(ValueError, match=message):
        layer.call(tf.constant(small))
    with pytest.raises(ValueError, match=message):
        layer.shell_responses(small)
    with pytest.raises(ValueError, match="`responses`. Expected 4 values along the last axis"):
        layer.contract(np.zeros((2, 5)))
    with pytest.raises(ValueError, match="expected ndim=5"):
        layer(np.zeros((4, 4, 4, 1), "float32"))
    with pytest.raises(ValueError, match="expected axis -1"):
        layer(np.zeros((1, 4, 4, 4, 2), "float32"))
