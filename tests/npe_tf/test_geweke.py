"""Joint-distribution test of the whole sampler (Geweke 2004, JASA 99, 799).

Haloes are drawn from the model given the field and the parameters, these are moved by one sweep of
the sampler given the haloes, and so on. If the sweep leaves the posterior of every catalogue
invariant, the chain leaves the joint density of fields, parameters and catalogues invariant, and
fields and parameters stay draws from their prior for ever. Many short chains that start from draws
from the prior are independent and in equilibrium from their first step on, so that every mean over
chains has an exact standard error. An analysis that believes in another volume, one that forgets
its prior and a sampler whose momenta are too hot must fail.
"""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from npe_tf.catalogue import Catalogue
from npe_tf.gibbs import Chain, GibbsSampler, Settings
from npe_tf.posterior import FieldPosterior, PosteriorConfig
from npe_tf.statistics import power_spectrum
from samplers import BlockGibbs
from samplers.results import find_innermost
from tests.npe_tf.mock import MASS_THRESHOLD, MOST_HALOES, ExchangeableLikelihood
from tests.npe_tf.test_calibration import PRIOR_SCALE

# haloes are few, about 70, so that a sweep takes field and parameters a good part of the way from
# one prior draw to another
NUM_CELLS, BOX_SIZE = 8, 40.0
NUM_PARAMETERS = 17
SETTINGS = Settings(
    num_warmup=60,
    num_samples=1,
    num_chains=1,
    field_leapfrog_steps=6,
    bias_leapfrog_steps=4,
    bias_steps=1,
    annealing_start=1.0,
    psi="free",
)
# of 133 scores, the largest exceeds this once in a thousand times
LARGEST_SCORE = 4.5


class SpoilablePosterior(FieldPosterior):
    """A posterior whose prior of the parameters can be forgotten without compiling it again."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.prior_weight = tf.Variable(1.0, dtype=tf.float64)

    def log_prior_parameters(self, theta: Any) -> Any:
        return self.prior_weight * super().log_prior_parameters(theta)


class Experiment:
    """Prior, model and sampler; the catalogue is in variables that the likelihood reads."""

    def __init__(self) -> None:
        config = PosteriorConfig(
            NUM_CELLS, MASS_THRESHOLD, dtype="float64", prior_scale=PRIOR_SCALE
        )
        any_haloes = Catalogue(np.full((1, 3), 1.0), np.array([1e13]), BOX_SIZE)
        parts = config.build(any_haloes)
        self.likelihood = ExchangeableLikelihood(parts.grid, any_haloes)
        self.posterior = SpoilablePosterior(
            parts.initial_field, parts.gravity, parts.bias, self.likelihood, PRIOR_SCALE
        )
        self.sampler = GibbsSampler(self.posterior, SETTINGS)
        self.observe = tf.function(self._observe)
        self.frozen = self._warm_up(np.random.default_rng(20))
        # of the last run
        self.acceptance: list[list[float]] = []
        self.results: Any = None

    def _warm_up(self, rng: np.random.Generator) -> Any:
        """Kernel results after the warm-up on one catalogue, from which on nothing adapts."""
        self.observe(*self.prior_draw(rng), self.seed(rng))
        chain = Chain(self.sampler, 0)
        chain.start(PRIOR_SCALE * rng.standard_normal(NUM_PARAMETERS), lambda line: None)
        for sweep in range(SETTINGS.num_warmup):
            chain.advance(sweep)
        return chain.results

    @staticmethod
    def seed(rng: np.random.Generator) -> Any:
        return tf.constant(rng.integers(2**31, size=2), tf.int32)

    @staticmethod
    def prior_draw(rng: np.random.Generator) -> tuple[Any, Any]:
        white_noise = rng.standard_normal((NUM_CELLS,) * 3)
        return tf.constant(white_noise), tf.constant(
            PRIOR_SCALE * rng.standard_normal(NUM_PARAMETERS)
        )

    def _observe(self, white_noise: Any, theta: Any, seed: Any) -> Any:
        """Draw a catalogue and let the likelihood see it; returns how many haloes it has."""
        posterior = self.posterior
        count_seed, mass_seed = tf.unstack(tf.random.split(seed, 2))
        mass_function = posterior.bias.mass_function(posterior.density(white_noise), theta)
        expected = tf.reshape(mass_function.integral() * posterior.grid.cell_volume, [-1])
        counts = tf.random.stateless_poisson(
            tf.shape(expected), count_seed, expected, dtype=tf.int32
        )
        number = tf.reduce_sum(counts)
        padding = tf.maximum(MOST_HALOES - number, 0)
        voxels = tf.repeat(tf.range(tf.size(counts)), counts)[:MOST_HALOES]
        voxels = tf.ensure_shape(tf.pad(voxels, [[0, padding]]), [MOST_HALOES])
        log_mass = mass_function.at(voxels).sample(seed=mass_seed)
        is_halo = tf.cast(tf.range(MOST_HALOES) < number, tf.float64)
        for variable, value in zip(
            self.likelihood.padded, (voxels, log_mass, is_halo), strict=True
        ):
            variable.assign(value)
        return number

    def functions(self, white_noise: Any, theta: Any) -> Any:
        """Functions of field and parameters, of mean zero under the prior."""
        x, t = np.asarray(white_noise), np.asarray(theta) / PRIOR_SCALE
        grid = self.posterior.grid
        power = power_spectrum(x, grid).power
        white = grid.volume / NUM_CELLS**3
        voxels = x[(0, 3, 5, 7), (0, 1, 6, 7), (0, 4, 2, 7)]
        products = np.concatenate([t[:-1] * t[1:], voxels * t[:4]])
        return np.concatenate([t, t**2 - 1, power / white - 1, voxels, voxels**2 - 1, products])

    def scores(self, rng: np.random.Generator, chains: int, steps: int, sampler: Any = None) -> Any:
        """Standardised deviations from the prior after steps of data and sweeps.

        Of every function, once the mean over each chain, which sees what moves fast, and once its
        change from the beginning to the end, which sees what drifts.
        """
        sampler = self.sampler if sampler is None else sampler
        self.acceptance = []
        means, changes = [], []
        for _ in range(chains):
            white_noise, theta = self.prior_draw(rng)
            results = self.frozen
            path = [self.functions(white_noise, theta)]
            haloes = []
            for _ in range(steps):
                haloes.append(int(self.observe(white_noise, theta, self.seed(rng))))
                white_noise, theta, results, _, accept = sampler.sweep(
                    white_noise, theta, results, self.seed(rng)
                )
                path.append(self.functions(white_noise, theta))
                self.acceptance.append([float(a) for a in accept])
            haloes.append(int(self.observe(white_noise, theta, self.seed(rng))))
            assert max(haloes) <= MOST_HALOES
            means.append(np.mean(path[1:], axis=0))
            more = np.log1p(haloes[-1]) - np.log1p(haloes[0])
            changes.append(np.append(path[-1] - path[0], more))
        self.results = results
        return np.concatenate(
            [np.mean(a, 0) / (np.std(a, 0, ddof=1) / np.sqrt(chains)) for a in (means, changes)]
        )


@pytest.fixture(scope="module")
def experiment() -> Experiment:
    return Experiment()


def adapted(results: Any) -> Any:
    """All that a warm-up may change, as a list of arrays."""
    fields = ("step_size", "inverse_hessian")
    found = [find_innermost(block, f) for block in results.block_results for f in fields]
    return [np.asarray(value) for value in tf.nest.flatten(found)]


@pytest.mark.slow
def test_fields_and_parameters_stay_draws_from_their_prior(experiment: Experiment) -> None:
    scores = experiment.scores(np.random.default_rng(21), chains=200, steps=8)
    assert np.all(np.mean(experiment.acceptance, axis=0) > 0.5)
    for before, after in zip(adapted(experiment.frozen), adapted(experiment.results), strict=True):
        np.testing.assert_array_equal(before, after)
    assert np.abs(scores).max() < LARGEST_SCORE
    # their mean square is one, up to the correlations between them
    assert 0.5 < np.mean(scores**2) < 1.8


@pytest.mark.slow
def test_a_wrong_volume_is_noticed(experiment: Experiment) -> None:
    experiment.likelihood.volume_factor.assign(1.2)
    try:
        scores = experiment.scores(np.random.default_rng(22), chains=60, steps=8)
    finally:
        experiment.likelihood.volume_factor.assign(1.0)
    assert np.abs(scores).max() > 1.5 * LARGEST_SCORE


@pytest.mark.slow
def test_a_missing_prior_is_noticed(experiment: Experiment) -> None:
    experiment.posterior.prior_weight.assign(0.0)
    try:
        scores = experiment.scores(np.random.default_rng(23), chains=120, steps=6)
    finally:
        experiment.posterior.prior_weight.assign(1.0)
    assert np.abs(scores).max() > 1.5 * LARGEST_SCORE


class Hot:
    """An inverse Hessian whose momenta are a fifth too large."""

    def __init__(self, operator: Any) -> None:
        self.operator = operator

    def __getattr__(self, name: str) -> Any:
        return getattr(self.operator, name)

    def sample(self, *arguments: Any) -> Any:
        return 1.2 * self.operator.sample(*arguments)


@pytest.mark.slow
def test_momenta_that_are_too_hot_are_noticed(experiment: Experiment) -> None:
    hot = copy.copy(experiment.sampler)
    field, bias = hot.kernel.blocks

    def too_hot(target: Any) -> Any:
        return field.make_kernel(target).copy(inverse_hessian=Hot(hot.field_curvature))

    hot.kernel = BlockGibbs(None, [dataclasses.replace(field, make_kernel=too_hot), bias])
    hot.sweep = tf.function(hot._sweep)
    scores = experiment.scores(np.random.default_rng(24), chains=120, steps=6, sampler=hot)
    assert np.abs(scores).max() > 1.5 * LARGEST_SCORE
