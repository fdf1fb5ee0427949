"""What every layer must do, over a list of all of them."""

import copy
import pickle

import keras
import numpy as np
import pytest
import tensorflow as tf

import layers
from layers import MixtureDensity, MultipoleConv3D, PeriodicPadding3D

MESH = (4, 3, 5)

# (name, constructor, arguments, input shape without the batch)
CASES = [
    ("conv_periodic", MultipoleConv3D, {"filters": 1, "kernel_size": 3, "padding": "periodic"}, 1),
    ("conv_valid", MultipoleConv3D, {"filters": 1, "kernel_size": 3}, 1),
    (
        "conv_same",
        MultipoleConv3D,
        {"filters": 1, "kernel_size": 3, "padding": "same", "use_bias": False},
        1,
    ),
    (
        "conv_dense_periodic",
        MultipoleConv3D,
        {
            "filters": 3,
            "kernel_size": 3,
            "padding": "periodic",
            "activation": "softplus",
            "kernel_initializer": keras.initializers.HeNormal(seed=2),
            "bias_initializer": keras.initializers.Constant(0.3),
            "kernel_regularizer": keras.regularizers.L2(0.1),
            "bias_regularizer": keras.regularizers.L1(0.1),
            "kernel_constraint": keras.constraints.MaxNorm(3.0),
            "bias_constraint": keras.constraints.NonNeg(),
        },
        2,
    ),
    ("conv_dense_valid", MultipoleConv3D, {"filters": 2, "kernel_size": 3}, 1),
    (
        "conv_shells_same",
        MultipoleConv3D,
        {"filters": 2, "kernel_size": 5, "padding": "same", "method": "shells"},
        2,
    ),
    ("padding", PeriodicPadding3D, {"padding": ((1, 0), (2, 2), (0, 1))}, 2),
    ("mixture", MixtureDensity, {"num_components": 2, "log_mass_threshold": 28.3}, 1),
    (
        "mixture_softplus",
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
        3,
    ),
]
POLICIES = ["float32", "float64", "mixed_bfloat16", "mixed_float16"]


class Case:
    """One layer: how to make it, and inputs for it."""

    def __init__(self, constructor, arguments, channels):
        self.constructor, self.arguments, self.channels = constructor, arguments, channels

    def layer(self, dtype="float64", **kwargs):
        return self.constructor(**self.arguments, dtype=dtype, **kwargs)

    def inputs(self, dtype="float64", seed=1):
        values = np.random.default_rng(seed).normal(size=(2, *MESH, self.channels))
        return tf.constant(values, dtype)

    def built(self, dtype="float64"):
        layer = self.layer(dtype)
        layer.build((None, *MESH, self.channels))
        return layer

    def model(self, dtype="float64"):
        inputs = keras.Input((*MESH, self.channels), dtype=dtype)
        return keras.Model(inputs, self.layer(dtype)(inputs))


@pytest.fixture(params=CASES, ids=[case[0] for case in CASES])
def case(request):
    return Case(*request.param[1:])


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
    assert exported == {case[1] for case in CASES}


@pytest.mark.parametrize("policy", POLICIES)
def test_output_shape_and_dtype(case, policy):
    layer = case.layer(policy)
    inputs = case.inputs("float32")
    outputs = layer(inputs)
    shapes = layer.compute_output_shape(inputs.shape)
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
    symbolic = case.layer()(keras.Input((None, None, None, case.channels)))
    for value in tf.nest.flatten(symbolic):
        assert tuple(value.shape[:-1]) == (None,) * 4
        assert value.shape[-1] is not None
    model = case.model()
    expected = model.layers[-1].compute_output_shape((None, *MESH, case.channels))
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


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_compiled_value_and_gradient(case, dtype, jit_compile):
    layer = case.built(dtype)
    weights = [tf.constant(w) for w in random_weights(layer)]
    inputs = case.inputs(dtype)

    def value_and_gradient(inputs, weights):
        with tf.GradientTape() as tape:
            tape.watch([inputs, *weights])
            value = total(layer.stateless_call(weights, [], inputs)[0])
        return value, tape.gradient(value, [inputs, *weights])

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


def test_gradient_against_finite_differences(case):
    layer = case.built()
    arguments = [case.inputs(), *(tf.constant(w) for w in random_weights(layer))]

    def value(*arguments):
        return total(layer.stateless_call(list(arguments[1:]), [], arguments[0])[0])

    with tf.GradientTape() as tape:
        tape.watch(arguments)
        gradients = tape.gradient(value(*arguments), arguments)
    rng = np.random.default_rng(4)
    step = 1e-5
    for which, (argument, gradient) in enumerate(zip(arguments, gradients, strict=True)):
        direction = rng.normal(size=argument.shape)
        ends = []
        for sign in (1, -1):
            moved = list(arguments)
            moved[which] = argument + sign * step * direction
            ends.append(value(*moved))
        np.testing.assert_allclose(
            np.sum(gradient * direction), (ends[0] - ends[1]) / (2 * step), rtol=1e-6, atol=1e-6
        )


@pytest.mark.parametrize("jit_compile", [False, True])
def test_second_derivative_against_differences_of_the_first(case, jit_compile):
    layer = case.built()
    weights = [tf.constant(w) for w in random_weights(layer)]
    inputs = case.inputs()
    rng = np.random.default_rng(4)
    directions = [tf.constant(rng.normal(size=x.shape)) for x in [inputs, *weights]]

    def gradient(arguments):
        with tf.GradientTape() as tape:
            tape.watch(arguments)
            value = total(layer.stateless_call(list(arguments[1:]), [], arguments[0])[0])
        return tape.gradient(value, arguments)

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
        gradient([a + s * step * d for a, d in zip([inputs, *weights], directions, strict=True)])
        for s in (1, -1)
    ]
    expected = [(a - b) / (2 * step) for a, b in zip(*ends, strict=True)]
    assert any(np.abs(value).max() > 1e-2 for value in expected)
    assert_close(hessian_product([inputs, *weights]), expected, rtol=1e-5, atol=1e-5)


def test_layers_share_no_state(case):
    first, second = case.built(), case.built()
    before, config = second.get_weights(), second.get_config()
    first.set_weights([w + 5.0 for w in first.get_weights()])
    for a, b in zip(second.get_weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not {id(w) for w in first.weights} & {id(w) for w in second.weights}
    # another input size for one must not change what the other accepts
    third = case.layer()
    third.build((None, *MESH, case.channels + 1))
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
