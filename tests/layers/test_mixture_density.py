import keras
import numpy as np
import pytest
import tensorflow as tf

from layers import MixtureDensity
from layers.components import (
    NormalComponents,
    PerMassNormalComponents,
    TaperedParetoComponents,
)
from layers.mixture_density import log_softplus
from tests.layers import reference


def normal(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def built(features, *args, **kwargs):
    layer = MixtureDensity(*args, **{"dtype": "float64", **kwargs})
    layer.build((None, features))
    return layer


@pytest.mark.parametrize("activation", ["relu", "softplus"])
@pytest.mark.parametrize(("features", "components"), [(1, 2), (1, 1), (3, 4)])
def test_against_loops(features, components, activation):
    layer = built(features, components, 28.3, 2e-3, 0.7, activation)
    layer.set_weights([normal(w.shape, n) for n, w in enumerate(layer.weights)])
    inputs = normal((2, 5, features), 9)
    outputs = layer(inputs)
    expected = reference.mixture_density(
        inputs.reshape(-1, features), layer.get_weights(), 28.3, 2e-3, 0.7, activation
    )
    for name, value in zip(("log_amplitude", "mean", "scale"), expected, strict=True):
        assert outputs[name].shape == (2, 5, components)
        value = np.log(value) if name == "log_amplitude" else value
        np.testing.assert_allclose(
            np.reshape(outputs[name], value.shape), value, rtol=1e-12, err_msg=name
        )


def test_twelve_numbers_in_order():
    layer = built(1, 2)
    assert [(w.name, tuple(w.shape)) for w in layer.weights] == [
        ("amplitude_kernel", (1, 2)),
        ("amplitude_bias", (2,)),
        ("mean_kernel", (1, 2)),
        ("mean_bias", (2,)),
        ("scale_kernel", (1, 2)),
        ("scale_bias", (2,)),
    ]
    assert layer.count_params() == 12


def test_where_psi_is_zero_the_initial_values_come_out():
    layer = built(1, 3, 5.0, initial_amplitude=1e-9, initial_width=40.0)
    outputs = layer(np.zeros((1, 1)))
    np.testing.assert_allclose(np.exp(outputs["log_amplitude"]), [[1e-9] * 3], rtol=1e-12)
    np.testing.assert_allclose(outputs["scale"], [[40.0] * 3], rtol=1e-12)
    np.testing.assert_allclose(outputs["mean"], [[5.0, 6.0, 7.0]], rtol=1e-12)


def test_components_start_apart_with_a_live_gradient():
    layer = MixtureDensity(3)
    inputs = tf.constant(np.linspace(0, 0.5, 6)[:, None], tf.float32)
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(layer(inputs)["mean"])
    np.testing.assert_array_equal(layer.mean_bias, [0.0, 1.0, 1.0])
    assert np.all(np.abs(tape.gradient(total, layer.mean_bias.value)) > 0)


def test_the_trap_that_the_start_avoids():
    layer = built(1, 2, mean_bias_initializer=keras.initializers.Constant(-20.0))
    with tf.GradientTape() as tape:
        mean = layer(normal((7, 1)))["mean"]
    np.testing.assert_array_equal(mean[:, 0], mean[:, 1])
    assert tape.gradient(mean, layer.mean_bias.value)[1] == 0


def test_the_three_kernels_are_drawn_apart():
    layer = built(2, 3, kernel_initializer=keras.initializers.RandomNormal(seed=4))
    kernels = [layer.amplitude_kernel, layer.mean_kernel, layer.scale_kernel]
    assert len(np.unique(np.stack([k.numpy() for k in kernels]))) == 18


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize(
    ("dtype", "rtol"), [("float32", 4e-7), ("float64", 4e-15), ("float16", 2e-2)]
)
def test_log_softplus(dtype, rtol, jit_compile):
    x = np.array([-3e4, -200.0, -90.0, -20.0, -12.5, -12.0, -11.5, -9.0, -8.0, -7.0, 0.0, 5.0, 1e3])
    expected = []
    for value in x:
        u = np.exp(min(value, 30.0))
        # log1p is exact where softplus is small, and softplus is x where it is large
        expected.append(
            np.log(value) if value > 30 else value + (np.log(np.log1p(u) / u) if u > 0 else 0.0)
        )
    value = tf.function(log_softplus, jit_compile=jit_compile)(tf.constant(x, dtype))
    assert value.dtype == dtype
    np.testing.assert_allclose(value.numpy().astype("float64"), expected, rtol=rtol, atol=rtol)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_log_softplus_has_finite_gradients(dtype):
    x = tf.constant([-1e30, -1e4, -100.0, -12.1, -11.9, -8.1, -7.9, 0.0, 100.0, 1e30], dtype)
    with tf.GradientTape() as outer:
        outer.watch(x)
        with tf.GradientTape() as inner:
            inner.watch(x)
            y = log_softplus(x)
        first = inner.gradient(y, x)
    second = outer.gradient(first, x)
    assert np.all(np.isfinite(first)) and np.all(np.isfinite(second))
    # d/dx log softplus = sigmoid / softplus, which tends to 1 - e^x / 2 on the left
    np.testing.assert_allclose(first[:3], 1.0, rtol=1e-6)
    u = np.exp(np.array([-12.1, -11.9, -8.1, -7.9, 0.0]))
    np.testing.assert_allclose(first[3:8], u / (1 + u) / np.log1p(u), rtol=1e-6)


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_nothing_underflows(dtype, jit_compile):
    layer = MixtureDensity(2, dtype=dtype, kernel_initializer="ones")
    inputs = tf.constant([[-3e4], [-100.0], [-30.0], [0.0]], dtype)
    outputs = tf.function(layer, jit_compile=jit_compile)(inputs)
    assert np.all(outputs["scale"].numpy().astype("float32") > 5e-7)
    for value in outputs.values():
        assert np.all(np.isfinite(value.numpy().astype("float32")))


def test_the_floor_leaves_ordinary_widths_alone():
    layer = built(1, 1, initial_width=2e-6)
    np.testing.assert_allclose(layer(np.zeros((1, 1)))["scale"], 2e-6, rtol=1e-9)
    layer = built(1, 1, initial_width=5e-7)
    np.testing.assert_allclose(layer(np.zeros((1, 1)))["scale"], 1e-6, rtol=1e-15)


def test_in_the_functional_api():
    features = keras.Input((None, None, None, 1))
    outputs = MixtureDensity(2)(features)
    assert {name: tuple(value.shape) for name, value in outputs.items()} == {
        name: (None, None, None, None, 2) for name in ("log_amplitude", "mean", "scale")
    }
    model = keras.Model(features, outputs)
    assert model(np.zeros((1, 2, 2, 2, 1)))["mean"].shape == (1, 2, 2, 2, 2)


@pytest.mark.parametrize("dtype", ["float64", "mixed_bfloat16"])
def test_stacked_outputs_are_those_of_the_dictionary(dtype):
    inputs = normal((2, 4, 5, 3))
    separate, stacked = (
        MixtureDensity(4, 28.3, dtype=dtype, output_format=form) for form in ("dict", "stacked")
    )
    for layer in (separate, stacked):
        layer.build((None, 3))
    stacked.set_weights(separate.get_weights())
    outputs = stacked(inputs)
    assert outputs.shape == stacked.compute_output_shape(inputs.shape) == (2, 4, 5, 3, 4)
    assert stacked.compute_output_shape((None, 3)) == (None, 3, 4)
    assert stacked(keras.Input((None, None, 3))).shape == (None, None, None, 3, 4)
    for value, expected in zip(
        tf.unstack(outputs, axis=-2), separate(inputs).values(), strict=True
    ):
        np.testing.assert_array_equal(value, expected)


@pytest.mark.parametrize(
    ("arguments", "family"),
    [
        ({}, NormalComponents()),
        ({"parameterisation": "mass"}, PerMassNormalComponents()),
        ({"family": "tapered_pareto"}, TaperedParetoComponents()),
        ({"family": TaperedParetoComponents()}, TaperedParetoComponents()),
        ({"family": PerMassNormalComponents()}, PerMassNormalComponents()),
    ],
)
def test_family_and_format_survive_the_configuration(arguments, family):
    layer = MixtureDensity(2, output_format="stacked", **arguments)
    config = layer.get_config()
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert again.get_config() == config
    assert layer.family == again.family == family
    assert again.output_format == "stacked"
    assert again.parameterisation == arguments.get("parameterisation", "log_mass")


def test_the_family_changes_nothing_that_is_computed():
    plain = built(2, 3, 5.0)
    other = built(2, 3, 5.0, family="tapered_pareto")
    other.set_weights(plain.get_weights())
    for value, expected in zip(other(normal((4, 2))).values(), plain(normal((4, 2))).values(),
                               strict=True):  # fmt: skip
        np.testing.assert_array_equal(value, expected)


def test_softplus_keeps_the_means_apart_where_a_relu_joins_them():
    for activation, is_apart in (("relu", False), ("softplus", True)):
        layer = built(1, 2, 28.3, mean_activation=activation, mean_bias_initializer="zeros")
        layer.mean_kernel.assign([[0.0, 1.0]])
        gap = np.diff(layer(np.array([[-5.0]]))["mean"])
        assert (gap > 0) == is_apart


def test_regularizers_and_constraints_reach_the_weights():
    layer = MixtureDensity(
        2,
        kernel_initializer="ones",
        amplitude_bias_initializer="ones",
        scale_bias_initializer="ones",
        kernel_regularizer=keras.regularizers.L1(1.0),
        bias_regularizer=keras.regularizers.L1(10.0),
        kernel_constraint="non_neg",
        bias_constraint="unit_norm",
    )
    layer.build((None, 1))
    np.testing.assert_allclose(sum(layer.losses), 6 * 1.0 + (2 + 1 + 2) * 10.0)
    for weight in layer.weights:
        kind = keras.constraints.NonNeg if "kernel" in weight.name else keras.constraints.UnitNorm
        assert isinstance(weight.constraint, kind)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_components": 0}, "`num_components`. Expected a strictly positive integer. Received"),
        ({"num_components": 1.5}, "`num_components`. Expected .* Received: num_components=1.5"),
        ({"log_mass_threshold": float("nan")}, "`log_mass_threshold`. Expected a finite number"),
        ({"log_mass_threshold": "28"}, "`log_mass_threshold`. Expected .*_threshold='28'"),
        ({"initial_amplitude": 0.0}, "`initial_amplitude`. Expected a strictly positive finite"),
        ({"initial_width": -1.0}, "`initial_width`. Expected .* Received: initial_width=-1.0"),
        ({"initial_width": float("inf")}, "`initial_width`. Expected a strictly positive finite"),
        ({"mean_activation": "tanh"}, "`mean_activation`. Expected one of .*_activation='tanh'"),
        ({"family": "gamma"}, "`family`. Expected one of .* or a ComponentFamily. .*='gamma'"),
        ({"parameterisation": "lin"}, "`parameterisation`. Expected one of .*='lin'"),
        (
            {"family": "tapered_pareto", "parameterisation": "mass"},
            "`parameterisation`. Expected 'log_mass' for the family 'tapered_pareto'. Received",
        ),
        ({"output_format": "list"}, "`output_format`. Expected one of .*_format='list'"),
    ],
)
def test_invalid_arguments(arguments, message):
    with pytest.raises(ValueError, match=f"Invalid value for argument {message}"):
        MixtureDensity(**{"num_components": 2, **arguments})


@pytest.mark.parametrize("shape", [(4, None), ()])
def test_unknown_features(shape):
    with pytest.raises(ValueError, match="`input_shape`. Expected a known number of features"):
        MixtureDensity(2).build(shape)
