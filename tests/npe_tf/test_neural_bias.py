import keras
import numpy as np
import pytest
import tensorflow as tf

from layers.components import TaperedParetoComponents
from npe_tf.bias.neural import LogDensity, NeuralBias, neural_bias_model, starting_mean_bias
from npe_tf.catalogue import Catalogue
from npe_tf.grid import Grid
from npe_tf.likelihood import PoissonLikelihood
from npe_tf.parameters import FlatParameters
from tests.npe_tf import reference

LOG_THRESHOLD = float(np.log(2e12))
QUANTITIES = ("log_amplitude", "mean", "scale")


def model(num_cells=6, dtype="float64", seed=0, **options):
    return neural_bias_model(
        num_cells, log_mass_threshold=LOG_THRESHOLD, dtype=dtype, seed=seed, **options
    )


def bias(parameterisation="log_mass", **options):
    built = model(parameterisation=parameterisation, **options)
    return NeuralBias(built, LOG_THRESHOLD, parameterisation)


def density(num_cells=6, seed=1):
    """Overdensity with an empty voxel and a crowded one."""
    delta = np.random.default_rng(seed).exponential(1.0, (num_cells,) * 3) - 1.0
    delta[0, 1, 2], delta[0, 0, 0] = -1.0, 30.0
    return delta


def parameters(seed=2):
    return np.random.default_rng(seed).standard_normal(17)


def test_names_and_order_of_the_17_parameters():
    assert bias().parameters.size == 17
    assert bias().parameters.names == (
        *(f"kernel_weights[{shell}, 0, 0]" for shell in range(4)),
        "bias[0]",
        *(
            f"{quantity}_{weight}{t}]"
            for quantity in ("amplitude", "mean", "scale")
            for weight, indices in (("kernel", ("[0, 0", "[0, 1")), ("bias", ("[0", "[1")))
            for t in indices
        ),
    )


@pytest.mark.parametrize(
    ("options", "size"),
    [({"kernel_size": 1}, 14), ({"kernel_size": 5}, 23), ({"num_components": 3}, 23)],
)
def test_number_of_parameters_of_other_models(options, size):
    assert bias(**options).parameters.size == len(bias(**options).parameters.names) == size


@pytest.mark.parametrize(("padding", "margin"), [("periodic", 0), ("valid", 1)])
@pytest.mark.parametrize(
    ("parameterisation", "sigma_init"), [("log_mass", 0.5), ("mass", np.log(1e3))]
)
def test_output_by_a_loop_over_voxels(parameterisation, sigma_init, padding, margin):
    found = bias(parameterisation, padding=padding, softening=0.2)
    theta = parameters()
    expected = reference.neural_bias(density(), theta, LOG_THRESHOLD, 0.2, sigma_init, margin)
    mixture = found.mass_function(tf.constant(density()), tf.constant(theta))
    assert mixture.parameterisation == parameterisation
    np.testing.assert_allclose(mixture.log_amplitude, expected[0], rtol=1e-10)
    np.testing.assert_allclose(mixture.mean_log_mass, expected[1], rtol=1e-12)
    np.testing.assert_allclose(mixture.scale, expected[2], rtol=1e-10)
    np.testing.assert_allclose(mixture.log_mass_threshold, LOG_THRESHOLD)


def test_a_mass_function_of_theta_is_that_of_assigned_weights():
    found, theta = bias(), tf.constant(parameters())
    delta = tf.constant(density())
    before = found.theta.numpy()
    given = found.mass_function(delta, theta)
    np.testing.assert_array_equal(found.theta, before)
    own = found.mass_function(delta)
    assert np.all(own.scale.numpy() != given.scale.numpy())
    found.parameters.assign(found.model, theta)
    np.testing.assert_array_equal(found.theta, theta)
    own = found.mass_function(delta)
    for name in ("log_amplitude", "mean_log_mass", "scale"):
        np.testing.assert_array_equal(getattr(own, name), getattr(given, name))


def test_flatten_and_unflatten():
    found, theta = bias(), parameters()
    weights = found.parameters.unflatten(theta)
    assert [tuple(w.shape) for w in weights] == [
        tuple(v.shape) for v in found.model.trainable_variables
    ]
    np.testing.assert_array_equal(weights[0][:, 0, 0], theta[:4])
    np.testing.assert_array_equal(weights[2][0], theta[5:7])
    np.testing.assert_array_equal(found.parameters.flatten(weights), theta)
    np.testing.assert_array_equal(
        found.theta, np.concatenate([np.ravel(v) for v in found.model.trainable_variables])
    )


def test_names_are_of_the_numbers_they_stand_for():
    network = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    flat = FlatParameters(network)
    assert flat.size == 8
    for index, name in enumerate(flat.names):
        flat.assign(network, np.eye(8)[index])
        kernel, offset = network.trainable_variables
        variable, place = name.rstrip("]").split("[")
        place = tuple(int(i) for i in place.split(","))
        assert {"kernel": kernel, "bias": offset}[variable].numpy()[place] == 1.0
    with pytest.raises(ValueError, match=r"`variables`. Expected weights of sizes \[6, 2\]"):
        flat.flatten([offset, kernel])


def test_assigning_casts_to_the_dtype_of_the_model():
    found = bias(dtype="float32")
    found.parameters.assign(found.model, tf.constant(parameters()))
    assert found.theta.dtype == tf.float32
    np.testing.assert_array_equal(found.theta, parameters().astype(np.float32))


@pytest.mark.parametrize("shape", [(16,), (18,), (17, 1), ()])
def test_a_vector_of_another_shape_is_refused(shape):
    with pytest.raises(ValueError, match=r"`theta`. Expected shape \(17,\)"):
        bias().parameters.unflatten(np.zeros(shape))


@pytest.mark.parametrize(
    "network", [keras.Sequential([keras.layers.Dense(2)]), keras.Sequential([LogDensity()])]
)
def test_a_model_without_weights_is_refused(network):
    with pytest.raises(ValueError, match="`model`. Expected a built Keras model"):
        FlatParameters(network)


@pytest.mark.parametrize(
    ("of_model", "of_delta", "of_theta"),
    [("float32", "float64", "float64"), ("float64", "float32", "float64"),
     ("float64", "float64", "float32")],
)  # fmt: skip
def test_mixed_precision_is_refused(of_model, of_delta, of_theta):
    found = bias(dtype=of_model)
    with pytest.raises(TypeError, match=f"`theta`.*{of_model}. Received: {of_theta} and "):
        found.mass_function(tf.constant(density(), of_delta), tf.constant(parameters(), of_theta))


def test_a_keras_optimizer_raises_the_likelihood():
    rng = np.random.default_rng(3)
    grid = Grid(6, 24.0)
    haloes = Catalogue(rng.uniform(0, 24, (50, 3)), 2e12 * np.exp(rng.exponential(1, 50)), 24.0)
    likelihood = PoissonLikelihood(grid, haloes, 2e12)
    found, delta = bias(), tf.constant(density())
    optimizer = keras.optimizers.Adam(0.01)
    values = []
    for _ in range(6):
        with tf.GradientTape() as tape:
            values.append(likelihood(found.mass_function(delta)))
            loss = -values[-1]
        variables = found.model.trainable_variables
        optimizer.apply(tape.gradient(loss, [v.value for v in variables]), variables)
    assert np.all(np.diff(values) > 0)


def test_every_parameter_matters():
    found, theta = bias(), tf.constant(parameters())
    with tf.GradientTape() as tape:
        tape.watch(theta)
        mixture = found.mass_function(tf.constant(density()), theta)
        value = tf.reduce_sum(mixture.log_intensity(30.0)) + tf.reduce_sum(mixture.integral())
    assert np.all(tape.gradient(value, theta).numpy() != 0.0)


@pytest.mark.parametrize("parameterisation", ["log_mass", "mass"])
def test_a_saved_model_gives_the_same_output(parameterisation, tmp_path):
    built = model(parameterisation=parameterisation, padding="valid", softening=0.3)
    FlatParameters(built).assign(built, parameters())
    built.save(tmp_path / "bias.keras")
    loaded = keras.models.load_model(tmp_path / "bias.keras")
    inputs = tf.constant(density()[np.newaxis, ..., np.newaxis])
    assert set(loaded(inputs)) == set(QUANTITIES)
    for name in QUANTITIES:
        np.testing.assert_array_equal(loaded(inputs)[name], built(inputs)[name])
    reread = NeuralBias(loaded, LOG_THRESHOLD, parameterisation)
    assert reread.parameters.names == FlatParameters(built).names
    np.testing.assert_array_equal(reread.theta, parameters())


def test_a_model_of_tapered_paretos(tmp_path):
    """It starts where a halo mass function might be, and is read as what it is."""
    built = model(num_components=3, family="tapered_pareto")
    found = NeuralBias(built, LOG_THRESHOLD, family="tapered_pareto")
    head = built.get_layer("mixture_density")
    assert head.family == found.family == TaperedParetoComponents()
    np.testing.assert_array_equal(head.mean_bias, starting_mean_bias(found.family, 3))
    outputs = head(np.zeros((1, 1)))
    np.testing.assert_allclose(outputs["mean"], [LOG_THRESHOLD + np.array([2.0, 4.0, 6.0])])
    np.testing.assert_allclose(outputs["scale"], [[1.0] * 3])
    mixture = found.mass_function(tf.constant(density()))
    assert mixture.family == found.family
    np.testing.assert_allclose(
        mixture.integral(), np.sum(np.exp(mixture.log_amplitude), axis=-1), rtol=1e-12
    )
    built.save(tmp_path / "bias.keras")
    loaded = keras.models.load_model(tmp_path / "bias.keras")
    assert loaded.get_layer("mixture_density").family == found.family


def test_normal_components_start_as_the_layer_starts_them():
    head = model(num_components=3).get_layer("mixture_density")
    np.testing.assert_array_equal(head.mean_bias, starting_mean_bias(head.family, 3))


def test_seeds_of_the_weights():
    first, same, other = (bias(seed=seed).theta.numpy() for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, same)
    assert np.any(first != other)


def test_a_model_for_any_mesh():
    found = bias(num_cells=None)
    for side in (4, 6):
        assert found.mass_function(tf.constant(density(side))).batch_shape == (side,) * 3


@pytest.mark.parametrize("parameterisation", ["linear", "", None])
def test_an_unknown_parameterisation_is_refused(parameterisation):
    with pytest.raises(ValueError, match="`parameterisation`. Expected one of.*Received: param"):
        model(parameterisation=parameterisation)


def test_an_unknown_family_is_refused():
    for make in (model, lambda family: NeuralBias(model(), LOG_THRESHOLD, family=family)):
        with pytest.raises(ValueError, match="`family`. Expected one of.*Received: family='gam"):
            make(family="gamma")


@pytest.mark.parametrize("softening", [0.05, 1.0])
def test_log_density(softening):
    layer = LogDensity(softening, dtype="float64")
    np.testing.assert_allclose(
        layer(tf.constant(density())), np.log(1 + density() + softening), rtol=1e-12
    )
    assert np.all(np.isfinite(layer(tf.constant([-1.0], tf.float64))))
    copy = LogDensity.from_config(layer.get_config())
    assert (copy.softening, copy.name, copy.dtype) == (softening, layer.name, "float64")
    assert layer.compute_output_shape((2, 6, 6, 6, 1)) == (2, 6, 6, 6, 1)


@pytest.mark.parametrize("softening", [0.0, -0.1, np.nan, np.inf])
def test_a_softening_that_is_not_positive_is_refused(softening):
    with pytest.raises(ValueError, match=f"`softening`.*Received: softening={softening}"):
        LogDensity(softening)
