"""A run read back: its chain, and the posterior that it was drawn from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from npe_tf.catalogue import Catalogue
from npe_tf.chain_store import CHAIN_FILE, ChainStore
from npe_tf.posterior import PosteriorConfig

__all__ = ["FEWEST_SAMPLES", "Run", "StoredSample", "num_samples_of"]

FEWEST_SAMPLES = 4
"""Sweeps after the warm-up without which nothing can be said of a run."""

Array = NDArray[np.float64]


def num_samples_of(folder: str | Path) -> int:
    """Sweeps after the warm-up that a run has so far.

    Args:
        folder: of the run.

    Raises:
        OSError: if there is no run.
    """
    with ChainStore.open(Path(folder) / CHAIN_FILE) as store:
        return max(0, store.num_committed - int(store.attributes["num_warmup"]))


class StoredSample(NamedTuple):
    """A sample of which the field was kept.

    Attributes:
        sweep: counted from 0, the warm-up included.
        chain: counted from 0.
        white_noise: `[N, N, N]`, of the chain's dtype.
        theta: parameters, `[D]`.
    """

    sweep: int
    chain: int
    white_noise: NDArray[np.floating]
    theta: Array


class Run:
    """What a chain file says, finished or still being written.

    Args:
        store: the open chain.
        catalogue: the catalogue that the run is about.

    Attributes:
        store: the chain.
        warmup: sweeps of warm-up.
        num_samples: sweeps after it.
        num_chains: C.
        names: of the parameters, D of them.
        posterior: rebuilt from the attributes.
        grid: its mesh.
        truth: the true linear field at a=1, `[N, N, N]`, or `None`.
        theta: parameters of all sweeps, warm-up included, `[T, C, D]`.
        log_posterior: `[T, C]`.
        power: of the linear field, `[T, C, K]` [(Mpc/h)^3].

    Raises:
        ValueError: if the run has fewer than four sweeps after the warm-up.
    """

    def __init__(self, store: ChainStore, catalogue: Catalogue) -> None:
        """Read all but the fields."""
        self.store = store
        attributes = store.attributes
        self.warmup = int(attributes["num_warmup"])
        self.num_samples = store.num_committed - self.warmup
        if self.num_samples < FEWEST_SAMPLES:
            raise ValueError(
                "Invalid value for argument `output`. Expected a run with at least "
                f"{FEWEST_SAMPLES} sweeps of sampling. Received: {store.num_committed} sweeps, "
                f"{self.warmup} of them warm-up"
            )
        self.names = [str(name) for name in attributes["parameters"]]
        config = PosteriorConfig.from_attributes(attributes)
        self.truth = self._constant("true_delta_linear")
        self.posterior = config.build(catalogue, self._constant("completeness"))
        self.grid = self.posterior.grid
        self.theta = store.read("theta")
        self.log_posterior = store.read("log_posterior")
        self.power = store.read("power")
        self.num_chains = self.theta.shape[1]

    def _constant(self, name: str) -> Array | None:
        return self.store.constant(name) if name in self.store.constants else None

    @property
    def initial_theta(self) -> Array | None:
        """The parameters `[D]` that every chain was told to start with; `None` if it was not."""
        text = str(self.store.attributes.get("initial_theta", ""))
        return np.frombuffer(bytes.fromhex(text), np.float64) if text else None

    def kept(self, most: int | None = None) -> list[tuple[int, int]]:
        """(sweep, chain) of the samples after the warm-up of which the field was kept.

        Args:
            most: how many, spread evenly over the run; all by default.
        """
        column = self.store.columns["white_noise"]
        rows = range(column.num_rows(self.store.num_committed))
        sweeps = ((row + 1) * column.every - 1 for row in rows)
        pairs = [(s, chain) for s in sweeps if s >= self.warmup for chain in range(self.num_chains)]
        if not pairs or most is None:
            return pairs
        return [pairs[i] for i in np.unique(np.linspace(0, len(pairs) - 1, most).astype(int))]

    def stored_samples(self, most: int | None = None) -> Iterator[StoredSample]:
        """Samples of which the field was kept, the fields of one sweep in memory at a time.

        Args:
            most: as in `kept`.
        """
        every = self.store.columns["white_noise"].every
        row, fields = -1, None
        for sweep, chain in self.kept(most):
            if fields is None or sweep // every != row:
                row = sweep // every
                fields = self.store.read("white_noise", row, row + 1)[0]
            yield StoredSample(sweep, chain, fields[chain], self.theta[sweep, chain])
