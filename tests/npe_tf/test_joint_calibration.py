"""Simulation-based calibration of the joint scheme (Talts et al. 2018, arXiv:1804.06788).

As `test_calibration` for Gibbs: fields and parameters are drawn from the prior, catalogues from
them, and the rank of each truth among the samples of its posterior is uniform. The whole warm-up is
run, but for the fits: a chain starts, and learns, with parameters of the prior, for at 24 fits of
three the compilation alone would take an hour.
"""

import numpy as np
import pytest
import tensorflow as tf

from npe_tf.catalogue import Catalogue
from npe_tf.joint import JointSampler, JointSettings
from npe_tf.posterior import FieldPosterior, PosteriorConfig
from tests.npe_tf.mock import (
    MASS_THRESHOLD,
    ExchangeableLikelihood,
    UnfittedChain,
    draw_catalogue,
)
from tests.npe_tf.test_calibration import z_scores

PRIOR_SCALE = 0.3
NUM_REPLICATES = 24
THINNING = 6
GRADIENTS_PER_SWEEP = {8: 10, 16: 40}
MODES = ((1, 0, 0), (0, 1, 0), (1, 1, 1), (2, 0, 1), (3, 1, 0))


def build(num_cells, box_size):
    """A sampler whose catalogue can be exchanged."""
    config = PosteriorConfig(num_cells, MASS_THRESHOLD, dtype="float64", prior_scale=PRIOR_SCALE)
    any_haloes = Catalogue(np.full((1, 3), 1.0), np.array([1e13]), box_size)
    parts = config.build(any_haloes)
    likelihood = ExchangeableLikelihood(parts.grid, any_haloes, 60_000)
    posterior = FieldPosterior(
        parts.initial_field, parts.gravity, parts.bias, likelihood, PRIOR_SCALE
    )
    settings = JointSettings(
        num_warmup=100,
        num_samples=180,
        num_chains=1,
        gradients_per_sweep=GRADIENTS_PER_SWEEP[num_cells],
        num_dense_shells=2,
        psi="free",
    )
    return JointSampler(posterior, settings)


def ranks(sampler, rng):
    """Rank of the truth among thinned samples, from 0 to 1, for parameters, modes and log L."""
    posterior = sampler.posterior
    grid = posterior.grid
    theta = PRIOR_SCALE * rng.standard_normal(17)
    seed = int(rng.integers(2**31))
    catalogue, white_noise, _ = draw_catalogue(grid.num_cells, grid.box_size, seed, theta)
    posterior.likelihood.exchange(catalogue)

    def quantities(white_noise, theta):
        modes = np.fft.rfftn(white_noise)
        delta = posterior.density(tf.constant(white_noise, tf.float64))
        log_likelihood = posterior.log_likelihood(delta, tf.constant(theta, tf.float64))
        numbers = [part for mode in MODES for part in (modes[mode].real, modes[mode].imag)]
        return np.array([*theta, *numbers, float(log_likelihood)])

    chain = UnfittedChain(sampler, seed % 1000)
    chain.start(PRIOR_SCALE * rng.standard_normal(17), lambda line: None)
    samples = []
    settings = sampler.settings
    for sweep in range(settings.num_sweeps):
        row = chain.advance(sweep)
        if sweep >= settings.num_warmup and (sweep + 1) % THINNING == 0:
            samples.append(quantities(row["white_noise"], row["theta"]))
    truth = quantities(white_noise, theta)
    below = np.sum(np.array(samples) < truth, axis=0)
    return (below + rng.random(truth.size)) / (len(samples) + 1)


@pytest.mark.slow
@pytest.mark.parametrize(("num_cells", "box_size"), [(8, 60.0), (16, 120.0)])
def test_ranks_of_the_truth_are_uniform(num_cells, box_size):
    sampler = build(num_cells, box_size)
    rng = np.random.default_rng(14)
    found = []
    for number in range(NUM_REPLICATES):
        found.append(ranks(sampler, rng))
        so_far = np.array(found)
        inside = [np.mean(np.abs(so_far - 0.5) < half) for half in (0.34, 0.475)]
        print(
            f"{num_cells}^3, {number + 1} mocks: {inside[0]:.3f} in 68%, {inside[1]:.3f} in 95%, "
            f"largest |z| {np.abs(z_scores(so_far)).max():.2f}, spread "
            f"{so_far.var(axis=0).mean() * 12:.2f}",
            flush=True,
        )
    found = np.array(found)
    assert np.all(np.abs(z_scores(found)) < 3.9)
    # 28 ranks of a replicate are correlated; too narrow a posterior would fill the ends
    assert 0.75 < found.var(axis=0).mean() * 12 < 1.3
    for half, expected in ((0.34, 0.68), (0.475, 0.95)):
        inside = np.mean(np.abs(found - 0.5) < half)
        # as of one independent rank in four
        error = np.sqrt(expected * (1 - expected) / (found.size / 4))
        assert abs(inside - expected) < 3.5 * error


@pytest.mark.slow
def test_a_wrong_volume_is_noticed():
    sampler = build(8, 60.0)
    rng = np.random.default_rng(15)
    sampler.posterior.likelihood.volume_factor.assign(1.5)
    found = np.array([ranks(sampler, rng) for _ in range(NUM_REPLICATES // 2)])
    assert np.max(np.abs(z_scores(found))) > 5.0
