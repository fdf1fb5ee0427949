"""What every layer must do, over a list of all of them."""

import copy
import pickle

import keras
import numpy as np
import pytest
import tensorflow as tf

import layers
from layers import (
    MixtureDensity,
    MultipoleConv,
    MultipoleConv1D,
    MultipoleConv2D,
    MultipoleConv3D,
    MultipolePower,
    MultipoleProduct,
    PeriodicPadding1D,
    PeriodicPadding2D,
    PeriodicPadding3D,
)

MESH = (4, 3, 5)

# name: (constructor, arguments, shapes of the inputs without the batch)
CASES = {
    "conv1d_even": (
        MultipoleConv1D,
        {"filters": 1, "kernel_size": 4, "multipoles": (0, 1), "padding": "periodic"},
        [(6, 1)],
    ),
    "conv1d_strides": (
        MultipoleConv1D,
        {
            "filters": 2,
            "kernel_size": 3,
            "multipoles": (1, 0),
            "share_orders": True,
            "strides": 2,
            "padding": "same",
            "activation": "tanh",
        },
        [(7, 2)],
    ),
    "conv2d_channels_first": (
        MultipoleConv2D,
        {
            "filters": (1, 2),
            "kernel_size": 3,
            "multipoles": (0, 2),
            "share_orders": True,
            "isotropic": True,
            "padding": "periodic",
            "data_format": "channels_first",
            "activation": "softplus",
            "method": "shells",
        },
        [(2, 4, 3)],
    ),
    "conv2d_dilated": (
        MultipoleConv2D,
        {
            "filters": 1,
            "kernel_size": 3,
            "multipoles": (0, 2),
            "dilation_rate": (1, 2),
            "padding": "same",
            "method": "dense",
        },
        [(4, 5, 2)],
    ),
    "conv3d_paper": (
        MultipoleConv3D,
        {"filters": 1, "kernel_size": 3, "padding": "periodic", "activation": "softplus"},
        [(*MESH, 1)],
    ),
    "conv3d_valid": (MultipoleConv3D, {"filters": 1, "kernel_size": 3}, [(*MESH, 1)]),
    "conv3d_dense": (
        MultipoleConv3D,
        {
            "filters": 2,
            "kernel_size": 3,
            "multipoles": (0, 1),
            "padding": "periodic",
            "activation": "softplus",
            "kernel_initializer": keras.initializers.HeNormal(seed=2),
            "bias_initializer": keras.initializers.Constant(0.3),
            "kernel_regularizer": keras.regularizers.L2(0.1),
            "bias_regularizer": keras.regularizers.L1(0.1),
            "activity_regularizer": keras.regularizers.L2(0.1),
            "kernel_constraint": keras.constraints.MaxNorm(3.0),
            "bias_constraint": keras.constraints.NonNeg(),
            "method": "dense",
        },
        [(*MESH, 2)],
    ),
    "conv3d_strides": (
        MultipoleConv3D,
        {"filters": 1, "kernel_size": (3, 2, 3), "multipoles": (1,), "strides": (1, 2, 2)},
        [(*MESH, 1)],
    ),
    "conv3d_shells": (
        MultipoleConv3D,
        {
            "filters": 1,
            "kernel_size": (3, 3, 2),
            "multipoles": (0, 1, 2),
            "share_orders": True,
            "dilation_rate": (1, 1, 2),
            "padding": "same",
            "use_bias": False,
            "method": "shells",
        },
        [(*MESH, 2)],
    ),
    "padding1d": (PeriodicPadding1D, {"padding": (1, 2)}, [(4, 2)]),
    "padding2d": (
        PeriodicPadding2D,
        {"padding": (1, (0, 2)), "data_format": "channels_first"},
        [(2, 3, 4)],
    ),
    "padding3d": (PeriodicPadding3D, {"padding": ((1, 0), (2, 2), (0, 1))}, [(*MESH, 2)]),
    "power": (MultipolePower, {"multipoles": (0, 1, 2), "filters": (2, 1, 1)}, [(*MESH, 10)]),
    "power_channels_first": (
        MultipolePower,
        {"multipoles": (2, 0), "data_format": "channels_first"},
        [(6, 3, 4)],
    ),
    "product": (MultipoleProduct, {"multipoles": (0, 1)}, [(*MESH, 8), (*MESH, 8)]),
    "product_all": (
        MultipoleProduct,
        {"multipoles": (1, 0), "pairs": "all", "data_format": "channels_first"},
        [(6, 3, 4), (3, 3, 4)],
    ),
    "mixture": (MixtureDensity, {"num_components": 2, "log_mass_threshold": 28.3}, [(*MESH, 1)]),
    "mixture_tapered_pareto_stacked": (
        MixtureDensity,
        {
            "num_components": 2,
            "log_mass_threshold": 2.0,
            "family": "tapered_pareto",
            "output_format": "stacked",
        },
        [(*MESH, 2)],
    ),
    "mixture_softplus": (
        MixtureDensity,
        {
            "num_components": 3,
            "initial_amplitude": 1e-5,
            "initial_width": 0.4,
            "mean_activation": "softplus",
            "kernel_initializer": keras.initializers.RandomNormal(seed=3),
            "amplitude_bias_initializer": keras.initializers.Constant(0.1),
            "mean_bias_initializer": keras.initializers.Constant(0.2),
            "scale_bias_initializer": keras.initializers.Constant(0.3),
            "kernel_regularizer": keras.regularizers.L2(0.1),
            "bias_regularizer": keras.regularizers.L1(0.1),
            "kernel_constraint": keras.constraints.MaxNorm(3.0),
            "bias_constraint": keras.constraints.NonNeg(),
        },
        [(*MESH, 3)],
    ),
}
POLICIES = ["float32", "float64", "mixed_bfloat16", "mixed_float16"]


class Case:
    """One layer: how to make it, and inputs for it."""

    def __init__(self, constructor, arguments, shapes):
        self.constructor, self.arguments, self.shapes = constructor, arguments, shapes
        self.channel_axis = 1 if arguments.get("data_format") == "channels_first" else -1

    def layer(self, dtype="float64", **kwargs):
        return self.constructor(**{**self.arguments, "dtype": dtype, **kwargs})

    def one_or_list(self, items):
        return items[0] if len(items) == 1 else items

    def inputs(self, dtype="float64", seed=1):
        rng = np.random.default_rng(seed)
        values = [rng.normal(size=(2, *shape)) for shape in self.shapes]
        return self.one_or_list([tf.constant(value, dtype) for value in values])

    def input_shape(self, batch=None, mesh_known=True, more_channels=0):
        shapes = []
        for shape in self.shapes:
            sizes = [batch, *(shape if mesh_known else [None] * len(shape))]
            sizes[self.channel_axis] = (batch, *shape)[self.channel_axis] + more_channels
            shapes.append(tuple(sizes))
        return self.one_or_list(shapes)

    def built(self, dtype="float64", **kwargs):
        layer = self.layer(dtype, **kwargs)
        layer.build(self.input_shape())
        return layer

    def model(self, dtype="float64"):
        inputs = self.one_or_list([keras.Input(shape, dtype=dtype) for shape in self.shapes])
        return keras.Model(inputs, self.layer(dtype)(inputs))


@pytest.fixture(params=CASES.values(), ids=CASES.keys())
def case(request):
    keras.utils.set_random_seed(3)
    return Case(*request.param)


def random_weights(layer, seed=7):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=w.shape).astype(w.dtype) for w in layer.weights]


def total(outputs):
    """A scalar that no linear layer has a vanishing second derivative in."""
    return tf.add_n([tf.reduce_sum(tf.sin(value)) for value in tf.nest.flatten(outputs)])


def assert_close(actual, expected, rtol=1e-12, atol=1e-12):
    tf.nest.assert_same_structure(actual, expected)
    for a, b in zip(tf.nest.flatten(actual), tf.nest.flatten(expected), strict=True):
        a, b = (tf.cast(value, tf.float64) for value in (a, b))
        np.testing.assert_allclose(a, b, rtol=rtol, atol=atol)


def test_every_exported_layer_is_listed():
    exported = {
        item
        for item in (getattr(layers, name) for name in layers.__all__)
        if isinstance(item, type) and issubclass(item, keras.layers.Layer)
    }
    # what the convolutions have in common cannot be made by itself
    assert exported - {MultipoleConv} == {case[0] for case in CASES.values()}


@pytest.mark.parametrize("policy", POLICIES)
def test_output_shape_and_dtype(case, policy):
    layer = case.layer(policy)
    outputs = layer(case.inputs("float32"))
    shapes = layer.compute_output_shape(case.input_shape(batch=2))
    assert tf.nest.map_structure(lambda v: tuple(v.shape), outputs) == shapes
    for value in tf.nest.flatten(outputs):
        assert value.dtype == layer.compute_dtype
        assert np.all(np.isfinite(value.numpy().astype("float64")))
    for weight in layer.weights:
        assert weight.dtype == layer.variable_dtype


@pytest.mark.parametrize(
    ("policy", "tolerance"), [("mixed_bfloat16", 0.1), ("mixed_float16", 0.02)]
)
def test_mixed_policies_agree_with_float64(case, policy, tolerance):
    layer, exact = case.built(policy), case.built("float64")
    exact.set_weights([w.astype("float64") for w in layer.get_weights()])
    assert_close(layer(case.inputs("float32")), exact(case.inputs("float64")), tolerance, tolerance)


def test_symbolic_shapes(case):
    shapes = case.input_shape(mesh_known=False)
    shapes = shapes if isinstance(shapes, list) else [shapes]
    inputs = case.one_or_list([keras.Input(shape[1:]) for shape in shapes])
    for value in tf.nest.flatten(case.layer()(inputs)):
        sizes = list(value.shape)
        assert sizes.pop(case.channel_axis) is not None
        if case.arguments.get("output_format") == "stacked":
            assert sizes.pop() == 3
        assert sizes == [None] * len(sizes)
    model = case.model()
    expected = model.layers[-1].compute_output_shape(case.input_shape())
    assert tf.nest.map_structure(lambda v: tuple(v.shape), model.output) == expected


def test_config_round_trip(case):
    layer = case.layer(name="mine", trainable=False)
    config = layer.get_config()
    assert set(case.arguments) <= set(config)
    again = type(layer).from_config(config)
    assert again.get_config() == config
    assert (again.name, again.trainable, again.dtype) == ("mine", False, "float64")
    through_json = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert through_json.get_config() == config


def test_every_argument_is_in_the_config(case):
    code = case.constructor.__init__.__code__
    names = code.co_varnames[1 : code.co_argcount + code.co_kwonlyargcount]
    assert set(names) <= set(case.layer().get_config())


def test_keras_save_and_reload(case, tmp_path):
    model = case.model()
    model.set_weights(random_weights(model))
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert again.layers[-1].get_config() == model.layers[-1].get_config()
    assert_close(again(case.inputs()), model(case.inputs()))


def test_saved_model(case, tmp_path):
    model = case.model()
    model.set_weights(random_weights(model))
    model.export(tmp_path / "model", verbose=False)
    again = tf.saved_model.load(tmp_path / "model")
    assert_close(again.serve(case.inputs()), model(case.inputs()))


def test_saved_model_by_tensorflow(case, tmp_path):
    model = case.model()
    model.set_weights(random_weights(model))
    tf.saved_model.save(model, tmp_path / "model")
    again = tf.saved_model.load(tmp_path / "model")
    serve = again.signatures["serving_default"]
    names = list(serve.structured_input_signature[1])
    outputs = serve(**dict(zip(sorted(names), tf.nest.flatten(case.inputs()), strict=True)))
    expected = model(case.inputs())
    for name, value in outputs.items():
        assert_close(value, expected[name] if isinstance(expected, dict) else expected)


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_compiled_value_and_gradient(case, dtype, jit_compile):
    layer = case.built(dtype)
    weights = [tf.constant(w) for w in random_weights(layer)]
    inputs = case.inputs(dtype)

    def value_and_gradient(inputs, weights):
        with tf.GradientTape() as tape:
            tape.watch([inputs, weights])
            value = total(layer.stateless_call(weights, [], inputs)[0])
        return value, tape.gradient(value, tf.nest.flatten([inputs, weights]))

    compiled = tf.function(value_and_gradient, jit_compile=jit_compile)(inputs, weights)
    tolerance = 1e-10 if dtype == "float64" else 1e-3
    assert_close(compiled, value_and_gradient(inputs, weights), tolerance, tolerance)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies(case, copied):
    model = case.model()
    model.set_weights(random_weights(model))
    again = copied(model)
    assert_close(again(case.inputs()), model(case.inputs()))
    for weight in again.weights:
        weight.assign(weight + 1.0)
    for a, b in zip(again.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(a, b + 1.0)


def value_of_flat(case, layer):
    """Inputs and weights as one list, and a scalar function of it."""
    inputs = tf.nest.flatten(case.inputs())
    arguments = [*inputs, *(tf.constant(w) for w in random_weights(layer))]

    def value(arguments):
        given = case.one_or_list(arguments[: len(inputs)])
        return total(layer.stateless_call(arguments[len(inputs) :], [], given)[0])

    return arguments, value


def test_gradient_against_finite_differences(case):
    arguments, value = value_of_flat(case, case.built())
    with tf.GradientTape() as tape:
        tape.watch(arguments)
        gradients = tape.gradient(value(arguments), arguments)
    rng = np.random.default_rng(4)
    step = 1e-5
    for which, (argument, gradient) in enumerate(zip(arguments, gradients, strict=True)):
        direction = rng.normal(size=argument.shape)
        ends = []
        for sign in (1, -1):
            moved = list(arguments)
            moved[which] = argument + sign * step * direction
            ends.append(value(moved))
        np.testing.assert_allclose(
            np.sum(gradient * direction), (ends[0] - ends[1]) / (2 * step), rtol=1e-6, atol=1e-6
        )


@pytest.mark.parametrize("jit_compile", [False, True])
def test_second_derivative_against_differences_of_the_first(case, jit_compile):
    arguments, value = value_of_flat(case, case.built())
    rng = np.random.default_rng(4)
    directions = [tf.constant(rng.normal(size=x.shape)) for x in arguments]

    def gradient(arguments):
        with tf.GradientTape() as tape:
            tape.watch(arguments)
            total = value(arguments)
        return tape.gradient(total, arguments)

    @tf.function(jit_compile=jit_compile)
    def hessian_product(arguments):
        with tf.GradientTape() as tape:
            tape.watch(arguments)
            slope = tf.add_n(
                [tf.reduce_sum(g * d) for g, d in zip(gradient(arguments), directions, strict=True)]
            )
        return tape.gradient(slope, arguments)

    step = 1e-5
    ends = [
        gradient([a + s * step * d for a, d in zip(arguments, directions, strict=True)])
        for s in (1, -1)
    ]
    expected = [(a - b) / (2 * step) for a, b in zip(*ends, strict=True)]
    assert any(np.abs(value).max() > 1e-2 for value in expected)
    assert_close(hessian_product(arguments), expected, rtol=1e-5, atol=1e-5)


def test_vectorized_map_over_weights_and_inputs(case):
    # how several chains share one graph; a convolution of dense kernels cannot be vectorised over
    # them and must fall back to a loop, everything else must not
    ways = [({}, False)]
    if issubclass(case.constructor, MultipoleConv):
        ways = [({"method": "dense"}, True)]
        if case.arguments.get("strides", 1) == 1:
            ways.append(({"method": "shells"}, False))
    for arguments, may_loop in ways:
        layer = case.built(**arguments)
        examples = [
            ([tf.constant(w) for w in random_weights(layer, seed)], case.inputs(seed=seed))
            for seed in (1, 2, 3)
        ]
        stacked = tf.nest.map_structure(lambda *values: tf.stack(values), *examples)

        def call(example, layer=layer):
            return layer.stateless_call(example[0], [], example[1])[0]

        mapped = tf.vectorized_map(call, stacked, fallback_to_while_loop=may_loop)
        looped = tf.nest.map_structure(lambda *v: tf.stack(v), *[call(e) for e in examples])
        assert_close(mapped, looped)


def test_layers_share_no_state(case):
    first, second = case.built(), case.built()
    before, config = second.get_weights(), second.get_config()
    first.set_weights([w + 5.0 for w in first.get_weights()])
    for a, b in zip(second.get_weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not {id(w) for w in first.weights} & {id(w) for w in second.weights}
    # another input size for one must not change what the other accepts
    third = case.layer()
    third.build(case.input_shape(more_channels=1))
    second(case.inputs())
    assert second.get_config() == config


def test_stateless_call_equals_assigning(case):
    layer = case.built()
    before = layer.get_weights()
    weights = random_weights(layer)
    outputs, _ = layer.stateless_call([tf.constant(w) for w in weights], [], case.inputs())
    for a, b in zip(layer.get_weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)
    layer.set_weights(weights)
    assert_close(outputs, layer(case.inputs()))
