"""Numbers of the figures against loops over a synthetic run, and what they refuse."""

import numpy as np
import pytest
import tensorflow as tf

from npe_tf.chain_store import ChainStore
from npe_tf.cosmology import Cosmology
from npe_tf.environments import DensityEnvironments
from npe_tf.figure_data import coarsened, figure_data
from npe_tf.gravity.lpt import LPT
from npe_tf.grid import Grid
from npe_tf.initial_field import InitialField
from npe_tf.run import Run
from tests.npe_tf.mock import MASS_THRESHOLD
from tests.npe_tf.synthetic_run import CHAINS, EVERY, SWEEPS, WARMUP, write_run

GRID = Grid(8, 60.0)
SWEEPS_KEPT = range(WARMUP + 1, SWEEPS, EVERY)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    catalogue, rows = write_run(folder)
    with ChainStore.open(folder / "chain.h5") as store:
        run = Run(store, catalogue)
        return run, rows, figure_data(run)


def evolved(white_noise):
    return LPT(GRID, Cosmology())(InitialField(GRID, Cosmology()).modes(white_noise)).numpy()


def naive_psi(delta, theta):
    """The paper's convolution, cell by cell: centre, faces, edges, corners."""
    log_density = np.log(delta + 1.1)
    total = np.full(delta.shape, theta[4])
    for x in (-1, 0, 1):
        for y in (-1, 0, 1):
            for z in (-1, 0, 1):
                weight = theta[x * x + y * y + z * z]
                harmonic = 1 / np.sqrt(4 * np.pi)
                total += weight * harmonic * np.roll(log_density, (x, y, z), (0, 1, 2))
    return np.log1p(np.exp(total))


def of_mode(psi, rows):
    """(sweep, chain) of the samples of a mode, and their densities and parameters."""
    chains = (0, 2) if psi == "rises" else (1,)
    places = [(sweep, chain) for sweep in SWEEPS_KEPT for chain in chains]
    deltas = [evolved(rows["white_noise"][place]) for place in places]
    return places, deltas, [rows["theta"][place] for place in places]


def test_modes_are_told_apart(made):
    _, rows, data = made
    assert [mode.psi for mode in data.modes] == ["rises", "falls"]
    assert [mode.chains for mode in data.modes] == [(0, 2), (1,)]
    assert [mode.num_fields for mode in data.modes] == [4, 2]
    np.testing.assert_array_equal(data.modes[1].power, rows["power"][WARMUP:, 1])
    assert data.modes[0].power.shape == (2 * (SWEEPS - WARMUP), 4)
    assert data.theta.shape == (SWEEPS, CHAINS, 17)
    assert not data.start_is_given


@pytest.mark.parametrize("psi", ["rises", "falls"])
def test_moments_of_fields_and_psi(made, psi):
    _, rows, data = made
    (mode,) = (m for m in data.modes if m.psi == psi)
    _, deltas, thetas = of_mode(psi, rows)
    responses = [naive_psi(d, t) for d, t in zip(deltas, thetas, strict=True)]
    at_truth = [naive_psi(data.reference.evolved, t) for t in thetas]
    for found, expected in (
        (mode.evolved_mean, np.mean(deltas, axis=0)),
        (mode.evolved_variance, np.var(deltas, axis=0, ddof=1)),
        (mode.psi_mean, np.mean(responses, axis=0)),
        (mode.psi_variance, np.var(responses, axis=0, ddof=1)),
        (mode.reference_psi, np.mean(at_truth, axis=0)),
    ):
        np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("psi", ["rises", "falls"])
def test_haloes_by_environment(made, psi):
    run, rows, data = made
    (mode,) = (m for m in data.modes if m.psi == psi)
    places, deltas, thetas = of_mode(psi, rows)
    environments = DensityEnvironments(run.posterior.likelihood)

    def expected(delta, theta):
        functions = run.posterior.bias.mass_function(tf.constant(delta), tf.constant(theta))
        return environments.expected(environments.of(delta), functions)

    model = [expected(d, t) for d, t in zip(deltas, thetas, strict=True)]
    start = [
        expected(d, rows["theta"][0, chain]) for (_, chain), d in zip(places, deltas, strict=True)
    ]
    found = [environments.found(environments.of(d)) for d in deltas]
    np.testing.assert_allclose(mode.expected_mean, np.mean(model, axis=0), atol=1e-6)
    np.testing.assert_allclose(mode.expected_std, np.std(model, axis=0, ddof=1), atol=1e-6)
    np.testing.assert_allclose(mode.start, np.mean(start, axis=0), atol=1e-6)
    np.testing.assert_allclose(mode.found, np.mean(found, axis=0))
    assert mode.volumes.sum() == pytest.approx(60.0**3)


@pytest.mark.parametrize("psi", ["rises", "falls"])
def test_the_example_is_the_likeliest_stored_sample(made, psi):
    run, rows, data = made
    (mode,) = (m for m in data.modes if m.psi == psi)
    places, deltas, thetas = of_mode(psi, rows)
    best = int(np.argmax([rows["log_posterior"][place] for place in places]))
    example = mode.example
    assert (example.sweep - 1, example.chain) == places[best]
    np.testing.assert_allclose(example.evolved, deltas[best], atol=1e-6)
    np.testing.assert_allclose(example.psi, naive_psi(deltas[best], thetas[best]), rtol=1e-6)
    at_truth = naive_psi(data.reference.evolved, thetas[best])
    np.testing.assert_allclose(example.reference_psi, at_truth, rtol=1e-6)
    linear = InitialField(GRID, Cosmology())(rows["white_noise"][places[best]]).numpy()
    np.testing.assert_allclose(example.initial, linear, atol=1e-9)
    # haloes are above the threshold, and about as many as the mass functions have
    assert np.all((example.halo_mass == 0) | (example.halo_mass >= 0.999 * MASS_THRESHOLD))
    functions = run.posterior.bias.mass_function(
        tf.constant(deltas[best]), tf.constant(thetas[best])
    )
    seen = 1 - np.exp(-run.posterior.likelihood.expected_counts(functions).numpy())
    spread = np.sqrt(np.sum(seen * (1 - seen)))
    assert abs(np.sum(example.halo_mass > 0) - seen.sum()) < 4 * spread + 1


def test_the_catalogue_on_the_mesh(made):
    run, _, data = made
    likelihood = run.posterior.likelihood
    mass = np.zeros(8**3)
    for voxel, log_mass in zip(likelihood.voxels, likelihood.log_masses, strict=True):
        mass[voxel] += np.exp(log_mass)
    np.testing.assert_allclose(data.halo_mass.ravel(), mass)
    np.testing.assert_array_equal(data.counts, likelihood.counts)


@pytest.mark.parametrize("factor", [1, 2, 3])
def test_coarsened_is_cloud_in_cell_on_the_coarse_mesh(factor):
    rng = np.random.default_rng(1)
    particles = rng.uniform(0, 4, (50, 3))

    def cloud_in_cell(num_cells):
        mesh = np.zeros((num_cells,) * 3)
        for position in particles * num_cells / 4:
            base = np.floor(position).astype(int)
            for corner in np.ndindex(2, 2, 2):
                weight = np.prod(1 - np.abs(position - base - corner))
                mesh[tuple((base + corner) % num_cells)] += weight
        return mesh * num_cells**3 / len(particles) - 1

    np.testing.assert_allclose(
        coarsened(cloud_in_cell(4 * factor), 4), cloud_in_cell(4), atol=1e-12
    )


def test_meshes_that_do_not_fit():
    for shape in ((8, 8, 4), (6, 6, 6), (4, 4)):
        with pytest.raises(ValueError, match="`delta`.*multiple of 4"):
            coarsened(np.zeros(shape), 4)


def test_without_the_truth_at_the_faces_and_with_few_fields(tmp_path):
    start = np.zeros(17)
    catalogue, _ = write_run(tmp_path, padding="valid", with_truth=False, initial_theta=start)
    with ChainStore.open(tmp_path / "chain.h5") as store:
        run = Run(store, catalogue)
        data = figure_data(run, num_fields=1)
        with pytest.raises(ValueError, match="`num_fields`.*num_fields=0"):
            figure_data(run, num_fields=0)
    assert data.reference is None and data.true_power is None
    assert data.start_is_given
    (mode,) = data.modes
    assert mode.num_fields == 1
    assert mode.reference_psi is None
    assert not mode.evolved_variance.any()
    inside = np.zeros((8, 8, 8), bool)
    inside[1:-1, 1:-1, 1:-1] = True
    for field in (mode.psi_mean, mode.example.halo_mass, data.counts):
        np.testing.assert_array_equal(np.isfinite(field), inside)


def test_no_stored_field_after_the_warm_up(made, monkeypatch):
    run, _, _ = made
    monkeypatch.setattr(run, "kept", lambda most=None: [])
    with pytest.raises(ValueError, match="`run`.*stored field"):
        figure_data(run)
