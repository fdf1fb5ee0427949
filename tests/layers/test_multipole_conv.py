import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from layers import (
    MultipoleConv,
    MultipoleConv1D,
    MultipoleConv2D,
    MultipoleConv3D,
    multipole_basis,
)
from tests.layers import reference
from tests.layers.symmetries import lattice_symmetries, mix_maps, turn, wigner

LAYERS = {1: MultipoleConv1D, 2: MultipoleConv2D, 3: MultipoleConv3D}
KERAS = {1: keras.layers.Conv1D, 2: keras.layers.Conv2D, 3: keras.layers.Conv3D}
PADDINGS = ["valid", "same", "periodic"]
METHODS = ["dense", "shells"]

# (mesh, channels, filters, kernel_size, multipoles, dilation_rate)
CONFIGURATIONS = {
    "1d": ((7,), 1, 1, (3,), (0, 1), (1,)),
    "1d_channels": ((6,), 2, 3, (5,), (0, 1), (1,)),
    "1d_even": ((6,), 1, (2, 1), (4,), (1, 0), (1,)),
    "1d_two_cells": ((5,), 2, 1, (2,), (0, 1), (1,)),
    "1d_dilated": ((11,), 2, 2, (4,), (0, 1), (3,)),
    "2d": ((5, 6), 1, 1, (3, 3), (0, 1, 2), (1, 1)),
    "2d_channels": ((6, 5), 2, 2, (5, 5), (0, 3), (1, 1)),
    "2d_even": ((4, 5), 1, 1, (2, 4), (0, 1, 2), (1, 1)),
    "2d_mixed": ((5, 6), 2, (1, 3), (2, 3), (1, 0), (1, 1)),
    "2d_dilated": ((7, 6), 1, 2, (3, 2), (0, 1), (1, 3)),
    "2d_row": ((3, 5), 1, 1, (1, 3), (0, 1), (1, 1)),
    "2d_row_channels": ((3, 5), 2, 2, (1, 3), (1,), (1, 1)),
    "3d_cell": ((2, 3, 4), 2, 2, (1, 1, 1), (0,), (1, 1, 1)),
    "3d": ((4, 3, 5), 1, 1, (3, 3, 3), (0,), (1, 1, 1)),
    "3d_orders": ((3, 4, 3), 1, 1, (3, 3, 3), (0, 1, 2, 3), (1, 1, 1)),
    "3d_channels": ((3, 4, 3), 2, (1, 2, 1), (3, 3, 3), (1, 0, 2), (1, 1, 1)),
    "3d_wide": ((5, 6, 5), 1, 2, (5, 5, 5), (0, 2), (1, 1, 1)),
    "3d_even": ((3, 2, 4), 1, 1, (2, 2, 2), (0, 1, 2), (1, 1, 1)),
    "3d_mixed": ((3, 5, 4), 2, 1, (2, 3, 4), (0, 1), (1, 1, 1)),
    "3d_dilated": ((5, 4, 3), 1, 1, (3, 2, 3), (0, 2), (2, 3, 1)),
    "3d_flat": ((4, 3, 2), 1, 1, (3, 3, 1), (1,), (1, 1, 1)),
    "3d_flat_channels": ((4, 3, 2), 2, 2, (3, 3, 1), (0, 1), (1, 1, 1)),
}
SOME = [CONFIGURATIONS[name] for name in ("1d_dilated", "2d_mixed", "3d_orders", "3d_channels")]

configurations = pytest.mark.parametrize(
    "configuration", CONFIGURATIONS.values(), ids=CONFIGURATIONS.keys()
)
some_configurations = pytest.mark.parametrize("configuration", SOME)


def normal(shape, seed=0, dtype="float64"):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def built(num_axes, channels, *args, **kwargs):
    """A float64 layer with random weights."""
    layer = LAYERS[num_axes](*args, **{"dtype": "float64", **kwargs})
    first = kwargs.get("data_format") == "channels_first"
    mesh = (None,) * num_axes
    layer.build((None, channels, *mesh) if first else (None, *mesh, channels))
    layer.set_weights([normal(w.shape, seed) for seed, w in enumerate(layer.weights, start=3)])
    return layer


def make(configuration, **kwargs):
    """Layer and inputs of a configuration."""
    mesh, channels, filters, kernel_size, multipoles, dilation_rate = configuration
    layer = built(
        len(mesh),
        channels,
        filters,
        kernel_size,
        multipoles,
        dilation_rate=dilation_rate,
        **kwargs,
    )
    return layer, normal((2, *mesh, channels))


def expected_maps(layer, inputs):
    """What a layer without activation should return, by loops; channels last."""
    kernel = reference.dense_kernel(
        [w.numpy() for w in layer.kernel_weights],
        layer.kernel_size,
        layer.multipoles,
        layer.dilation_rate,
        layer.share_orders,
    )
    maps = reference.convolution(inputs, kernel, layer.strides, layer.dilation_rate, layer.padding)
    if layer.bias is None:
        return maps
    bias, first, used = np.zeros(layer.num_maps), 0, 0
    filters = layer.filters
    filters = filters if isinstance(filters, tuple) else (filters,) * len(layer.multipoles)
    for order, count in zip(layer.multipoles, filters, strict=True):
        size = count * len(reference.harmonics([1] * len(layer.kernel_size), order))
        if order == 0 or not layer.share_orders:
            bias[first : first + size] = layer.bias.numpy()[used : used + size]
            used += size
        first += size
    assert used == layer.bias.shape[0] and first == layer.num_maps
    return maps + bias


@pytest.mark.parametrize("share_orders", [False, True])
@pytest.mark.parametrize("padding", PADDINGS)
@configurations
def test_against_loops(configuration, padding, share_orders):
    layers = []
    for method in METHODS:
        layer, inputs = make(
            configuration, padding=padding, share_orders=share_orders, method=method
        )
        layers.append(layer)
    expected = expected_maps(layers[0], inputs)
    outputs = {
        "dense": layers[0](inputs),
        "shells": layers[1](inputs),
        "responses": layers[0].contract(layers[0].shell_responses(inputs)),
    }
    for name, output in outputs.items():
        assert output.shape == layers[0].compute_output_shape(inputs.shape), name
        np.testing.assert_allclose(output, expected, rtol=1e-12, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("share_orders", [False, True])
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize(
    ("mesh", "kernel_size", "multipoles", "strides"),
    [
        ((9,), (4,), (0, 1), (3,)),
        ((8,), (3,), (1,), (2,)),
        ((7, 6), (3, 3), (0, 2), (2, 2)),
        ((7, 8), (2, 3), (1, 0), (3, 2)),
        ((5, 6, 4), (3, 3, 3), (0, 1), (2, 2, 2)),
        ((4, 5, 7), (2, 3, 4), (0, 2), (1, 2, 3)),
    ],
)
@pytest.mark.parametrize("channels", [1, 2])
def test_strides_against_loops(
    mesh, kernel_size, multipoles, strides, padding, share_orders, channels
):
    layer = built(
        len(mesh),
        channels,
        channels,
        kernel_size,
        multipoles,
        strides=strides,
        padding=padding,
        share_orders=share_orders,
    )
    inputs = normal((2, *mesh, channels))
    outputs = layer(inputs)
    assert outputs.shape == layer.compute_output_shape(inputs.shape)
    np.testing.assert_allclose(outputs, expected_maps(layer, inputs), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("padding", ["same", "periodic"])
@pytest.mark.parametrize(
    ("mesh", "kernel_size", "dilation_rate"),
    [
        ((1, 2, 3), 7, 1),
        ((2, 2, 2), 7, 1),
        ((2, 1, 3), (4, 2, 5), (1, 3, 1)),
        ((1, 2), (5, 4), (1, 2)),
        ((2,), 5, 3),
    ],
)
def test_meshes_smaller_than_the_kernel(mesh, kernel_size, dilation_rate, padding, method):
    layer = built(
        len(mesh),
        1,
        1,
        kernel_size,
        (0, 1),
        padding=padding,
        dilation_rate=dilation_rate,
        method=method,
    )
    inputs = normal((1, *mesh, 1))
    np.testing.assert_allclose(layer(inputs), expected_maps(layer, inputs), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("share_orders", [False, True])
@some_configurations
def test_methods_agree_in_gradients(configuration, padding, share_orders):
    results = []
    for method in METHODS:
        layer, inputs = make(
            configuration, padding=padding, share_orders=share_orders, method=method
        )
        inputs = tf.constant(inputs)
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            total = tf.reduce_sum(tf.sin(layer(inputs)))
        gradients = tape.gradient(total, [inputs, *(w.value for w in layer.weights)])
        results.append([total, *gradients])
    for dense, shells in zip(*results, strict=True):
        np.testing.assert_allclose(dense, shells, rtol=1e-10, atol=1e-12)


def orders_that_exist(kernel_size):
    """Orders up to 3 that do not vanish on a kernel."""
    highest = 1 if len(kernel_size) == 1 else 3
    rates = (1,) * len(kernel_size)
    return [
        order
        for order in range(highest + 1)
        if reference.multipole_kernels(kernel_size, order, rates)
    ]


@st.composite
def anything(draw):
    """Arguments of a layer, mesh and number of channels."""
    num_axes = draw(st.integers(1, 3))

    def per_axis(highest):
        return tuple(draw(st.integers(1, highest)) for _ in range(num_axes))

    kernel_size, rates = per_axis({1: 6, 2: 4, 3: 3}[num_axes]), per_axis(2)
    padding = draw(st.sampled_from(PADDINGS))
    mesh = per_axis(4)
    if padding == "valid":
        extents = [(k - 1) * rate + 1 for k, rate in zip(kernel_size, rates, strict=True)]
        mesh = tuple(n + extent - 1 for n, extent in zip(mesh, extents, strict=True))
    multipoles = draw(
        st.lists(st.sampled_from(orders_that_exist(kernel_size)), min_size=1, unique=True)
    )
    count = st.integers(1, 2)
    share_orders = draw(st.booleans())
    arguments = {
        "filters": draw(st.one_of(count, st.tuples(*[count] * len(multipoles)))),
        "kernel_size": kernel_size,
        "multipoles": tuple(multipoles),
        "share_orders": share_orders,
        "isotropic": share_orders and draw(st.booleans()),
        "padding": padding,
        "dilation_rate": rates,
        "use_bias": draw(st.booleans()),
        "activation": draw(st.sampled_from([None, "tanh"])),
        "data_format": draw(st.sampled_from(["channels_last", "channels_first"])),
    }
    return arguments, mesh, draw(st.integers(1, 2))


@settings(max_examples=40, deadline=None)
@given(anything())
def test_all_ways_agree(drawn):
    arguments, mesh, channels = drawn
    try:
        dense, shells = (
            built(len(mesh), channels, method=method, **arguments) for method in METHODS
        )
    except ValueError as error:
        assume("Expected extents with isotropic l = " not in str(error))
        raise
    first = arguments["data_format"] == "channels_first"
    inputs = normal((2, channels, *mesh) if first else (2, *mesh, channels))
    expected = dense(inputs)
    assert expected.shape == dense.compute_output_shape(inputs.shape)
    np.testing.assert_allclose(shells(inputs), expected, rtol=1e-11, atol=1e-11)
    contracted = shells.contract(shells.shell_responses(inputs))
    np.testing.assert_allclose(contracted, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("padding", PADDINGS)
@some_configurations
def test_channels_first(configuration, padding, method):
    arguments = {"padding": padding, "method": method, "activation": "tanh"}
    last, inputs = make(configuration, **arguments)
    first, _ = make(configuration, data_format="channels_first", **arguments)
    turned = np.moveaxis(inputs, -1, 1)
    expected = np.moveaxis(last(inputs).numpy(), -1, 1)
    outputs = first(turned)
    assert outputs.shape == first.compute_output_shape(turned.shape)
    np.testing.assert_allclose(outputs, expected, rtol=1e-12, atol=1e-12)
    # responses are channels last whatever the format, what is made of them is not
    responses = first.shell_responses(turned)
    np.testing.assert_allclose(responses, last.shell_responses(inputs), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(first.contract(responses), expected, rtol=1e-11, atol=1e-12)
    some = tf.reshape(responses, (-1, responses.shape[-1]))
    np.testing.assert_allclose(first.contract(some), last.contract(some), rtol=1e-12)


def test_channels_first_with_strides():
    last = built(2, 2, 3, 3, (0, 1), strides=(2, 1))
    first = built(2, 2, 3, 3, (0, 1), strides=(2, 1), data_format="channels_first")
    inputs = normal((2, 7, 6, 2))
    outputs = first(np.moveaxis(inputs, -1, 1))
    assert outputs.shape == first.compute_output_shape((2, 2, 7, 6))
    np.testing.assert_allclose(outputs, np.moveaxis(last(inputs).numpy(), -1, 1), rtol=1e-12)


def test_the_default_format_is_the_configured_one():
    before = keras.config.image_data_format()
    try:
        keras.config.set_image_data_format("channels_first")
        layer = MultipoleConv2D(1, 3)
    finally:
        keras.config.set_image_data_format(before)
    assert layer.data_format == "channels_first"
    assert MultipoleConv2D(1, 3).data_format == before


def test_maps_come_by_order_then_filter_then_m():
    layer = built(3, 1, (1, 2, 1), 3, (1, 0, 2), padding="periodic", use_bias=False)
    inputs = normal((1, 4, 4, 4, 1))
    outputs = layer(inputs).numpy()
    assert layer.num_maps == outputs.shape[-1] == 3 + 2 + 5
    first = 0
    for order, weights in zip((1, 0, 2), layer.kernel_weights, strict=True):
        kernels = reference.multipole_kernels((3, 3, 3), order, (1, 1, 1))
        for f in range(weights.shape[2]):
            for m in range(-order, order + 1):
                kernel = sum(
                    w * kernel
                    for w, (its_m, _, kernel) in zip(weights.numpy()[:, 0, f], kernels, strict=True)
                    if its_m == m
                )
                alone = reference.convolution(
                    inputs, kernel[..., None, None], (1,) * 3, (1,) * 3, "periodic"
                )
                np.testing.assert_allclose(outputs[..., first], alone[..., 0], atol=1e-12)
                first += 1


def test_a_filter_of_several_is_a_layer_of_its_own():
    several = built(3, 2, 3, 3, (0, 1), padding="same")
    inputs = normal((1, 4, 3, 4, 2))
    outputs = several(inputs).numpy()
    for f in range(3):
        one = built(3, 2, 1, 3, (0, 1), padding="same")
        maps = [f, *(3 + 3 * f + m for m in range(3))]
        weights = [w.numpy()[:, :, f : f + 1] for w in several.kernel_weights]
        one.set_weights([*weights, several.bias.numpy()[maps]])
        np.testing.assert_allclose(one(inputs), outputs[..., maps], rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("share_orders", [False, True])
@configurations
def test_the_dense_kernel(configuration, share_orders):
    layer, _ = make(configuration, share_orders=share_orders)
    weights = [w.numpy() for w in layer.kernel_weights]
    expected = reference.dense_kernel(
        weights, layer.kernel_size, layer.multipoles, layer.dilation_rate, share_orders
    )
    assert layer.kernel.shape == (*layer.kernel_size, configuration[1], layer.num_maps)
    np.testing.assert_allclose(layer.kernel, expected, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize(
    ("num_axes", "kernel_size", "arguments"),
    [
        (1, 3, {}),
        (1, 4, {"strides": 3}),
        (1, 4, {"dilation_rate": 2}),
        (2, 3, {}),
        (2, (3, 2), {"strides": 2}),
        (2, (2, 5), {"dilation_rate": (3, 1)}),
        (3, 3, {}),
        (3, (2, 3, 4), {"strides": (2, 1, 3)}),
        (3, (3, 3, 2), {"dilation_rate": (1, 2, 3)}),
    ],
)
def test_agrees_with_keras_own_convolution(num_axes, kernel_size, arguments, padding):
    layer = built(
        num_axes, 2, 2, kernel_size, (1, 0), padding=padding, activation="tanh", **arguments
    )
    dense = KERAS[num_axes](
        layer.num_maps,
        kernel_size,
        padding=padding,
        activation="tanh",
        dtype="float64",
        **arguments,
    )
    inputs = normal((2, *(9, 6, 7)[:num_axes], 2))
    dense.build(inputs.shape)
    dense.set_weights([layer.kernel, layer.bias])
    assert layer.compute_output_shape(inputs.shape) == dense.compute_output_shape(inputs.shape)
    np.testing.assert_allclose(layer(inputs), dense(inputs), rtol=1e-12, atol=1e-12)


class TestResponses:
    @pytest.mark.parametrize("share_orders", [False, True])
    def test_one_for_each_kernel_and_channel(self, share_orders):
        layer = built(3, 2, 3, 3, (0, 2), padding="periodic", share_orders=share_orders)
        inputs = normal((1, 4, 3, 4, 2))
        responses = layer.shell_responses(inputs)
        kernels = [
            kernel
            for order in (0, 2)
            for *_, kernel in reference.multipole_kernels((3, 3, 3), order, (1, 1, 1))
        ]
        assert responses.shape == (1, 4, 3, 4, len(kernels) * 2)
        for number, kernel in enumerate(kernels):
            for c in range(2):
                expected = reference.convolution(
                    inputs[..., c : c + 1],
                    kernel[..., None, None],
                    (1,) * 3,
                    (1,) * 3,
                    "periodic",
                )
                np.testing.assert_allclose(
                    responses[..., 2 * number + c], expected[..., 0], rtol=1e-12, atol=1e-13
                )

    def test_do_not_depend_on_the_weights(self):
        layer = built(3, 2, 3, 3, (0, 1), padding="periodic")
        inputs = normal((1, 4, 4, 4, 2))
        before = layer.shell_responses(inputs)
        layer.set_weights([7.0 + normal(w.shape) for w in layer.weights])
        np.testing.assert_array_equal(layer.shell_responses(inputs), before)

    @pytest.mark.parametrize("share_orders", [False, True])
    def test_kept_ones_serve_other_weights(self, share_orders):
        layer = built(3, 2, 3, 3, (0, 1), share_orders, padding="periodic", activation="softplus")
        inputs = normal((1, 4, 4, 4, 2))
        responses = layer.shell_responses(inputs)
        others = [tf.constant(normal(w.shape, seed=8)) for w in layer.weights]
        with keras.StatelessScope(list(zip(layer.weights, others, strict=True))):
            from_kept = layer.contract(responses)
        direct, _ = layer.stateless_call(others, [], inputs)
        assert not np.allclose(direct, layer(inputs))
        np.testing.assert_allclose(from_kept, direct, rtol=1e-11, atol=1e-12)

    @pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
    def test_are_in_the_compute_dtype(self, policy):
        layer = MultipoleConv3D(1, 3, (0, 1), dtype=policy)
        inputs = normal((1, 4, 4, 4, 1))
        layer.build(inputs.shape)
        responses = layer.shell_responses(inputs)
        assert responses.dtype == layer.contract(responses).dtype == layer.compute_dtype

    def test_need_strides_of_1(self):
        layer = built(3, 1, 1, 3, strides=2)
        message = r"`strides`\. Expected 1 for `shell_responses`\. Received: strides=\(2, 2, 2\)"
        with pytest.raises(ValueError, match=message):
            layer.shell_responses(normal((1, 4, 4, 4, 1)))

    def test_wrong_number_of_them(self):
        layer = built(3, 2, 1, 3, (0, 1), share_orders=True)
        message = r"`responses`\. Expected 26 values along the last axis\. .*shape=\(2, 25\)"
        with pytest.raises(ValueError, match=message):
            layer.contract(np.zeros((2, 25)))
        assert layer.contract(np.zeros((2, 26))).shape == (2, 4)


class TestWeights:
    @pytest.mark.parametrize(
        ("multipoles", "share_orders", "num_weights", "num_maps"),
        [
            ((0,), False, [4], 1),
            ((1,), False, [9], 3),
            ((2,), False, [10], 5),
            ((3,), False, [17], 7),
            ((0,), True, [4], 1),
            ((1,), True, [3], 3),
            ((2,), True, [3], 5),
            ((3,), True, [3], 7),
            ((0, 1, 2), False, [4, 9, 10], 9),
            ((2, 0, 1), True, [3, 4, 3], 9),
        ],
    )
    def test_numbers_for_3_cubed(self, multipoles, share_orders, num_weights, num_maps):
        layer = MultipoleConv3D(2, 3, multipoles, share_orders)
        assert layer.num_weights == len(layer.labels) == sum(num_weights)
        assert layer.num_maps == 2 * num_maps
        layer.build((None, 4, 4, 4, 5))
        assert [w.shape for w in layer.kernel_weights] == [(n, 5, 2) for n in num_weights]
        num_biases = 2 * (int(0 in multipoles) if share_orders else num_maps)
        assert layer.count_params() == sum(num_weights) * 10 + num_biases
        orders = [label.multipole for label in layer.labels]
        assert orders == [
            order for order, n in zip(multipoles, num_weights, strict=True) for _ in range(n)
        ]

    @pytest.mark.parametrize(
        ("layer", "num_weights"),
        [
            (MultipoleConv1D(1, 5, (0, 1)), 5),
            (MultipoleConv2D(1, 3, (0,)), 3),
            (MultipoleConv2D(1, 3, (1,)), 4),
            (MultipoleConv2D(1, 3, (1,), True), 2),
            (MultipoleConv2D(1, 3, (2,), True), 2),
            (MultipoleConv3D(1, 5, (0,)), 10),
            (MultipoleConv3D(1, 5, (1,), True), 9),
            (MultipoleConv3D(1, 5, (2,), True), 9),
        ],
    )
    def test_other_numbers(self, layer, num_weights):
        assert layer.num_weights == num_weights

    def test_the_paper_has_five_parameters(self):
        layer = MultipoleConv3D(1, 3, activation="softplus", padding="periodic")
        layer.build((None, 8, 8, 8, 1))
        assert layer.count_params() == 5

    def test_labels(self):
        layer = MultipoleConv3D(1, 3, (0, 1))
        assert layer.labels == multipole_basis(3, (0, 1)).labels
        assert [basis.labels for basis in layer.basis] == [
            multipole_basis(3, order).labels for order in (0, 1)
        ]
        shared = MultipoleConv3D(1, 3, (0, 1), share_orders=True)
        radii = [(label.multipole, label.m, label.squared_radius) for label in shared.labels]
        assert radii == [
            (0, 0, 0),
            (0, 0, 1),
            (0, 0, 2),
            (0, 0, 3),
            (1, 0, 1),
            (1, 0, 2),
            (1, 0, 3),
        ]

    def test_names(self):
        one, several = built(2, 1, 1, 3, (2,)), built(2, 1, 1, 3, (2, 0))
        assert [w.name for w in one.weights] == ["kernel_weights", "bias"]
        assert [w.name for w in several.weights] == ["kernel_weights_2", "kernel_weights_0", "bias"]
        assert len({w.path for w in several.weights}) == 3

    def test_without_bias(self):
        layer = built(3, 1, 1, 3, use_bias=False)
        assert [w.name for w in layer.weights] == ["kernel_weights"]
        assert layer.kernel_weights[0].shape == (4, 1, 1)
        # no map of a vector may have one
        layer = built(3, 1, 1, 3, (1, 2), share_orders=True)
        assert [w.name for w in layer.weights] == ["kernel_weights_1", "kernel_weights_2"]

    def test_regularizers_and_constraints_reach_them(self):
        layer = MultipoleConv3D(
            1,
            3,
            (0, 1),
            kernel_regularizer=keras.regularizers.L2(2.0),
            bias_regularizer=keras.regularizers.L1(3.0),
            activity_regularizer=keras.regularizers.L2(0.5),
            kernel_constraint="non_neg",
            bias_constraint="unit_norm",
            bias_initializer="ones",
        )
        layer.build((None, 4, 4, 4, 1))
        squares = sum(np.square(w.numpy()).sum() for w in layer.kernel_weights)
        np.testing.assert_allclose(sum(layer.losses), 2.0 * squares + 3.0 * 4, rtol=1e-6)
        for weights in layer.kernel_weights:
            assert isinstance(weights.constraint, keras.constraints.NonNeg)
        assert isinstance(layer.bias.constraint, keras.constraints.UnitNorm)
        outputs = layer(normal((1, 4, 4, 4, 1)))
        added = sum(layer.losses) - (2.0 * squares + 12.0)
        np.testing.assert_allclose(added, 0.5 * np.square(outputs).sum(), rtol=1e-5)


class TestInitialWeights:
    def powers(self, num_axes, filters, kernel_size, multipoles, share_orders, arguments):
        """Output variance on white noise of each map, and of those of a dense convolution."""
        layer = LAYERS[num_axes](filters, kernel_size, multipoles, share_orders, **arguments)
        arguments = {name: value for name, value in arguments.items() if name != "isotropic"}
        dense = KERAS[num_axes](layer.num_maps, kernel_size, **arguments)
        powers = []
        for convolution in (layer, dense):
            keras.utils.set_random_seed(5)
            convolution.build((None,) * (num_axes + 1) + (16,))
            # for white noise the expected output variance is the sum of the squared kernel
            powers.append(np.square(convolution.kernel).sum(axis=tuple(range(num_axes + 1))))
        return powers

    @pytest.mark.parametrize("share_orders", [False, True])
    @pytest.mark.parametrize("initializer", ["glorot_uniform", "he_normal"])
    @pytest.mark.parametrize(
        ("num_axes", "kernel_size", "multipoles", "arguments"),
        [
            (1, 3, (0, 1), {}),
            (1, 4, (1,), {}),
            (2, 5, (0, 1, 2), {}),
            (2, (2, 3), (0, 1), {"dilation_rate": 2}),
            (3, 3, (0, 1, 2, 3), {}),
            (3, 5, (0,), {}),
            (3, 5, (2, 1), {}),
        ],
    )
    def test_output_variance_is_that_of_a_dense_convolution(
        self, num_axes, kernel_size, multipoles, arguments, initializer, share_orders
    ):
        filters = 100
        arguments = {**arguments, "kernel_initializer": initializer}
        layer, dense = self.powers(
            num_axes, filters, kernel_size, multipoles, share_orders, arguments
        )
        # 16 channels x 100 filters draws of a few weights of unequal worth: up to 3% of scatter
        first = 0
        for order in multipoles:
            count = len(reference.harmonics([1] * num_axes, order))
            maps = layer[first : first + filters * count].reshape(filters, count)
            first += filters * count
            found = maps.mean() if share_orders else maps.mean(axis=0)
            np.testing.assert_allclose(found, dense.mean(), rtol=0.08)
        assert first == len(layer)

    def test_output_variance_of_isotropic_combinations(self):
        arguments = {"isotropic": True}
        layer, dense = self.powers(3, 100, 5, (2, 3), True, arguments)
        for maps in np.split(layer, [500]):
            np.testing.assert_allclose(maps.mean(), dense.mean(), rtol=0.08)

    def test_shared_weights_of_every_shell_have_one_variance(self):
        layer = MultipoleConv3D(400, 3, (2,), share_orders=True)
        layer.build((None, 4, 4, 4, 16))
        spread = layer.kernel_weights[0].numpy().std(axis=(1, 2))
        np.testing.assert_allclose(spread, spread.mean(), rtol=0.05)

    @pytest.mark.parametrize("share_orders", [False, True])
    def test_no_two_are_one_draw(self, share_orders):
        layer = MultipoleConv3D(
            3,
            3,
            (0, 1, 2),
            share_orders,
            kernel_initializer=keras.initializers.RandomNormal(seed=1),
            dtype="float64",
        )
        layer.build((None, 4, 4, 4, 2))
        drawn = np.abs(np.concatenate([w.numpy().ravel() for w in layer.kernel_weights]))
        # two weights from one draw would be in the ratio of their scales, as many other pairs
        ratios = np.round(drawn[:, None] / drawn[None, :], 9)
        values, counts = np.unique(ratios, return_counts=True)
        assert len(drawn) == layer.num_weights * 6
        assert counts[values == 1.0] == len(drawn)
        assert counts[values != 1.0].max() <= 2

    @pytest.mark.parametrize(("num_axes", "kernel_size"), [(1, 4), (2, (2, 3)), (3, 3)])
    def test_a_constant_initializer_is_of_the_dense_kernel(self, num_axes, kernel_size):
        layer = LAYERS[num_axes](2, kernel_size, kernel_initializer="ones", dtype="float64")
        layer.build((None,) * (num_axes + 1) + (3,))
        np.testing.assert_allclose(layer.kernel, np.ones(layer.kernel.shape), rtol=1e-14)

    def test_a_seed_makes_them_the_same(self):
        weights = []
        for _ in range(2):
            layer = MultipoleConv3D(
                1, 3, (0, 1), kernel_initializer=keras.initializers.HeNormal(seed=4)
            )
            layer.build((None, 4, 4, 4, 1))
            weights.append(layer.get_weights())
        for a, b in zip(*weights, strict=True):
            np.testing.assert_array_equal(a, b)


class TestBiasAndActivation:
    @pytest.mark.parametrize("method", METHODS)
    def test_act_on_all_maps_of_independent_weights(self, method):
        layer = built(3, 1, 2, 3, (1, 0), activation="softplus", padding="same", method=method)
        inputs = normal((1, 4, 3, 4, 1))
        expected = np.logaddexp(0.0, expected_maps(layer, inputs))
        assert layer.bias.shape == (8,)
        np.testing.assert_allclose(layer(inputs), expected, rtol=1e-12)

    @pytest.mark.parametrize("method", METHODS)
    def test_act_on_scalars_only_of_shared_weights(self, method):
        layer = built(
            3,
            1,
            (1, 2, 1),
            3,
            (1, 0, 2),
            True,
            activation="softplus",
            padding="same",
            method=method,
        )
        inputs = normal((1, 4, 3, 4, 1))
        expected = expected_maps(layer, inputs)
        expected[..., 3:5] = np.logaddexp(0.0, expected[..., 3:5])
        assert layer.bias.shape == (2,)
        np.testing.assert_allclose(layer(inputs), expected, rtol=1e-12, atol=1e-12)

    def test_there_may_be_no_scalars(self):
        layer = built(3, 1, 1, 3, (1, 2), share_orders=True, activation="softplus")
        inputs = normal((1, 4, 4, 4, 1))
        assert layer.bias is None
        np.testing.assert_allclose(
            layer(inputs), expected_maps(layer, inputs), rtol=1e-12, atol=1e-12
        )

    def test_activation_without_bias(self):
        layer = built(2, 1, 1, 3, (0, 1), True, activation="relu", use_bias=False)
        inputs = normal((1, 4, 4, 1))
        expected = expected_maps(layer, inputs)
        expected[..., 0] = np.maximum(expected[..., 0], 0.0)
        np.testing.assert_allclose(layer(inputs), expected, rtol=1e-12, atol=1e-12)


class TestFromDense:
    @pytest.mark.parametrize(("num_axes", "kernel_size"), [(1, 5), (2, (3, 4)), (3, 3)])
    @pytest.mark.parametrize("padding", PADDINGS)
    def test_recovers_a_monopole(self, num_axes, kernel_size, padding):
        original = built(num_axes, 2, 3, kernel_size, padding=padding)
        again = LAYERS[num_axes].from_dense(
            original.kernel, original.bias, padding=padding, dtype="float64"
        )
        assert again.get_config()["filters"] == 3
        assert again.kernel_size == original.kernel_size
        for a, b in zip(again.get_weights(), original.get_weights(), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13)
        inputs = normal((2, *(6, 5, 4)[:num_axes], 2))
        np.testing.assert_allclose(again(inputs), original(inputs), rtol=1e-12, atol=1e-12)

    @pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
    @pytest.mark.parametrize("padding", ["valid", "same"])
    @pytest.mark.parametrize(
        ("num_axes", "kernel_size", "multipoles", "dilation_rate"),
        [
            (1, 5, (0, 1), 1),
            (1, 4, (1, 0), 2),
            (2, 3, (0, 1, 2), 1),
            (3, 3, (0, 1, 2, 3), 1),
            (3, 2, (3, 1, 2, 0), 1),
            (3, 3, (1, 0, 2, 3), 2),
        ],
    )
    def test_maps_of_a_filter_add_up_to_the_convolution(
        self, num_axes, kernel_size, multipoles, dilation_rate, padding, data_format
    ):
        channels, filters = 2, 3
        dense = KERAS[num_axes](
            filters, kernel_size, padding=padding, dilation_rate=dilation_rate, dtype="float64"
        )
        inputs = normal((2, *(7, 6, 5)[:num_axes], channels))
        dense.build(inputs.shape)
        dense.set_weights([normal(w.shape, seed=6) for w in dense.weights])
        layer = LAYERS[num_axes].from_dense(
            dense.kernel,
            dense.bias,
            multipoles,
            padding=padding,
            dilation_rate=dilation_rate,
            data_format=data_format,
            dtype="float64",
        )
        if data_format == "channels_first":
            maps = np.moveaxis(layer(np.moveaxis(inputs, -1, 1)).numpy(), 1, -1)
        else:
            maps = layer(inputs).numpy()
        total, first = 0.0, 0
        for order in multipoles:
            count = len(reference.harmonics([1] * num_axes, order))
            piece = maps[..., first : first + filters * count]
            total = total + piece.reshape(*piece.shape[:-1], filters, count).sum(axis=-1)
            first += filters * count
        assert first == maps.shape[-1]
        np.testing.assert_allclose(total, dense(inputs), rtol=1e-11, atol=1e-11)

    def test_the_bias_is_that_of_the_scalars(self):
        layer = MultipoleConv3D.from_dense(normal((3, 3, 3, 1, 2)), [5.0, 7.0], (1, 0, 2))
        np.testing.assert_array_equal(layer.bias, [0.0] * 6 + [5.0, 7.0] + [0.0] * 10)
        assert MultipoleConv3D.from_dense(normal((3, 3, 3, 1, 2))).bias is None
        asked = MultipoleConv3D.from_dense(normal((3, 3, 3, 1, 2)), use_bias=True)
        np.testing.assert_array_equal(asked.bias, np.zeros(2))

    def test_arguments_reach_the_layer(self):
        layer = MultipoleConv2D.from_dense(
            normal((3, 2, 1, 2)), None, (0, 1), activation="tanh", method="shells", name="mine"
        )
        assert (layer.name, layer.method, layer.built) == ("mine", "shells", True)
        assert layer.activation is keras.activations.tanh
        assert layer(normal((1, 4, 4, 1))).shape == (1, 2, 3, 6)

    def test_is_the_closest(self):
        kernel = normal((3, 3, 3, 1, 1))
        layer = MultipoleConv3D.from_dense(kernel, dtype="float64")
        distance = np.square(layer.kernel - kernel).sum()
        for seed in range(5):
            weights = layer.kernel_weights[0].numpy()
            moved = weights + 1e-3 * normal(weights.shape, seed)
            other = reference.dense_kernel([moved], (3, 3, 3), (0,), (1, 1, 1), False)
            assert np.square(other - kernel).sum() > distance

    @pytest.mark.parametrize(
        ("shape", "arguments", "message"),
        [
            (
                (3, 3, 1, 1),
                {},
                r"`kernel`. Expected 5 axes .*kernel_size, channels, filters.*shape",
            ),
            ((3, 3, 3, 1, 1), {"share_orders": True}, "`share_orders`. Expected False. Received: "),
            ((3, 3, 3, 1, 2), {"bias": [1.0, 2.0], "multipoles": (1,)}, "`bias`. Expected None "),
            ((3, 3, 3, 1, 2), {"bias": [1.0, 2.0], "use_bias": False}, "`bias`. Expected None "),
            ((3, 3, 3, 1, 2), {"bias": [1.0]}, r"`bias`. Expected an array of shape \(2,\)"),
            ((3, 3, 3, 1, 2), {"bias": 1.0}, r"`bias`. Expected an array of shape \(2,\)"),
            ((3, 3, 3, 1, 2), {"multipoles": 0}, "`multipoles`. Expected a tuple"),
            ((3, 3, 3, 1, 2), {"dilation_rate": 0}, "`dilation_rate`. Expected a strictly"),
            ((3, 3, 3, 0, 2), {}, "`kernel`. Expected finite numbers"),
        ],
    )
    def test_invalid_arguments(self, shape, arguments, message):
        with pytest.raises(ValueError, match=f"Invalid value for argument {message}"):
            MultipoleConv3D.from_dense(np.ones(shape), **arguments)


def turned_maps(layer, inputs, matrices, filters):
    """Maps of turned inputs, and what they should be if the layer is equivariant."""
    found = layer(np.concatenate([turn(inputs, matrix) for matrix in matrices])).numpy()
    outputs = layer(inputs).numpy()
    expected = np.concatenate(
        [mix_maps(turn(outputs, matrix), matrix, layer.multipoles, filters) for matrix in matrices]
    )
    return found, expected


class TestSymmetries:
    @pytest.mark.parametrize("method", METHODS)
    @pytest.mark.parametrize("kernel_size", [3, 5])
    @pytest.mark.parametrize(
        ("multipoles", "filters"),
        [((0,), (1,)), ((1,), (1,)), ((2,), (2,)), ((0, 1, 2), (2, 1, 1))],
    )
    def test_of_the_cube(self, kernel_size, multipoles, filters, method):
        layer = built(
            3,
            1,
            filters,
            kernel_size,
            multipoles,
            share_orders=True,
            padding="periodic",
            activation="softplus",
            method=method,
        )
        matrices = lattice_symmetries(3)
        assert len(matrices) == 48
        found, expected = turned_maps(layer, normal((1, 5, 5, 5, 1)), matrices, filters)
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)

    @pytest.mark.parametrize("method", METHODS)
    @pytest.mark.parametrize("kernel_size", [3, 5])
    def test_of_the_square(self, kernel_size, method):
        layer = built(
            2,
            2,
            2,
            kernel_size,
            (0, 1, 2, 3),
            share_orders=True,
            padding="periodic",
            activation="softplus",
            method=method,
        )
        matrices = lattice_symmetries(2)
        assert len(matrices) == 8
        found, expected = turned_maps(layer, normal((1, 6, 6, 2)), matrices, (2,) * 4)
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)

    @pytest.mark.parametrize("method", METHODS)
    @pytest.mark.parametrize("padding", PADDINGS)
    def test_of_the_line(self, padding, method):
        layer = built(
            1, 2, 2, 5, (0, 1), share_orders=True, padding=padding, activation="tanh", method=method
        )
        inputs = normal((1, 8, 2))
        outputs = layer(inputs).numpy()
        expected = outputs[:, ::-1] * [1, 1, -1, -1]
        np.testing.assert_allclose(layer(inputs[:, ::-1]), expected, rtol=1e-12, atol=1e-12)
        found, expected = turned_maps(layer, inputs, lattice_symmetries(1), (2, 2))
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)

    @pytest.mark.parametrize("method", METHODS)
    @pytest.mark.parametrize(("num_axes", "kernel_size"), [(1, 4), (2, 4), (3, 2)])
    def test_of_a_kernel_without_a_central_cell(self, num_axes, kernel_size, method):
        # without padding nothing tells the two middle cells apart
        layer = built(num_axes, 1, 1, kernel_size, (0, 1), share_orders=True, method=method)
        inputs = normal((1, *(5,) * num_axes, 1))
        found, expected = turned_maps(layer, inputs, lattice_symmetries(num_axes), (1, 1))
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)

    def test_of_an_anisotropic_kernel(self):
        layer = built(3, 1, 1, (3, 3, 1), (0, 1, 2), share_orders=True, padding="periodic")
        kept = [matrix for matrix in lattice_symmetries(3) if matrix[2, 2]]
        assert len(kept) == 16
        found, expected = turned_maps(layer, normal((1, 5, 5, 5, 1)), kept, (1, 1, 1))
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)

    @pytest.mark.parametrize(("num_axes", "multipole"), [(2, 1), (2, 3), (3, 1), (3, 2)])
    def test_independent_weights_have_only_some(self, num_axes, multipole):
        layer = built(num_axes, 1, 1, 3, (multipole,), padding="periodic", use_bias=False)
        inputs = normal((1, *(5,) * num_axes, 1))
        matrices = lattice_symmetries(num_axes)
        found, expected = turned_maps(layer, inputs, matrices, (1,))
        errors = np.abs(found - expected).reshape(len(matrices), -1).max(axis=1)
        # reflections of an axis, and the identity, change no more than a sign of a map
        diagonal = np.array([np.count_nonzero(np.diag(matrix)) == num_axes for matrix in matrices])
        assert np.all(errors[diagonal] < 1e-12)
        assert np.all(errors[~diagonal] > 0.1)

    @pytest.mark.parametrize("method", METHODS)
    @pytest.mark.parametrize("kernel_size", [3, 4])
    def test_periodic_translations(self, kernel_size, method):
        layer = built(3, 1, 1, kernel_size, (0, 1), padding="periodic", method=method)
        inputs = normal((1, 5, 4, 6, 1))
        shift, axes = (2, 3, -1), (1, 2, 3)
        np.testing.assert_allclose(
            layer(np.roll(inputs, shift, axes)),
            np.roll(layer(inputs), shift, axes),
            rtol=1e-12,
            atol=1e-12,
        )

    @pytest.mark.parametrize("multipole", [0, 1, 2, 3])
    def test_adjoint_is_itself_times_the_parity(self, multipole):
        layer = built(3, 1, 1, 3, (multipole,), padding="periodic", use_bias=False)
        a, b = normal((1, 5, 4, 6, 1), 1), normal((1, 5, 4, 6, 1), 2)
        forward = np.sum(a * layer(b), axis=(0, 1, 2, 3))
        backward = np.sum(b * layer(a), axis=(0, 1, 2, 3))
        np.testing.assert_allclose(forward, (-1) ** multipole * backward, rtol=1e-11)

    def test_a_constant_mesh_has_no_direction(self):
        layer = built(3, 1, 1, 5, (0, 1, 2), padding="periodic", use_bias=False)
        outputs = layer(np.ones((1, 5, 5, 5, 1))).numpy()
        assert abs(outputs[..., 0]).min() > 0.1
        np.testing.assert_allclose(outputs[..., 1:], 0.0, atol=1e-12)

    def test_the_dipole_of_a_slope_is_along_it(self):
        layer = built(3, 1, 1, 3, (1,), True)
        slope = [0.5, -1.0, 2.0]
        mesh = np.tensordot(slope, np.indices((5, 5, 5)), 1)
        outputs = layer(mesh[None, ..., None]).numpy()
        # m = -1, 0, 1 are the axes 1, 2, 0
        vector = outputs[..., [2, 0, 1]]
        ratio = vector[0, 0, 0, 0, 0] / slope[0]
        np.testing.assert_allclose(vector, ratio * np.broadcast_to(slope, vector.shape), rtol=1e-12)


class TestIsotropic:
    def answers(self, layer, multipole):
        """Maps of smooth fields, seen straight and turned; the latter also from the former."""
        num_axes = layer.num_axes
        rng = np.random.default_rng(7)
        cells = reference.cell_offsets(layer.kernel_size, layer.dilation_rate).values()
        positions = np.array([[float(x) for x in offset] for offset in cells])
        powers = [p for p in np.ndindex((multipole + 1,) * num_axes) if sum(p) <= multipole]
        found, expected = [], []
        for _ in range(10):
            coefficients = rng.normal(size=len(powers))
            rotation = np.linalg.qr(rng.normal(size=(num_axes, num_axes)))[0]
            maps = []
            extents = zip(layer.kernel_size, layer.dilation_rate, strict=True)
            empty = np.zeros([(n - 1) * rate + 1 for n, rate in extents])
            for x in (positions, positions @ rotation.T):
                field = np.prod(x[:, np.newaxis] ** np.array(powers), axis=2) @ coefficients
                mesh = empty.copy()
                mesh[tuple(slice(None, None, rate) for rate in layer.dilation_rate)] = (
                    field.reshape(layer.kernel_size)
                )
                maps.append(layer(mesh[np.newaxis, ..., np.newaxis]).numpy().ravel())
            found.append(maps[1])
            expected.append(wigner(rotation.T, multipole) @ maps[0])
        return np.array(found), np.array(expected)

    @pytest.mark.parametrize("method", METHODS)
    @pytest.mark.parametrize(
        ("num_axes", "kernel_size", "multipole", "dilation_rate", "num_weights"),
        [
            (2, 3, 1, 1, 2),
            (2, 3, 2, 1, 1),
            (2, 5, 3, 1, 3),
            (2, 3, 2, 2, 1),
            (3, 3, 1, 1, 3),
            (3, 3, 2, 1, 2),
            (3, 4, 2, 1, 3),
            (3, 5, 3, 1, 6),
        ],
    )
    def test_smooth_fields_turn_with_any_rotation(
        self, num_axes, kernel_size, multipole, dilation_rate, num_weights, method
    ):
        layer = built(
            num_axes,
            1,
            1,
            kernel_size,
            (multipole,),
            True,
            dilation_rate=dilation_rate,
            isotropic=True,
            method=method,
        )
        assert layer.num_weights == num_weights
        found, expected = self.answers(layer, multipole)
        assert np.abs(expected).std(axis=1).min() > 0.01
        np.testing.assert_allclose(found, expected, atol=1e-11)

    @pytest.mark.parametrize(
        ("num_axes", "kernel_size", "multipole"), [(2, 3, 2), (3, 3, 2), (2, 5, 3), (3, 5, 3)]
    )
    def test_without_it_they_do_not(self, num_axes, kernel_size, multipole):
        layer = built(num_axes, 1, 1, kernel_size, (multipole,), share_orders=True)
        found, expected = self.answers(layer, multipole)
        assert np.abs(found - expected).max() > 0.1 * np.abs(expected).max()

    def test_of_the_cube(self):
        layer = built(
            3, 1, 1, 5, (0, 1, 2, 3), True, padding="periodic", isotropic=True, method="shells"
        )
        matrices = lattice_symmetries(3)
        found, expected = turned_maps(layer, normal((1, 5, 5, 5, 1)), matrices, (1,) * 4)
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)

    def test_every_kernel_is_a_combination_of_shells(self):
        layer = MultipoleConv3D(1, 5, (2,), True, isotropic=True, dtype="float64")
        layer.build((None, 5, 5, 5, 1))
        shared = MultipoleConv3D(1, 5, (2,), True, dtype="float64")
        shells = [
            reference.dense_kernel([one[:, None, None]], (5, 5, 5), (2,), (1, 1, 1), True).ravel()
            for one in np.eye(shared.num_weights)
        ]
        for number in range(layer.num_weights):
            layer.kernel_weights[0].assign(np.eye(layer.num_weights)[number][:, None, None])
            kernel = layer.kernel.numpy().ravel()
            weights, *_ = np.linalg.lstsq(np.array(shells).T, kernel, rcond=None)
            np.testing.assert_allclose(np.array(shells).T @ weights, kernel, atol=1e-13)
            np.testing.assert_allclose(np.linalg.norm(weights), 1.0, rtol=1e-13)
            # its label is its last shell
            last = np.flatnonzero(np.abs(weights) > 1e-9)[-1]
            assert shared.labels[last] == layer.labels[number]

    def test_invalid_arguments(self):
        message = "`isotropic`. Expected False where `share_orders` is False. Received: isotropic="
        with pytest.raises(ValueError, match=message):
            MultipoleConv3D(1, 3, (2,), isotropic=True)
        message = "`kernel_size`. Expected extents with isotropic l = 3. Received: kernel_size=3"
        with pytest.raises(ValueError, match=message):
            MultipoleConv3D(1, 3, (0, 3), True, isotropic=True)


class TestMethods:
    def kinds(self, layer, channels, jit_compile=False, nested=False):
        shape = (1, *(6,) * layer.num_axes, channels)
        if layer.data_format == "channels_first":
            shape = (1, channels, *shape[1:-1])
        inner = tf.function(layer)
        outer = tf.function(lambda x: inner(x), jit_compile=jit_compile) if nested else None
        function = outer or tf.function(layer, jit_compile=jit_compile)
        graph = function.get_concrete_function(tf.zeros(shape)).graph
        functions = [graph, *(f.graph for f in graph._functions.values())] if nested else [graph]
        return {operation.type for g in functions for operation in g.get_operations()}

    @pytest.mark.parametrize(
        ("channels", "arguments", "shells", "compiled_shells"),
        [
            (1, {}, True, True),
            (1, {"padding": "same", "share_orders": True}, True, True),
            (1, {"dilation_rate": 2}, True, True),
            (1, {"data_format": "channels_first"}, True, True),
            (1, {"multipoles": (0, 1)}, False, True),
            (1, {"multipoles": (0, 1), "dtype": "float64"}, True, True),
            (1, {"filters": 2}, True, True),
            (2, {}, True, True),
            (2, {"data_format": "channels_first"}, True, True),
            (2, {"multipoles": (2,), "share_orders": True}, False, True),
            (1, {"strides": 2}, False, False),
            (1, {"method": "dense"}, False, False),
            (2, {"method": "shells", "filters": 2}, True, True),
        ],
    )
    def test_auto(self, channels, arguments, shells, compiled_shells):
        layer = MultipoleConv3D(**{"filters": 1, "kernel_size": 3, **arguments})
        for jit_compile, expected in ((False, shells), (True, compiled_shells)):
            kinds = self.kinds(layer, channels, jit_compile)
            assert ("Roll" in kinds) == expected
            assert ("Conv3D" in kinds) != expected

    def test_auto_sees_the_compiler_around_it(self):
        for jit_compile in (False, True):
            layer = MultipoleConv3D(2, 3, (0, 1))
            kinds = self.kinds(layer, 2, jit_compile, nested=True)
            assert ("Roll" in kinds) == jit_compile
            assert ("Conv3D" in kinds) != jit_compile

    @pytest.mark.parametrize(("dtype", "dense"), [("float32", True), ("float64", False)])
    def test_auto_outside_of_a_graph(self, dtype, dense, monkeypatch):
        used = []
        layer = MultipoleConv3D(1, 3, dtype=dtype)
        convolve = layer._convolve_densely
        monkeypatch.setattr(layer, "_convolve_densely", lambda x: used.append(1) or convolve(x))
        layer(np.zeros((1, 6, 6, 6, 1), dtype))
        assert bool(used) == dense

    def test_auto_on_a_gpu_is_dense(self, monkeypatch):
        monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind=None: [kind])
        for jit_compile in (False, True):
            kinds = self.kinds(MultipoleConv3D(1, 3), 1, jit_compile)
            assert "Conv3D" in kinds and "Roll" not in kinds

    def test_shells_add_before_they_multiply(self):
        # l = 0 at extent 3: 8 shifts and 6 products, where the dense kernel has 27 products
        layer = MultipoleConv3D(1, 3, padding="periodic", method="shells")
        graph = tf.function(layer).get_concrete_function(tf.zeros((1, 6, 6, 6, 1))).graph
        kinds = [operation.type for operation in graph.get_operations()]
        assert kinds.count("Roll") <= 8
        assert kinds.count("Mul") <= 6


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("method", METHODS)
@some_configurations
def test_a_mesh_of_unknown_size(configuration, padding, method):
    layer, inputs = make(configuration, padding=padding, method=method)
    shape = [None] * (inputs.ndim - 1) + [inputs.shape[-1]]
    function = tf.function(layer, input_signature=[tf.TensorSpec(shape, tf.float64)])
    np.testing.assert_allclose(function(inputs), layer(inputs), rtol=1e-12, atol=1e-13)
    unknown = layer.compute_output_shape(shape)
    assert unknown == (*(None,) * (inputs.ndim - 1), layer.num_maps)


def test_maps_that_vanish_are_zeros():
    # the map of m = 0 is along the last axis, where the kernel is one cell thick
    for method in METHODS:
        layer = built(3, 1, 2, (3, 3, 1), (1,), use_bias=False, method=method)
        assert {label.m for label in layer.labels} == {-1, 1}
        outputs = layer(normal((1, 4, 4, 4, 1))).numpy()
        np.testing.assert_array_equal(outputs[..., [1, 4]], 0.0)
        assert np.abs(outputs[..., [0, 2, 3, 5]]).min(axis=(0, 1, 2, 3)).max() > 0
        flat = built(2, 1, 1, (1, 3), (1,), use_bias=False, method=method)
        np.testing.assert_array_equal(flat(normal((1, 4, 4, 1))).numpy()[..., 1], 0.0)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("method", METHODS)
def test_as_exact_as_the_dtype(dtype, method):
    # no constant of the layer may be rounded to less than its dtype
    layer = built(3, 1, 1, 5, (0, 1, 2), padding="periodic", method=method, dtype=dtype)
    inputs = normal((1, 5, 5, 5, 1))
    expected = expected_maps(layer, inputs.astype(dtype).astype("float64"))
    error = np.abs(layer(inputs).numpy().astype("float64") - expected).max()
    epsilon = np.finfo(dtype).eps
    assert error < 200 * epsilon
    if dtype == "float32":
        assert error > 10 * np.finfo("float64").eps


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"filters": -1}, "`filters`. Expected a strictly positive integer. Received: filters=-1"),
        ({"filters": 2.0}, "`filters`. Expected a strictly positive integer. Received: filters=2"),
        ({"filters": True}, "`filters`. Expected a strictly positive integer"),
        ({"filters": "2"}, "`filters`. Expected a strictly positive integer. Received: filters='2"),
        ({"filters": (1, 2)}, r"`filters`. Expected .* one for each of 1 multipoles. .*=\(1, 2\)"),
        ({"filters": (0,)}, r"`filters`. Expected .* one for each of 1 multipoles. .*=\(0,\)"),
        (
            {"kernel_size": 0},
            "`kernel_size`. Expected a strictly positive integer or three of them",
        ),
        ({"kernel_size": 3.0}, "`kernel_size`. .* Received: kernel_size=3.0"),
        ({"kernel_size": (3, 3)}, r"`kernel_size`. .* three of them. .* kernel_size=\(3, 3\)"),
        ({"kernel_size": ()}, "`kernel_size`. Expected a strictly positive integer or three of"),
        ({"multipoles": (0, 0)}, r"`multipoles`. Expected a tuple of different .*=\(0, 0\)"),
        ({"multipoles": ()}, "`multipoles`. Expected a tuple of different non-negative integers"),
        ({"multipoles": 0}, "`multipoles`. Expected a tuple .* Received: multipoles=0"),
        (
            {"multipoles": (-1,)},
            "`multipoles`. Expected a tuple of different non-negative integers",
        ),
        ({"multipoles": (1.0,)}, "`multipoles`. Expected a tuple of different non-negative integ"),
        ({"kernel_size": 1, "multipoles": (1,)}, "`kernel_size`. Expected extents on which l = 1 "),
        ({"strides": 0}, "`strides`. Expected a strictly positive integer or three of them"),
        ({"strides": (1, 2)}, r"`strides`. .* Received: strides=\(1, 2\)"),
        (
            {"strides": 2, "dilation_rate": 2},
            "`strides`. Expected 1 where `dilation_rate` is above",
        ),
        ({"strides": 2, "method": "shells"}, "`strides`. Expected 1 with method='shells'"),
        ({"dilation_rate": -1}, "`dilation_rate`. .* Received: dilation_rate=-1"),
        ({"padding": "causal"}, "`padding`. Expected one of .* Received: padding='causal'"),
        ({"data_format": "last"}, "`data_format`. Expected one of .* Received: data_format='last'"),
        ({"method": "fast"}, "`method`. Expected one of .* Received: method='fast'"),
    ],
)
def test_invalid_arguments(arguments, message):
    with pytest.raises(ValueError, match=f"Invalid value for argument {message}"):
        MultipoleConv3D(**{"filters": 1, "kernel_size": 3, **arguments})


def test_invalid_arguments_in_fewer_dimensions():
    with pytest.raises(ValueError, match=r"`multipoles`. Expected a tuple of 0 .even. and 1 .odd."):
        MultipoleConv1D(1, 3, (0, 2))
    with pytest.raises(
        ValueError, match="`kernel_size`. Expected a strictly positive integer. Rec"
    ):
        MultipoleConv1D(1, (3, 3))
    with pytest.raises(ValueError, match="`kernel_size`. Expected .* or a pair of them. Received"):
        MultipoleConv2D(1, (3, 3, 3))


def test_one_for_all_axes_or_one_for_each():
    layer = MultipoleConv3D(1, [3, 3, 3], strides=(1, 1, 1))
    config = layer.get_config()
    assert (config["kernel_size"], config["strides"]) == ((3, 3, 3), (1, 1, 1))
    assert MultipoleConv3D(np.int64(2), np.int32(3)).get_config()["filters"] == 2
    assert MultipoleConv3D([1, 2], 3, [0, 1]).get_config()["filters"] == (1, 2)


def test_invalid_inputs():
    with pytest.raises(ValueError, match="argument `input_shape`. Expected a known number of chan"):
        MultipoleConv3D(1, 3).build((None, 4, 4, 4, None))
    with pytest.raises(ValueError, match=r"`input_shape`. Expected 5 sizes. Received: input_shape"):
        MultipoleConv3D(1, 3).compute_output_shape((4, 4, 4, 1))
    layer = MultipoleConv3D(1, (3, 2, 3), dilation_rate=(1, 2, 1))
    small = np.zeros((1, 4, 2, 4, 1), "float32")
    message = r"Expected at least \(3, 3, 3\) cells along the axes .* Received: inputs.shape="
    with pytest.raises(ValueError, match=message):
        layer.compute_output_shape(small.shape)
    layer.build(small.shape)
    with pytest.raises(ValueError, match=message):
        layer.call(tf.constant(small))
    with pytest.raises(ValueError, match=message):
        layer.shell_responses(small)
    with pytest.raises(ValueError, match="expected ndim=5"):
        layer(np.zeros((4, 4, 4, 1), "float32"))
    with pytest.raises(ValueError, match="expected axis -1"):
        layer(np.zeros((1, 4, 4, 4, 2), "float32"))
    first = MultipoleConv2D(1, 3, data_format="channels_first")
    with pytest.raises(ValueError, match="argument `input_shape`. Expected a known number of chan"):
        first.build((None, None, 4, 4))
    first.build((None, 2, 4, 4))
    with pytest.raises(ValueError, match="expected axis 1"):
        first(np.zeros((1, 4, 4, 2), "float32"))


def test_the_base_class_says_that_it_is_abstract():
    with pytest.raises(TypeError, match="MultipoleConv is abstract. Use MultipoleConv1D"):
        MultipoleConv(1, 3)
