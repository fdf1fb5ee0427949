import dataclasses
import functools

import h5py
import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from npe_tf.catalogue import Catalogue
from npe_tf.cosmology import Cosmology
from npe_tf.gravity.lpt import LPT
from npe_tf.gravity.pm import ParticleMesh
from npe_tf.grid import Grid
from npe_tf.initial_field import InitialField
from npe_tf.posterior import FieldPosterior, PosteriorConfig
from npe_tf.pretraining import random_parameters
from tests.npe_tf import reference
from tests.npe_tf.mock import draw_catalogue

THRESHOLD = 2e12
BOX_SIZE = 32.0
SHAPE = (8, 8, 8)
CONFIG = PosteriorConfig(8, THRESHOLD, dtype="float64")


def catalogue():
    rng = np.random.default_rng(0)
    mass = THRESHOLD * np.exp(rng.exponential(1.0, 100))
    return Catalogue(rng.uniform(0, BOX_SIZE, (100, 3)), mass, BOX_SIZE)


@functools.cache
def posterior(jit_compile=False, **options):
    parts = dataclasses.replace(CONFIG, **options).build(catalogue())
    return FieldPosterior(
        parts.initial_field,
        parts.gravity,
        parts.bias,
        parts.likelihood,
        parts.prior_scale,
        jit_compile=jit_compile,
    )


def noise(*batch, dtype=np.float64, seed=1):
    return np.random.default_rng(seed).standard_normal((*batch, *SHAPE)).astype(dtype)


def parameters(*batch, parameterisation="log_mass", dtype=np.float64, seed=2):
    """Parameters with two living components of ordinary widths."""
    theta = 0.3 * np.random.default_rng(seed).standard_normal((*batch, 17))
    theta[..., 12] += 1.0  # of `mean_bias`
    theta[..., 15:] -= 6.0 if parameterisation == "mass" else 0.0  # of `scale_bias`
    return theta.astype(dtype)


@pytest.mark.parametrize(
    ("mass_assignment", "parameterisation", "padding", "supersampling"),
    [
        ("tsc", "log_mass", "periodic", 1),
        ("tsc", "log_mass", "valid", 2),
        ("tsc", "mass", "periodic", 2),
        ("tsc", "mass", "valid", 1),
        ("cic", "log_mass", "periodic", 1),
        ("cic", "mass", "valid", 2),
    ],
)
def test_gradient_against_differences(mass_assignment, parameterisation, padding, supersampling):
    target = posterior(
        mass_assignment=mass_assignment,
        parameterisation=parameterisation,
        padding=padding,
        supersampling=supersampling,
    )
    state = np.concatenate([noise().ravel(), parameters(parameterisation=parameterisation)])
    step = 1e-6 if mass_assignment == "cic" else 1e-5

    def split(flat):
        return tf.reshape(flat[:512], SHAPE), flat[512:]

    def value(flat):
        return target.log_prob(*split(tf.constant(flat))).numpy()

    def vertices(flat):
        modes = target.initial_field.modes(split(tf.constant(flat))[0])
        return np.floor(target.gravity.positions(modes))

    with tf.GradientTape() as tape:
        point = tf.constant(state)
        tape.watch(point)
        log_prob = target.log_prob(*split(point))
    gradient = tape.gradient(log_prob, point).numpy()

    rng = np.random.default_rng(3)
    in_field = np.arange(529) < 512
    for chosen in (in_field, ~in_field, np.ones(529, bool)):
        direction = chosen * rng.standard_normal(529)
        if mass_assignment == "cic":  # which has kinks there
            ahead, behind = (vertices(state + c * step * direction) for c in (-2, 2))
            np.testing.assert_array_equal(ahead, behind)
        expected = reference.directional_derivative(value, state, direction, step)
        assert abs(expected) > 1.0
        np.testing.assert_allclose(gradient @ direction, expected, rtol=1e-6)


@pytest.mark.parametrize("prior_scale", [10.0, 0.5])
def test_log_prob_is_likelihood_and_priors(prior_scale):
    target = posterior(prior_scale=prior_scale)
    x, theta = noise(), parameters()
    delta = target.density(x)
    mixture = target.bias.mass_function(delta, tf.constant(theta))
    expected = reference.poisson_log_likelihood(
        catalogue(),
        [np.exp(mixture.log_amplitude), mixture.mean_log_mass.numpy(), mixture.scale.numpy()],
        np.log(THRESHOLD),
        "log_mass",
        np.ones(SHAPE),
        0,
    )
    np.testing.assert_allclose(target.log_likelihood(delta, theta), expected, rtol=1e-11)
    field, bias = stats.norm.logpdf(x).sum(), stats.norm.logpdf(theta, scale=prior_scale).sum()
    np.testing.assert_allclose(target.log_prior_field(x), field, rtol=1e-13)
    np.testing.assert_allclose(target.log_prior_parameters(theta), bias, rtol=1e-13)
    np.testing.assert_allclose(target.log_prob(x, theta), expected + field + bias, rtol=1e-11)


def test_chains_are_worked_through_one_by_one():
    target = posterior()
    x, theta = noise(2, 3), parameters(2, 3)
    together = target.log_prob(x, theta)
    assert together.dtype == tf.float64
    assert together.shape == (2, 3)
    alone = [[target.log_prob(x[i, j], theta[i, j]) for j in range(3)] for i in range(2)]
    assert np.std(alone) > 1.0
    np.testing.assert_allclose(together, alone, rtol=1e-13)
    assert target.log_prob(x[0, 0], theta[0, 0]).shape == ()


def test_gradient_of_chains_in_graph_mode():
    target = posterior()

    @tf.function
    def gradients(x, theta):
        with tf.GradientTape() as tape:
            tape.watch([x, theta])
            log_prob = target.log_prob(x, theta)
        return tape.gradient(log_prob, [x, theta])

    x, theta = tf.constant(noise(2)), tf.constant(parameters(2))
    together = gradients(x, theta)
    assert np.all(np.any(together[0].numpy() != 0, axis=(1, 2, 3)))
    for chain in range(2):
        alone = gradients(x[chain], theta[chain])
        for found, expected in zip(together, alone, strict=True):
            np.testing.assert_allclose(found[chain], expected, rtol=1e-9, atol=1e-9)


def test_conditional_densities_are_the_joint_one():
    target = posterior()
    x, theta = tf.constant(noise()), tf.constant(parameters())
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([x, theta])
        joint = target.log_prob(x, theta)
        of_field = target.given_parameters(theta)(x)
        of_parameters = target.given_field(x)(theta)
    np.testing.assert_allclose(of_field, joint, rtol=1e-14)
    np.testing.assert_allclose(of_parameters, joint, rtol=1e-14)
    np.testing.assert_allclose(
        tape.gradient(of_field, x), tape.gradient(joint, x), rtol=1e-10, atol=1e-10
    )
    np.testing.assert_allclose(
        tape.gradient(of_parameters, theta), tape.gradient(joint, theta), rtol=1e-10, atol=1e-10
    )


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_the_likelihood_is_annealed_and_the_priors_are_not(beta):
    target = posterior()
    x, theta = noise(), tf.constant(parameters())
    prior = stats.norm.logpdf(x).sum() + stats.norm.logpdf(theta, scale=10.0).sum()
    expected = prior + beta * target.log_likelihood(target.density(x), theta)
    for inverse_temperature in (beta, tf.constant(beta, tf.float32)):
        log_prob = target.given_parameters(theta, inverse_temperature=inverse_temperature)(x)
        assert log_prob.dtype == tf.float64
        np.testing.assert_allclose(log_prob, expected, rtol=1e-13)


def test_compiled_by_xla_or_not():
    x, theta = tf.constant(noise()), tf.constant(parameters())
    results = []
    for jit_compile in (False, True):
        target = posterior(jit_compile=jit_compile)
        with tf.GradientTape() as tape:
            tape.watch([x, theta])
            log_prob = target.log_prob(x, theta)
        results.append([log_prob, *tape.gradient(log_prob, [x, theta])])
    for plain, compiled in zip(*results, strict=True):
        np.testing.assert_allclose(compiled, plain, rtol=1e-9, atol=1e-9)


def test_float32_agrees_with_float64():
    """About 1,000 terms of order ten, each with a few roundings of 6e-8."""
    single = posterior(dtype="float32")
    x, theta = noise(dtype=np.float32), parameters(dtype=np.float32)
    log_prob = single.log_prob(x, theta)
    assert log_prob.dtype == tf.float64
    expected = posterior().log_prob(x.astype(np.float64), theta.astype(np.float64))
    np.testing.assert_allclose(log_prob, expected, rtol=0, atol=2e-3)


def test_density_is_an_overdensity_on_the_mesh():
    target = posterior()
    assert target.grid == Grid(8, BOX_SIZE)
    delta = target.density(noise()).numpy()
    assert delta.shape == SHAPE
    assert delta.min() >= -1.0
    np.testing.assert_allclose(delta.mean(), 0.0, atol=1e-13)
    assert delta.std() > 0.1


@pytest.mark.parametrize("shape", [(16,), (18,), (1,), (), (2, 17)])
def test_parameters_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match="Invalid value for argument `theta`"):
        posterior().log_prob(noise(), np.zeros(shape))


def test_chains_without_parameters_of_their_own_are_refused():
    with pytest.raises(ValueError, match=r"`theta`. Expected leading shape \(2,\)"):
        posterior().log_prob(noise(2), parameters())


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 6), (16, 16, 16), (8,)])
def test_white_noise_of_another_shape_is_refused(shape):
    with pytest.raises(ValueError, match="Invalid value for argument `white_noise`"):
        posterior().log_prob(np.zeros(shape), parameters())


@pytest.mark.parametrize(
    ("model", "field", "bias"),
    [
        ("float64", np.float32, np.float64),
        ("float64", np.float64, np.float32),
        ("float32", np.float64, np.float64),
    ],
)
def test_mixed_precision_is_refused(model, field, bias):
    target = posterior(dtype=model)
    with pytest.raises(TypeError, match=f"`theta`.*model's dtype {model}"):
        target.log_prob(noise(dtype=field), parameters(dtype=bias))


@pytest.mark.parametrize("prior_scale", [0.0, -1.0, np.nan, np.inf])
def test_a_prior_without_a_width_is_refused(prior_scale):
    with pytest.raises(ValueError, match="`prior_scale`.*Received: prior_scale="):
        dataclasses.replace(CONFIG, prior_scale=prior_scale).build(catalogue())


@pytest.mark.parametrize("grid", [Grid(10, BOX_SIZE), Grid(8, 33.0)])
def test_meshes_that_differ_are_refused(grid):
    parts = posterior()
    with pytest.raises(ValueError, match=r"`likelihood`. Expected the grid Grid\(num_cells="):
        FieldPosterior(InitialField(grid, Cosmology()), parts.gravity, parts.bias, parts.likelihood)


def test_config_sets_the_parts():
    config = PosteriorConfig(
        num_cells=8,
        mass_threshold=3e12,
        cosmology=Cosmology(Omega_m=0.25, sigma8=0.9),
        scale_factor=0.5,
        supersampling=2,
        mass_assignment="cic",
        padding="valid",
        kernel_size=5,
        num_components=3,
        softening=0.2,
        parameterisation="mass",
        prior_scale=5.0,
        dtype="float64",
    )
    target = config.build(catalogue(), completeness=np.full(SHAPE, 0.5))
    assert target.initial_field.cosmology == target.gravity.cosmology == config.cosmology
    assert target.gravity.scale_factor == 0.5
    assert target.gravity.supersampling == 2
    assert target.gravity.mass_assignment == "cic"
    assert target.likelihood.shape == (4, 4, 4)
    assert target.likelihood.mass_threshold == 3e12
    assert np.all(target.likelihood.completeness == 0.5)
    assert target.bias.parameters.size == 10 + 1 + 18
    assert target.bias.dtype == "float64"
    assert target.bias.parameterisation == "mass"
    np.testing.assert_allclose(target.bias.log_mass_threshold, np.log(3e12))
    assert target.bias.model.get_layer("log_density").softening == 0.2
    assert target.prior_scale == 5.0
    assert target.bias.mass_function(target.density(noise())).batch_shape == (4, 4, 4)


def test_config_sets_the_family():
    config = dataclasses.replace(CONFIG, component_family="tapered_pareto")
    target = config.build(catalogue())
    assert target.bias.family == target.bias.model.get_layer("mixture_density").family
    assert target.bias.family.name == "tapered_pareto"
    delta = tf.constant(np.random.default_rng(0).random(SHAPE) - 0.5, target.bias.dtype)
    theta = tf.constant(random_parameters(target.bias, 1), target.bias.dtype)
    with tf.GradientTape() as tape:
        tape.watch(theta)
        value = target.log_likelihood(delta, theta)
    assert np.isfinite(value) and np.all(np.isfinite(tape.gradient(value, theta)))


def test_a_family_without_the_parameterisation():
    config = PosteriorConfig(8, 2e12, parameterisation="mass", component_family="tapered_pareto")
    with pytest.raises(ValueError, match="`parameterisation`. Expected 'log_mass' for the family"):
        config.build_bias()


def test_fresh_weights_follow_the_seed():
    first, second, other = (CONFIG.build_bias(seed).theta.numpy() for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, second)
    assert np.any(first != other)


CONFIGS = pytest.mark.parametrize(
    "config",
    [
        PosteriorConfig(64, 2e12),
        PosteriorConfig(
            16, 1e13, Cosmology(h=0.7, T_cmb=2.7), 0.5, 2, "cic", "valid", 5, 3, 0.05, "mass", 1.0,
            "float64",
        ),
        PosteriorConfig(64, 2e12, component_family="tapered_pareto"),
        PosteriorConfig(
            64,
            2e12,
            gravity="2lpt",
            redshift_space=True,
            observer=(1.0, -2.5, 3.0),
            light_cone=True,
        ),
        PosteriorConfig(64, 2e12, gravity="pm", pm_steps=3, pm_force_factor=2),
        PosteriorConfig(64, 2e12, Cosmology(w0=-0.9, wa=0.1, Omega_k=0.02)),
        PosteriorConfig(64, 2e12, Cosmology(sigma8=None, A_s=2e-9)),
    ],
)  # fmt: skip


@CONFIGS
def test_config_survives_attributes(config):
    attributes = config.to_attributes()
    assert all(isinstance(value, (str, int, float, list)) for value in attributes.values())
    # w0, wa and Omega_k are left out where they are those of LCDM, and other models of gravity
    # or bias where there are none: as in runs from before there were any
    later = 0 if config.cosmology.w0 == -1.0 else 3
    if config.gravity == "1lpt":
        assert len(attributes) == len(dataclasses.fields(config)) - 9 + 6 + later
    assert PosteriorConfig.from_attributes({**attributes, "git": "0123abc"}) == config


def test_attributes_from_before_there_were_families():
    attributes = PosteriorConfig(64, 2e12).to_attributes()
    del attributes["component_family"]
    assert PosteriorConfig.from_attributes(attributes) == PosteriorConfig(64, 2e12)


def test_attributes_from_before_there_was_dark_energy():
    """What such files hold, written out: they load, and a run goes on under the same marks."""
    names = ("Omega_m", "Omega_b", "h", "sigma8", "n_s", "T_cmb")
    config = PosteriorConfig(64, 2e12)
    attributes = config.to_attributes()
    old = {f"cosmology.{name}": getattr(Cosmology(), name) for name in names}
    assert {k: v for k, v in attributes.items() if k.startswith("cosmology.")} == old
    assert PosteriorConfig.from_attributes(attributes).cosmology == Cosmology()


@pytest.mark.parametrize("name", ["Omega_m", "sigma8"])
def test_attributes_that_lack_a_parameter(name):
    attributes = PosteriorConfig(64, 2e12).to_attributes()
    del attributes[f"cosmology.{name}"]
    with pytest.raises(KeyError, match=name):
        PosteriorConfig.from_attributes(attributes)


@CONFIGS
def test_config_survives_a_file(config, tmp_path):
    with h5py.File(tmp_path / "chain.h5", "w") as file:
        file.attrs.update(config.to_attributes())
        file.attrs["date"] = "today"
    with h5py.File(tmp_path / "chain.h5") as file:
        assert isinstance(file.attrs["num_cells"], np.integer)
        copy = PosteriorConfig.from_attributes(file.attrs)
    assert copy == config
    for field in dataclasses.fields(config):
        assert type(getattr(copy, field.name)) is type(getattr(config, field.name))
    assert type(copy.cosmology.h) is float


@pytest.mark.parametrize(("gravity", "kind"), [("1lpt", LPT), ("2lpt", LPT), ("pm", ParticleMesh)])
def test_every_gravity_gives_a_posterior(gravity, kind):
    """The posterior does not know which gravity it runs; its gradient is right for each."""
    catalogue, white_noise, _ = draw_catalogue()
    config = PosteriorConfig(8, 2e12, gravity=gravity, pm_steps=2, dtype="float64")
    posterior = config.build(catalogue)
    assert isinstance(posterior.gravity, kind)
    assert getattr(posterior.gravity, "order", 1) == (2 if gravity == "2lpt" else 1)
    theta = tf.constant(posterior.bias.theta)
    x = tf.constant(white_noise, tf.float64)
    direction = tf.constant(np.random.default_rng(0).normal(size=x.shape))
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = posterior.log_prob(x, theta)
    found = float(tf.reduce_sum(tape.gradient(y, x) * direction))
    step = 1e-5
    ahead, behind = (posterior.log_prob(x + s * step * direction, theta) for s in (1, -1))
    assert found == pytest.approx(float(ahead - behind) / (2 * step), rel=1e-5)


def test_gravity_on_another_mesh_is_refused():
    catalogue, _, _ = draw_catalogue()
    parts = PosteriorConfig(8, 2e12).build(catalogue)
    other = LPT(Grid(16, catalogue.box_size), Cosmology())
    with pytest.raises(ValueError, match="`gravity`.*num_cells=8.*num_cells=16"):
        FieldPosterior(parts.initial_field, other, parts.bias, parts.likelihood)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"gravity": "3lpt"}, "`gravity`.*'2lpt'.*'3lpt'"),
        ({"gravity": "pm", "light_cone": True}, "`gravity`.*light cone.*'pm'"),
    ],
)
def test_gravity_is_checked(arguments, match):
    with pytest.raises(ValueError, match=match):
        PosteriorConfig(8, 2e12, **arguments)
