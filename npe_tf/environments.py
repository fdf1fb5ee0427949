"""Haloes by mass in environments of different density, found and expected.

An environment is a range of the evolved density of the sample at hand, so that what is found in it
differs from sample to sample as well. (Environments of the posterior mean would be chosen by the
haloes themselves: more would be found than expected in the dense ones.)
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from npe_tf.likelihood import PoissonLikelihood
from npe_tf.mass_function import HaloMassFunction

__all__ = ["DensityEnvironments", "environments_of"]

Tensor = Any
Array = NDArray[np.float64]

_NUM_MASS_BINS = 10


def environments_of(delta: Tensor) -> NDArray[np.int64]:
    """Environment of each voxel, `[V]`, from the overdensity of those that count, `[...]`."""
    density = np.asarray(delta).ravel()
    return np.digitize(density, np.quantile(density, (0.5, 0.8, 0.95)))


class DensityEnvironments:
    """The emptiest half of the volume, the next 30%, the next 15% and the densest 5%.

    Args:
        likelihood: of the catalogue; says which voxels and haloes count.

    Attributes:
        labels: one per environment, E = 4.
        log_mass_edges: edges of the M mass bins, evenly spaced from the threshold to the most
            massive halo, `[M + 1]` [log of Msun/h].
    """

    labels = ("emptiest 50%", "next 30%", "next 15%", "densest 5%")

    def __init__(self, likelihood: PoissonLikelihood) -> None:
        """Choose the mass bins."""
        self._likelihood = likelihood
        low = np.log(likelihood.mass_threshold)
        high = likelihood.log_masses.max() + 1e-3
        self.log_mass_edges = np.linspace(low, high, _NUM_MASS_BINS + 1)

    def of(self, delta: Tensor) -> NDArray[np.int64]:
        """Environment of each voxel that counts, `[V]`, from the overdensity `[N, N, N]`."""
        return environments_of(self._likelihood.interior(delta))

    def volumes(self, environment: NDArray[np.int64]) -> Array:
        """Volume of each environment, `[E]` [(Mpc/h)^3]; `environment` is `[V]`."""
        voxels = np.bincount(environment, minlength=len(self.labels))
        return np.asarray(voxels * self._likelihood.grid.cell_volume, dtype=np.float64)

    def found(self, environment: NDArray[np.int64]) -> Array:
        """Haloes of the catalogue in each environment and mass bin, `[E, M]`."""
        place = environment[self._likelihood.voxels]
        log_mass = self._likelihood.log_masses
        return np.array(
            [
                np.histogram(log_mass[place == e], self.log_mass_edges)[0]
                for e in range(len(self.labels))
            ],
            dtype=np.float64,
        )

    def expected(self, environment: NDArray[np.int64], mass_function: HaloMassFunction) -> Array:
        """Expected haloes in each environment and mass bin, `[E, M]`."""
        above = []
        for edge in self.log_mass_edges:
            beyond = self._likelihood.expected_counts(mass_function, edge)
            counts = np.asarray(beyond, dtype=np.float64).ravel()
            above.append(np.bincount(environment, counts, minlength=len(self.labels)))
        cumulative = np.stack(above, axis=-1)
        return np.asarray(cumulative[..., :-1] - cumulative[..., 1:])
