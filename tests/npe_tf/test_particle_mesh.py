"""The particle mesh against perturbation theory, exact solutions and itself."""

import numpy as np
import pytest
import tensorflow as tf

from npe_tf.cosmology import Cosmology
from npe_tf.gravity.lpt import LPT, lpt_displacements
from npe_tf.gravity.pm import ParticleMesh
from npe_tf.grid import Grid
from npe_tf.initial_field import InitialField

COSMOLOGY = Cosmology()
EINSTEIN_DE_SITTER = Cosmology(Omega_m=1.0)
GRID = Grid(16, 100.0)


def waves(amplitude):
    """Modes of two crossed plane waves, the longest that the box holds."""
    x, y, _ = np.indices(GRID.shape) * GRID.cell_size * GRID.fundamental
    return tf.constant(np.fft.rfftn(amplitude * (np.cos(x) + np.cos(y + 0.3))))


@pytest.mark.parametrize("integrator", ["bullfrog", "fastpm"])
@pytest.mark.parametrize("num_steps", [1, 4])
@pytest.mark.parametrize("start", [0.0, 0.1])
def test_small_fields_move_as_in_first_order(integrator, num_steps, start):
    modes = waves(1e-4)
    model = ParticleMesh(
        GRID,
        COSMOLOGY,
        num_steps=num_steps,
        integrator=integrator,
        initial_scale_factor=start,
        scale_factor=0.7,
        force_factor=2,
    )
    motion = model.motion(modes)
    expected = LPT(GRID, COSMOLOGY, scale_factor=0.7).motion(modes)
    for found, exact in zip(motion, expected, strict=True):
        # the force of a mesh of 32 cells on a wave of 16 or 32 of them
        np.testing.assert_allclose(found, exact, atol=5e-3 * np.abs(exact).max())


@pytest.mark.parametrize("num_steps", [1, 2, 5])
@pytest.mark.parametrize("cosmology", [COSMOLOGY, EINSTEIN_DE_SITTER], ids=["LCDM", "EdS"])
def test_bullfrog_moves_as_in_second_order_with_any_number_of_steps(num_steps, cosmology):
    """The second-order part alone: what is even in the sign of the field."""
    plus, minus = (
        ParticleMesh(GRID, cosmology, num_steps=num_steps, force_factor=2).displacement(
            waves(sign * 0.02)
        )
        for sign in (1, -1)
    )
    _, second = lpt_displacements(waves(0.02), GRID, order=2)
    exact = float(cosmology.second_order_growth_factor(1.0)) * second.numpy()
    np.testing.assert_allclose((plus + minus) / 2, exact, atol=0.03 * np.abs(exact).max())


def test_fastpm_does_not_with_one():
    """So that the test above can fail."""
    plus, minus = (
        ParticleMesh(
            GRID, COSMOLOGY, num_steps=1, force_factor=2, integrator="fastpm"
        ).displacement(waves(sign * 0.02))
        for sign in (1, -1)
    )
    _, second = lpt_displacements(waves(0.02), GRID, order=2)
    exact = float(COSMOLOGY.second_order_growth_factor(1.0)) * second.numpy()
    assert np.abs((plus + minus) / 2 - exact).max() > 0.1 * np.abs(exact).max()


def test_a_plane_wave_before_shell_crossing_is_exact():
    grid = Grid(32, 100.0)
    x = np.indices(grid.shape)[0] * grid.cell_size * grid.fundamental
    modes = tf.constant(np.fft.rfftn(0.7 * np.cos(x)))
    exact = LPT(grid, COSMOLOGY).displacement(modes)
    found = ParticleMesh(grid, COSMOLOGY, num_steps=10, force_factor=2).displacement(modes)
    np.testing.assert_allclose(found, exact, atol=0.02 * np.abs(exact).max())


@pytest.mark.parametrize("integrator", ["bullfrog", "fastpm"])
def test_convergence_with_steps_is_of_second_order(integrator):
    modes = waves(0.4)

    def run(num_steps):
        model = ParticleMesh(
            GRID,
            COSMOLOGY,
            num_steps=num_steps,
            integrator=integrator,
            initial_scale_factor=0.1,
        )
        return model.displacement(modes).numpy()

    fine = run(96)
    errors = [np.abs(run(n) - fine).max() for n in (6, 12, 24)]
    ratios = np.array(errors[:-1]) / errors[1:]
    assert np.all(ratios > 3.0), ratios
    assert errors[0] > 1e-5


def test_both_integrators_converge_to_the_same_motion():
    modes = waves(0.4)
    first, second = (
        ParticleMesh(
            GRID, COSMOLOGY, num_steps=48, integrator=i, initial_scale_factor=0.05
        ).displacement(modes)
        for i in ("bullfrog", "fastpm")
    )
    np.testing.assert_allclose(first, second, atol=2e-3 * np.abs(second).max())


@pytest.mark.parametrize("assignment", ["cic", "tsc"])
@pytest.mark.parametrize("force_factor", [1, 2])
def test_momentum_is_conserved(assignment, force_factor):
    modes = InitialField(GRID, COSMOLOGY).modes(np.random.default_rng(0).normal(size=GRID.shape))
    model = ParticleMesh(
        GRID, COSMOLOGY, num_steps=3, force_assignment=assignment, force_factor=force_factor
    )
    rate = model.motion(modes).rate.numpy()
    assert np.abs(rate).max() > 1.0
    np.testing.assert_allclose(rate.mean((1, 2, 3)), 0.0, atol=1e-12 * np.abs(rate).max())


def test_steps_can_be_undone():
    """The particles that the gradient comes back to are those it started from."""
    model = ParticleMesh(GRID, COSMOLOGY, num_steps=4)
    modes = InitialField(GRID, COSMOLOGY).modes(np.random.default_rng(1).normal(size=GRID.shape))
    start = tf.reshape(lpt_displacements(modes, GRID)[0], [3, -1]) / GRID.cell_size
    s, v = model._evolve(tf.zeros_like(start), start, model._steps)
    for half, alpha, kick in model._steps.numpy()[::-1]:
        middle = s - half * v
        v = (v - kick * model._force(middle)) / alpha
        s = middle - half * v
    np.testing.assert_allclose(s, 0.0, atol=1e-11)
    np.testing.assert_allclose(v, start, atol=1e-11)


def test_supersampled_particles_of_smooth_modes_move_alike():
    modes = waves(0.3)
    coarse, fine = (
        ParticleMesh(GRID, COSMOLOGY, supersampling=s, force_factor=2 // s).displacement(modes)
        for s in (1, 2)
    )
    np.testing.assert_allclose(fine[:, ::2, ::2, ::2], coarse, atol=0.01 * np.abs(coarse).max())


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"num_steps": 0}, "`num_steps`.*0"),
        ({"num_steps": 2.0}, "`num_steps`.*2.0"),
        ({"force_factor": 0}, "`force_factor`.*0"),
        ({"integrator": "cola"}, "`integrator`.*'bullfrog'.*'cola'"),
        ({"force_assignment": "ngp"}, "`force_assignment`.*'ngp'"),
        ({"initial_scale_factor": 1.0}, "`initial_scale_factor`.*1.0"),
        ({"initial_scale_factor": -0.1}, "`initial_scale_factor`.*-0.1"),
    ],
)
def test_arguments_are_checked(arguments, match):
    with pytest.raises(ValueError, match=match):
        ParticleMesh(GRID, COSMOLOGY, **arguments)
