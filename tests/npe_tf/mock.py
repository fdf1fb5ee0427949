"""A catalogue drawn from the model itself, on a mesh small enough for tests."""

import numpy as np
import tensorflow as tf

from npe_tf.catalogue import Catalogue
from npe_tf.cosmology import Cosmology
from npe_tf.gravity.lpt import LPT
from npe_tf.grid import Grid
from npe_tf.initial_field import InitialField
from npe_tf.joint import JointChain
from npe_tf.likelihood import PoissonLikelihood
from npe_tf.posterior import PosteriorConfig

MASS_THRESHOLD = 2e12
MOST_HALOES = 4000


def draw_catalogue(num_cells=8, box_size=60.0, seed=0, theta=None):
    """Haloes of the neural bias model in a Zel'dovich density.

    Returns:
        The catalogue, the white noise [N, N, N] and the parameters [17] it was drawn from.
    """
    rng = np.random.default_rng(seed)
    grid = Grid(num_cells, box_size)
    bias = PosteriorConfig(num_cells, MASS_THRESHOLD, dtype="float64").build_bias()
    if theta is None:
        theta = 0.1 * rng.standard_normal(bias.parameters.size)
        for name, value in {"kernel_weights[0, 0, 0]": 2.0, "amplitude_kernel[0, 0]": 2.0}.items():
            theta[bias.parameters.names.index(name)] += value
    white_noise = rng.standard_normal(grid.shape)
    delta = LPT(grid, Cosmology())(InitialField(grid, Cosmology()).modes(white_noise))
    mass_function = bias.mass_function(delta, tf.constant(theta))
    counts = rng.poisson(mass_function.integral().numpy() * grid.cell_volume)
    voxels = np.repeat(np.arange(counts.size), counts.ravel())
    mass = np.exp(mass_function.at(voxels).sample(seed=(seed, 1)).numpy())
    vertex = np.stack(np.unravel_index(voxels, grid.shape), axis=1)
    inside = rng.uniform(-0.499, 0.499, vertex.shape)
    positions = np.mod((vertex + inside) * grid.cell_size, box_size)
    return Catalogue(positions, np.maximum(mass, MASS_THRESHOLD), box_size), white_noise, theta


class ExchangeableLikelihood(PoissonLikelihood):
    """A likelihood whose haloes can be exchanged without compiling it again."""

    def __init__(self, grid, catalogue, most_haloes=MOST_HALOES):
        super().__init__(grid, catalogue, MASS_THRESHOLD)
        self.padded = [
            tf.Variable(np.zeros(most_haloes, dtype)) for dtype in ("int32", "float64", "float64")
        ]
        self.volume_factor = tf.Variable(1.0, dtype=tf.float64)

    def exchange(self, catalogue):
        voxels = catalogue.voxel_index(self.grid.num_cells)
        fresh = (voxels, catalogue.log_mass, np.ones(len(catalogue)))
        for variable, values in zip(self.padded, fresh, strict=True):
            padded = np.zeros(variable.shape, variable.dtype.as_numpy_dtype)
            padded[: len(catalogue)] = values
            variable.assign(padded)

    def __call__(self, mass_function):
        voxels, log_mass, weight = self.padded
        log_mass = tf.maximum(log_mass, np.log(MASS_THRESHOLD))
        found = mass_function.at(voxels).log_intensity(tf.cast(log_mass, mass_function.dtype))
        expected = tf.cast(self.expected_counts(mass_function), tf.float64)
        return tf.reduce_sum(weight * tf.cast(found, tf.float64)) - (
            self.volume_factor * tf.reduce_sum(expected)
        )


class UnfittedChain(JointChain):
    """A chain that keeps the parameters it has where another would fit them."""

    def _fitted(self, delta, likelihood, sweep):
        return self.sampler.unwhiten(self.state, self.frame)[2].numpy()
