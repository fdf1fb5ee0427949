import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from npe_tf.cosmology import Cosmology
from npe_tf.datasets import load_nbody_box
from npe_tf.gravity.lpt import LPT, lpt_displacements
from npe_tf.gravity.pm import ParticleMesh
from npe_tf.grid import Grid
from npe_tf.initial_field import InitialField
from npe_tf.power import linear_power
from npe_tf.statistics import cross_correlation, power_spectrum

COSMOLOGY = Cosmology()


@pytest.mark.parametrize("supersampling", [1, 2])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_plane_wave_displacement(axis, supersampling):
    """delta = A cos(k q) moves particles by -A/k sin(k q), the exact solution in 1D."""
    grid = Grid(8, 40.0)
    k, amplitude = 2 * grid.fundamental, 0.3
    q = np.indices(grid.shape)[axis] * grid.cell_size
    modes = tf.constant(np.fft.rfftn(amplitude * np.cos(k * q)))
    gravity = LPT(grid, COSMOLOGY, scale_factor=0.5, supersampling=supersampling)
    found = gravity.displacement(modes).numpy()
    fine = np.indices((8 * supersampling,) * 3)[axis] * grid.cell_size / supersampling
    growth = COSMOLOGY.growth_factor(0.5)
    expected = np.zeros_like(found)
    expected[axis] = -growth * amplitude / k * np.sin(k * fine)
    np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("mass_assignment", ["cic", "tsc"])
def test_small_fields_stay_linear(mass_assignment):
    """To first order the lattice's density is minus the central difference of its displacement.

    A particle on a vertex sits on a kink of cloud-in-cell, whose even part |psi| is as large as
    the linear one; it cancels between a field and its negative.
    """
    grid = Grid(16, 100.0)
    white_noise = np.random.default_rng(0).standard_normal(grid.shape)
    modes = InitialField(grid, COSMOLOGY).modes(white_noise * 1e-6).numpy()
    gravity = LPT(grid, COSMOLOGY, mass_assignment=mass_assignment)
    plus, minus = (gravity(tf.constant(sign * modes)).numpy() for sign in (1, -1))
    found = np.fft.rfftn((plus - minus) / 2 if mass_assignment == "cic" else plus)
    k = [grid.fundamental * f for f in grid.frequencies]
    # the wider cloud also smooths along the two axes across
    across = [
        0.75 + 0.25 * np.cos(ki * grid.cell_size) if mass_assignment == "tsc" else 1.0 for ki in k
    ]
    window = sum(
        ki * np.sin(ki * grid.cell_size) / grid.cell_size * across[i - 1] * across[i - 2]
        for i, ki in enumerate(k)
    )
    expected = modes * window / np.where(grid.alive, grid.wavenumber**2, 1.0)
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())
    np.testing.assert_allclose([plus.mean(), minus.mean()], 0.0, atol=1e-12)


def test_zeldovich_follows_the_simulation_on_large_scales():
    box = load_nbody_box()
    grid = Grid(64, box.box_size)
    modes = tf.constant(np.fft.rfftn(box.delta_linear) * grid.alive)
    delta = LPT(grid, COSMOLOGY)(modes).numpy()
    k, r = cross_correlation(delta, box.delta_final, grid)
    assert np.all(r[k < 0.1] > 0.98)
    assert np.all(r[k < 0.3] > 0.85)


def test_initial_field_has_the_linear_power():
    grid = Grid(32, 250.0)
    draws = np.random.default_rng(5).standard_normal((8, *grid.shape))
    field = InitialField(grid, COSMOLOGY)(draws).numpy()
    _, power, count = power_spectrum(field, grid)
    expected = grid.shell_mean(linear_power(grid.wavenumber, COSMOLOGY))
    # P is a mean of count/2 exponential variables per draw
    error = np.sqrt(2 / count / len(draws))
    pull = (power.mean(axis=0) / expected - 1) / error
    assert np.all(np.abs(pull) < 4.5)
    assert np.std(pull) > 0.3  # the error bar is no overestimate


def test_white_noise_is_the_inverse():
    grid = Grid(8, 50.0)
    initial = InitialField(grid, COSMOLOGY)
    noise = np.random.default_rng(6).standard_normal(grid.shape)
    delta = initial(noise).numpy()
    np.testing.assert_allclose(initial(initial.white_noise(delta)).numpy(), delta, atol=1e-12)


def test_shipped_initial_field_is_white_in_this_cosmology():
    box = load_nbody_box()
    grid = Grid(64, box.box_size)
    noise = InitialField(grid, COSMOLOGY).white_noise(box.delta_linear)
    modes = np.abs(np.fft.rfftn(noise)) ** 2 / grid.num_cells**3
    assert np.all(np.abs(grid.shell_mean(modes)[3:] - 1) < 0.15)


def test_second_order_vanishes_for_a_plane_wave():
    grid = Grid(8, 40.0)
    wave = 0.3 * np.cos(grid.fundamental * (np.indices(grid.shape).sum(0) * grid.cell_size))
    first, second = lpt_displacements(tf.constant(np.fft.rfftn(wave)), grid, order=2)
    assert np.abs(first).max() > 0.1
    np.testing.assert_allclose(second, 0.0, atol=1e-12)


@pytest.mark.parametrize("supersampling", [1, 2])
def test_second_order_of_two_crossed_waves(supersampling):
    """S = A B cos(kx) cos(ky), whose inverse Laplacian is -S/(2 k^2)."""
    grid = Grid(8, 40.0)
    k, a, b = grid.fundamental, 0.3, 0.2
    x, y, _ = np.indices(grid.shape) * grid.cell_size
    modes = tf.constant(np.fft.rfftn(a * np.cos(k * x) + b * np.cos(k * y)))
    _, second = lpt_displacements(modes, grid, 2, supersampling)
    x, y, _ = np.indices((8 * supersampling,) * 3) * grid.cell_size / supersampling
    expected = [np.sin(k * x) * np.cos(k * y), np.cos(k * x) * np.sin(k * y), 0.0 * x]
    np.testing.assert_allclose(second, a * b / (2 * k) * np.array(expected), atol=1e-12)


def test_a_sphere_follows_spherical_collapse_to_second_order():
    """Inside a top hat x = q (1 - D1 delta/3 + D2 delta^2/9), that is 17/21 delta^2."""
    grid = Grid(48, 48.0)
    centre = (np.indices(grid.shape).T - 24.0).T
    radius = np.sqrt((centre**2).sum(0))
    field = 0.8 / (1.0 + np.exp((radius - 9.0) / 0.7))
    delta = field[24, 24, 24] - field.mean()  # the mean of the box is no part of it
    modes = tf.constant(np.fft.rfftn(field) * grid.alive)
    first, second = (LPT(grid, COSMOLOGY, order=order).displacement(modes) for order in (1, 2))
    q = np.arange(1, 5)
    along = np.array([f[0, 24 + q, 24, 24] for f in (first.numpy(), second.numpy())])
    np.testing.assert_allclose(along[0] / q, -delta / 3, rtol=2e-2)
    growth = float(COSMOLOGY.second_order_growth_factor(1.0))
    np.testing.assert_allclose((along[1] - along[0]) / q, growth * delta**2 / 9, rtol=4e-2)


@pytest.mark.parametrize("order", [1, 2])
def test_rates_are_derivatives_of_displacements(order):
    grid, step = Grid(8, 40.0), 1e-4
    modes = InitialField(grid, COSMOLOGY).modes(np.random.default_rng(0).normal(size=grid.shape))
    now = LPT(grid, COSMOLOGY, order=order, scale_factor=0.6)
    before, after = (
        LPT(grid, COSMOLOGY, order=order, scale_factor=0.6 * np.exp(sign * step)).displacement(
            modes
        )
        for sign in (-1, 1)
    )
    np.testing.assert_allclose(now.motion(modes).rate, (after - before) / (2 * step), atol=1e-6)
    particles = now.particles(modes)
    velocity = 100 * 0.6 * float(COSMOLOGY.hubble(0.6)) * now.motion(modes).rate
    np.testing.assert_allclose(particles.velocities, tf.reshape(velocity, [3, -1]))
    np.testing.assert_allclose(
        particles.positions / grid.cell_size, now.positions(modes), rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("order", [1, 2])
def test_particles_of_a_light_cone_grew_until_light_left_them(order):
    grid, observer = Grid(8, 800.0), [-300.0, 100.0, 900.0]
    modes = InitialField(grid, COSMOLOGY).modes(np.random.default_rng(1).normal(size=grid.shape))
    cone = LPT(grid, COSMOLOGY, order=order, light_cone=True, observer=observer).motion(modes)
    for point in [(0, 0, 0), (7, 3, 1), (2, 1, 7)]:
        distance = np.linalg.norm(np.array(point) * 100.0 - observer)
        low, high = 0.05, 1.0
        for _ in range(60):  # bisection for the epoch
            middle = (low + high) / 2
            further = float(COSMOLOGY.comoving_distance(middle)) > distance
            low, high = (middle, high) if further else (low, middle)
        still = LPT(grid, COSMOLOGY, order=order, scale_factor=middle).motion(modes)
        for found, expected in zip(cone, still, strict=True):
            np.testing.assert_allclose(
                found[(slice(None), *point)], expected[(slice(None), *point)], rtol=1e-5
            )
    assert np.linalg.norm(np.array([7, 3, 1]) * 100.0 - observer) > 1000  # a is far from one


def models(grid, cosmology=COSMOLOGY):
    past = {"scale_factor": 0.7}
    return {
        "1lpt": LPT(grid, cosmology, **past),
        "2lpt": LPT(grid, cosmology, order=2, supersampling=2, **past),
        "2lpt, z space": LPT(grid, cosmology, order=2, redshift_space=True, **past),
        "light cone": LPT(
            grid,
            cosmology,
            order=2,
            light_cone=True,
            redshift_space=True,
            observer=(-90.0, 20.0, 30.0),
        ),
        "interlaced": LPT(grid, cosmology, interlacing=True, compensated=True, **past),
        "pm": ParticleMesh(grid, cosmology, num_steps=3, **past),
        "pm, z space": ParticleMesh(
            grid, cosmology, num_steps=2, force_factor=2, redshift_space=True, **past
        ),
        "fastpm": ParticleMesh(
            grid, cosmology, num_steps=3, integrator="fastpm", initial_scale_factor=0.1, **past
        ),
        "fastpm from the lattice": ParticleMesh(
            grid, cosmology, num_steps=2, integrator="fastpm", **past
        ),
    }


NAMES = list(models(Grid(4, 1.0)))
# the slowest to trace
SLOW = ("2lpt", "2lpt, z space", "pm", "pm, z space", "fastpm", "interlaced")


def cases(slow):
    return [pytest.param(n, marks=pytest.mark.slow) if n in slow else n for n in NAMES]


@pytest.mark.parametrize("name", NAMES)
def test_mass_is_conserved(name):
    grid = Grid(8, 60.0)
    modes = InitialField(grid, COSMOLOGY).modes(np.random.default_rng(2).normal(size=grid.shape))
    delta = models(grid)[name](modes).numpy()
    np.testing.assert_allclose(delta.mean(), 0.0, atol=1e-12)
    assert delta.std() > 0.1
    if name != "interlaced":
        assert delta.min() >= -1.0


@pytest.mark.parametrize("name", cases(SLOW))
def test_gradient_and_hessian_product(name):
    """Against differences of the value and of the gradient, in float64."""
    grid = Grid(8, 60.0)
    rng = np.random.default_rng(3)
    noise, weight, first, second = (tf.constant(rng.normal(size=grid.shape)) for _ in range(4))
    initial, model = InitialField(grid, COSMOLOGY), models(grid)[name]

    def value(x):
        return tf.reduce_sum(weight * model(initial.modes(x)))

    @tf.function
    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = value(x)
        return tape.gradient(y, x)

    @tf.function
    def product(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            slope = tf.reduce_sum(first * gradient(x))
        return tape.gradient(slope, x)

    found = float(tf.reduce_sum(gradient(noise) * first))
    step = 1e-5
    expected = float(value(noise + step * first) - value(noise - step * first)) / (2 * step)
    assert found == pytest.approx(expected, rel=1e-5, abs=1e-5)
    curvature = float(tf.reduce_sum(product(noise) * second))
    differences = (gradient(noise + step * second) - gradient(noise - step * second)) / (2 * step)
    assert curvature == pytest.approx(float(tf.reduce_sum(first * differences)), rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("name", cases(SLOW))
@pytest.mark.parametrize(
    "parameter", ["Omega_m", *(pytest.param(p, marks=pytest.mark.slow) for p in ("sigma8", "w0"))]
)
def test_gradient_with_respect_to_the_cosmology(name, parameter):
    grid = Grid(8, 60.0)
    rng = np.random.default_rng(4)
    noise, weight = (tf.constant(rng.normal(size=grid.shape)) for _ in range(2))
    fiducial = tf.constant(getattr(COSMOLOGY, parameter), tf.float64)

    def value(x):
        cosmology = dataclasses.replace(COSMOLOGY, **{parameter: x})
        modes = InitialField(grid, cosmology).modes(noise)
        return tf.reduce_sum(weight * models(grid, cosmology)[name](modes))

    with tf.GradientTape() as tape:
        tape.watch(fiducial)
        y = value(fiducial)
    step = 1e-5
    expected = float(value(fiducial + step) - value(fiducial - step)) / (2 * step)
    assert abs(expected) > 1e-3
    assert float(tape.gradient(y, fiducial)) == pytest.approx(expected, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize(
    "name",
    ["1lpt", *(pytest.param(n, marks=pytest.mark.slow) for n in ("2lpt", "pm, z space"))],
)
def test_single_precision_and_xla(name):
    grid = Grid(8, 60.0)
    noise = np.random.default_rng(5).normal(size=grid.shape)
    initial, model = InitialField(grid, COSMOLOGY), models(grid)[name]

    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = tf.reduce_sum(tf.square(model(initial.modes(x))))
        return tape.gradient(y, x)

    exact = gradient(tf.constant(noise))
    scale = np.abs(exact).max()
    single = gradient(tf.constant(noise, tf.float32))
    assert single.dtype == tf.float32
    np.testing.assert_allclose(single, exact, atol=1e-3 * scale)
    compiled = tf.function(gradient, jit_compile=True)(tf.constant(noise))
    np.testing.assert_allclose(compiled, exact, atol=1e-9 * scale)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"mass_assignment": "pcs"}, "`mass_assignment`.*'tsc'.*'pcs'"),
        ({"supersampling": 0}, "`supersampling`.*0"),
        ({"supersampling": 9}, "`supersampling`.*9"),
        ({"supersampling": 1.5}, "`supersampling`.*1.5"),
        ({"order": 3}, "`order`.*3"),
        ({"scale_factor": 0.0}, "`scale_factor`.*0.0"),
        ({"scale_factor": np.nan}, "`scale_factor`.*nan"),
        ({"observer": [1.0, 2.0]}, "`observer`.*three.*2.0"),
        ({"light_cone": True}, "`observer`.*`light_cone`.*None"),
        ({"light_cone": True, "observer": [0, 0, 0], "scale_factor": 0.5}, "`scale_factor`.*0.5"),
        ({"light_cone": True, "observer": [1e5, 0, 0]}, "`observer`.*within"),
        ({"redshift_space": True, "line_of_sight": 3}, "`line_of_sight`.*3"),
        ({"redshift_space": True, "line_of_sight": [0, 0, 0]}, "`line_of_sight`"),
    ],
)
def test_lpt_checks_its_arguments(arguments, match):
    with pytest.raises(ValueError, match=match):
        LPT(Grid(8, 1.0), COSMOLOGY, **arguments)


def test_modes_are_checked():
    model = LPT(Grid(8, 1.0), COSMOLOGY)
    with pytest.raises(ValueError, match=r"`modes`.*\(8, 8, 5\).*\(8, 8, 8\)"):
        model(np.zeros((8, 8, 8)))
    modes = np.zeros((8, 8, 5), complex)
    modes[1, 2, 3] = np.nan
    with pytest.raises(ValueError, match="`modes`.*finite.*1 that"):
        model(modes)


def test_white_noise_of_another_mesh_is_refused():
    with pytest.raises(ValueError, match=r"`white_noise`.*8, 8, 8.*\(4, 4, 4\)"):
        InitialField(Grid(8, 1.0), COSMOLOGY).modes(np.zeros((4, 4, 4)))
