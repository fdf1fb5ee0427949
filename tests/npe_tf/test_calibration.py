"""Simulation-based calibration of the whole sampler (Talts et al. 2018, arXiv:1804.06788).

Fields and parameters are drawn from the prior and catalogues from them; the rank of each truth
among the samples of its posterior is uniform if, and only if, prior, likelihood, gradients and both
blocks of the sampler belong together. An analysis that believes in another volume must fail.
"""

import numpy as np
import pytest
import tensorflow as tf

from npe_tf.catalogue import Catalogue
from npe_tf.gibbs import Chain, GibbsSampler, Settings
from npe_tf.posterior import FieldPosterior, PosteriorConfig
from tests.npe_tf.mock import MASS_THRESHOLD, ExchangeableLikelihood, draw_catalogue

NUM_CELLS, BOX_SIZE = 8, 60.0
PRIOR_SCALE = 0.3
NUM_REPLICATES = 24
SETTINGS = Settings(
    num_warmup=60,
    num_samples=96,
    num_chains=1,
    field_leapfrog_steps=10,
    bias_leapfrog_steps=6,
    bias_steps=3,
    annealing_start=1.0,
    psi="free",
)
THINNING = 8


def ranks(sampler, rng):
    """Rank of the truth among thinned samples, from 0 to 1, for parameters, modes and log L."""
    posterior = sampler.posterior
    theta = PRIOR_SCALE * rng.standard_normal(17)
    seed = int(rng.integers(2**31))
    catalogue, white_noise, _ = draw_catalogue(NUM_CELLS, BOX_SIZE, seed, theta)
    posterior.likelihood.exchange(catalogue)

    def quantities(white_noise, theta):
        modes = np.fft.rfftn(white_noise)
        delta = posterior.density(tf.constant(white_noise, tf.float64))
        log_likelihood = posterior.log_likelihood(delta, tf.constant(theta, tf.float64))
        large_scales = [modes[1, 0, 0].real, modes[0, 1, 0].imag, modes[1, 1, 1].real]
        return np.array([*theta, *large_scales, float(log_likelihood)])

    chain = Chain(sampler, seed % 1000)
    chain.start(PRIOR_SCALE * rng.standard_normal(17), lambda line: None)
    samples = []
    for sweep in range(SETTINGS.num_sweeps):
        row = chain.advance(sweep)
        if sweep >= SETTINGS.num_warmup and (sweep + 1) % THINNING == 0:
            samples.append(quantities(row["white_noise"], row["theta"]))
    truth = quantities(white_noise, theta)
    below = np.sum(np.array(samples) < truth, axis=0)
    return (below + rng.random(truth.size)) / (len(samples) + 1)


@pytest.fixture(scope="module")
def sampler():
    config = PosteriorConfig(NUM_CELLS, MASS_THRESHOLD, dtype="float64", prior_scale=PRIOR_SCALE)
    any_haloes = Catalogue(np.full((1, 3), 1.0), np.array([1e13]), BOX_SIZE)
    parts = config.build(any_haloes)
    likelihood = ExchangeableLikelihood(parts.grid, any_haloes)
    posterior = FieldPosterior(
        parts.initial_field, parts.gravity, parts.bias, likelihood, PRIOR_SCALE
    )
    return GibbsSampler(posterior, SETTINGS)


def z_scores(all_ranks):
    """Deviation of the mean rank from 1/2, in standard errors."""
    return (all_ranks.mean(axis=0) - 0.5) * np.sqrt(12 * len(all_ranks))


@pytest.mark.slow
def test_ranks_of_the_truth_are_uniform(sampler):
    rng = np.random.default_rng(12)
    found = np.array([ranks(sampler, rng) for _ in range(NUM_REPLICATES)])
    assert np.all(np.abs(z_scores(found)) < 3.9)
    # 504 ranks, correlated within a replicate; too narrow a posterior would fill the ends
    spread = found.var(axis=0).mean() * 12
    assert 0.75 < spread < 1.3


@pytest.mark.slow
def test_a_wrong_volume_is_noticed(sampler):
    rng = np.random.default_rng(13)
    sampler.posterior.likelihood.volume_factor.assign(1.5)
    try:
        found = np.array([ranks(sampler, rng) for _ in range(NUM_REPLICATES // 2)])
    finally:
        sampler.posterior.likelihood.volume_factor.assign(1.0)
    assert np.max(np.abs(z_scores(found))) > 5.0
