"""Numbers of the figures of Charnock et al. 2020 (MNRAS 494, 50) from a run.

One pass over the stored fields, one of them in memory at a time. Chains whose psi, the number that
the network makes of a neighbourhood, rises with the density and chains whose psi falls with it are
in different modes of the posterior, between which they do not cross. How many chains are in which
says nothing of the modes' weights, so that nothing here is averaged over modes.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike, NDArray

from npe_tf import statistics
from npe_tf.bias.neural import PapersNetwork, psi_rises
from npe_tf.environments import DensityEnvironments
from npe_tf.field_moments import FieldMoments
from npe_tf.mass_function import HaloMassFunction
from npe_tf.posterior import FieldPosterior
from npe_tf.run import Run, StoredSample

__all__ = ["Example", "FigureData", "Mode", "Reference", "coarsened", "figure_data"]

Tensor = Any
Array = NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Example:
    """One sample: that of the largest log posterior among the stored ones of its mode.

    Attributes:
        chain: counted from 0.
        sweep: counted from 1, the warm-up included.
        initial: linear overdensity at a=1, `[N, N, N]`.
        evolved: evolved overdensity, `[N, N, N]`.
        psi: `[N, N, N]`; NaN where no voxel counts.
        reference_psi: psi of the reference's evolved density with the sample's parameters; `None`
            without a reference.
        halo_mass: mass in haloes that were drawn from the sample, `[N, N, N]` [Msun/h].
    """

    chain: int
    sweep: int
    initial: Array
    evolved: Array
    psi: Array
    reference_psi: Array | None
    halo_mass: Array


@dataclasses.dataclass(frozen=True)
class Reference:
    """The simulation's fields, where they are known.

    Attributes:
        initial: linear overdensity at a=1, `[N, N, N]`.
        evolved: evolved overdensity, `[N, N, N]`.
        is_simulated: whether `evolved` is the simulation's own; otherwise it is what the run's
            gravity makes of `initial`.
    """

    initial: Array
    evolved: Array
    is_simulated: bool


@dataclasses.dataclass(frozen=True)
class Mode:
    """What the samples of one mode say.

    Attributes:
        psi: ``"rises"`` or ``"falls"`` with the density.
        chains: those with samples in it.
        num_fields: stored fields that the moments are of.
        volumes: of the E environments, mean over samples, `[E]` [(Mpc/h)^3].
        found: haloes of the catalogue in each environment and mass bin, mean over samples,
            `[E, M]`.
        expected_mean: haloes that the samples expect there, mean over samples, `[E, M]`.
        expected_std: its standard deviation over samples, `[E, M]`.
        start: the same of the parameters at the start in the samples' fields, mean, `[E, M]`.
        evolved_mean: of the evolved overdensity over samples, `[N, N, N]`.
        evolved_variance: `[N, N, N]`.
        psi_mean: `[N, N, N]`, as the next NaN where no voxel counts.
        psi_variance: `[N, N, N]`.
        reference_psi: psi of the reference's evolved density, mean over the samples' parameters,
            `[N, N, N]`; `None` without a reference.
        power: of every sweep after the warm-up, `[S, K]` [(Mpc/h)^3].
        example: one sample.
    """

    psi: str
    chains: tuple[int, ...]
    num_fields: int
    volumes: Array
    found: Array
    expected_mean: Array
    expected_std: Array
    start: Array
    evolved_mean: Array
    evolved_variance: Array
    psi_mean: Array
    psi_variance: Array
    reference_psi: Array | None
    power: Array
    example: Example


@dataclasses.dataclass(frozen=True)
class FigureData:
    """Numbers of all figures.

    Attributes:
        box_size: [Mpc/h].
        names: of the D parameters.
        theta: of all sweeps, `[T, C, D]`.
        warmup: sweeps of warm-up.
        start_is_given: whether all chains were told to start with the same parameters; otherwise
            the start is what a chain had after its first sweep.
        environments: names of the E environments.
        log_mass_edges: `[M + 1]` [log of Msun/h].
        k: wavenumbers of the shells, `[K]` [h/Mpc].
        prior_power: `[K]` [(Mpc/h)^3].
        modes_per_shell: live Fourier modes, k and -k both, `[K]`.
        true_power: of the true linear field, `[K]` [(Mpc/h)^3], or `None`.
        counts: haloes of the catalogue, `[N, N, N]`; NaN where no voxel counts.
        halo_mass: mass in them, `[N, N, N]` [Msun/h].
        reference: `None` if the truth is not known.
        modes: those with stored fields.
    """

    box_size: float
    names: tuple[str, ...]
    theta: Array
    warmup: int
    start_is_given: bool
    environments: tuple[str, ...]
    log_mass_edges: Array
    k: Array
    prior_power: Array
    modes_per_shell: NDArray[np.int64]
    true_power: Array | None
    counts: Array
    halo_mass: Array
    reference: Reference | None
    modes: tuple[Mode, ...]


def coarsened(delta: ArrayLike, num_cells: int) -> Array:
    """A cloud-in-cell density on a coarser mesh.

    A wide cloud is a sum of narrow ones, so that this is to the last digit the density that
    cloud-in-cell would have given on the coarser mesh, whatever the particles were.

    Args:
        delta: overdensity at the vertices of a periodic mesh, `[n, n, n]`.
        num_cells: N, a divisor of n.

    Returns:
        `[N, N, N]`.

    Raises:
        ValueError: if `delta` is no cube or N does not divide its side.
    """
    field = np.asarray(delta, dtype=np.float64)
    if field.ndim != 3 or len(set(field.shape)) != 1 or num_cells < 1 or len(field) % num_cells:
        raise ValueError(
            "Invalid value for argument `delta`. Expected a cube with a multiple of "
            f"{num_cells} cells along each side. Received: shape {field.shape}"
        )
    factor = len(field) // num_cells
    for axis in range(3):
        rolled = [
            (factor - abs(j)) / factor**2 * np.roll(field, -j, axis)
            for j in range(1 - factor, factor)
        ]
        field = np.sum(rolled, axis=0)
        field = np.take(field, np.arange(num_cells) * factor, axis)
    return field


def figure_data(
    run: Run,
    simulated_density: ArrayLike | None = None,
    num_fields: int | None = None,
    seed: int = 0,
) -> FigureData:
    """Go through a run once.

    Args:
        run: of the paper's network.
        simulated_density: the simulation's evolved overdensity, cloud-in-cell, on the mesh of the
            run or one that is finer by a whole number. It needs a run with a true linear field.
        num_fields: how many of the stored fields to use, spread evenly over the run; all by
            default.
        seed: of the haloes that are drawn.

    Returns:
        The numbers.

    Raises:
        ValueError: if the run's network is not the paper's, no field is stored after the warm-up,
            or the density's mesh does not fit.
    """
    network = PapersNetwork.of(run.posterior.bias.model)
    if network is None:
        raise ValueError(
            "Invalid value for argument `run`. Expected a network like the paper's, with one psi. "
            f"Received: a model with the parameters {run.names}"
        )
    if num_fields is not None and num_fields < 1:
        raise ValueError(
            "Invalid value for argument `num_fields`. Expected a positive number. Received: "
            f"num_fields={num_fields!r}"
        )
    reference = _reference(run, simulated_density)
    passage = _Passage(run, network, reference, num_fields, seed)
    for sample in run.stored_samples(num_fields):
        passage.add(sample)
    modes = passage.modes()
    if not modes:
        raise ValueError(
            "Invalid value for argument `run`. Expected a stored field after the warm-up. Received:"
            f" none in {run.num_samples} sweeps"
        )
    posterior, grid = run.posterior, run.grid
    likelihood = posterior.likelihood
    mass = np.bincount(likelihood.voxels, np.exp(likelihood.log_masses), likelihood.counts.size)
    true_power = None
    if run.truth is not None:
        true_power = statistics.power_spectrum(run.truth, grid).power
    return FigureData(
        box_size=grid.box_size,
        names=tuple(run.names),
        theta=run.theta,
        warmup=run.warmup,
        start_is_given=run.initial_theta is not None,
        environments=DensityEnvironments.labels,
        log_mass_edges=passage.environments.log_mass_edges,
        k=grid.shell_wavenumber(),
        prior_power=grid.shell_mean(posterior.initial_field.linear_power()),
        modes_per_shell=statistics.modes_per_shell(grid),
        true_power=true_power,
        counts=_embedded(likelihood.counts, posterior),
        halo_mass=_embedded(mass.reshape(likelihood.shape), posterior),
        reference=reference,
        modes=modes,
    )


def _reference(run: Run, simulated_density: ArrayLike | None) -> Reference | None:
    if run.truth is None:
        return None
    if simulated_density is not None:
        return Reference(run.truth, coarsened(simulated_density, run.grid.num_cells), True)
    white_noise = run.posterior.initial_field.white_noise(run.truth)
    evolved = run.posterior.density(tf.constant(white_noise, run.posterior.bias.dtype))
    return Reference(run.truth, np.asarray(evolved, dtype=np.float64), False)


def _embedded(values: ArrayLike, posterior: FieldPosterior) -> Array:
    """Numbers of the voxels that count as a field of all, NaN elsewhere."""
    field = np.full(posterior.grid.shape, np.nan)
    posterior.likelihood.interior(field)[...] = values
    return field


def _drawn_mass(mass_function: HaloMassFunction, posterior: FieldPosterior, seed: int) -> Array:
    """Mass in haloes drawn from the mass functions of all voxels, `[N, N, N]` [Msun/h]."""
    likelihood = posterior.likelihood
    expected = np.asarray(likelihood.expected_counts(mass_function), dtype=np.float64)
    rng = np.random.default_rng(seed)
    counts = likelihood.draw_counts(expected, mass_function, rng).ravel()
    voxels = np.repeat(np.arange(counts.size), counts)
    log_mass = mass_function.at(tf.constant(voxels, tf.int32)).sample(seed=(seed, 1))
    mass = np.bincount(voxels, np.exp(np.asarray(log_mass, dtype=np.float64)), counts.size)
    return _embedded(mass.reshape(likelihood.shape), posterior)


class _Tally:
    """What is summed over the samples of one mode."""

    def __init__(self, shape: tuple[int, ...], psi_shape: tuple[int, ...]) -> None:
        self.chains: set[int] = set()
        self.haloes: list[tuple[Array, Array, Array]] = []  # found, expected, start
        self.volumes: list[Array] = []
        self.evolved = FieldMoments(("evolved",), shape)
        self.psi = FieldMoments(("psi", "reference"), psi_shape)
        self.example: Example | None = None


def _variance(moments: FieldMoments, name: str) -> Array:
    """Unbiased, of the fields taken in; zero of a single one."""
    squares = np.maximum(moments.arrays[f"{name}_m2"], 0.0)  # of equal fields: rounding
    return np.asarray(squares, np.float64) / max(1, moments.count - 1)


class _Passage:
    """The way through the stored samples."""

    def __init__(
        self,
        run: Run,
        network: PapersNetwork,
        reference: Reference | None,
        num_fields: int | None,
        seed: int,
    ) -> None:
        self.run = run
        self.network = network
        self.seed = seed
        self.posterior = run.posterior
        self.dtype = run.posterior.bias.dtype
        self.environments = DensityEnvironments(run.posterior.likelihood)
        self.tallies: dict[str, _Tally] = {}
        self.reference: Tensor | None = None
        if reference is not None:
            self.reference = network.responses(tf.constant(reference.evolved, self.dtype))
        self.best = self._best(num_fields)

    def _mode(self, theta: Array) -> str:
        return "rises" if psi_rises(theta, self.run.names) else "falls"

    def _best(self, num_fields: int | None) -> dict[str, tuple[int, int]]:
        """(sweep, chain) of the sample of largest log posterior that is used of each mode."""
        best: dict[str, tuple[int, int]] = {}
        log_posterior = self.run.log_posterior
        for place in self.run.kept(num_fields):
            mode = self._mode(self.run.theta[place])
            if mode not in best or log_posterior[place] > log_posterior[best[mode]]:
                best[mode] = place
        return best

    def add(self, sample: StoredSample) -> None:
        """Take in a sample."""
        bias, environments = self.posterior.bias, self.environments
        mode = self._mode(sample.theta)
        theta = tf.constant(sample.theta, self.dtype)
        white_noise = tf.constant(sample.white_noise, self.dtype)
        delta = self.posterior.density(white_noise)
        mass_function = bias.mass_function(delta, theta)
        psi = self.network.psi(self.network.responses(delta), theta)
        if mode not in self.tallies:
            self.tallies[mode] = _Tally(self.run.grid.shape, tuple(psi.shape))
        tally = self.tallies[mode]
        tally.chains.add(sample.chain)

        given = self.run.initial_theta
        start = self.run.theta[0, sample.chain] if given is None else given
        at_start = bias.mass_function(delta, tf.constant(start, self.dtype))
        environment = environments.of(delta)
        tally.volumes.append(environments.volumes(environment))
        tally.haloes.append(
            (
                environments.found(environment),
                environments.expected(environment, mass_function),
                environments.expected(environment, at_start),
            )
        )
        tally.evolved.add(evolved=delta.numpy().astype(np.float32))
        reference = psi if self.reference is None else self.network.psi(self.reference, theta)
        tally.psi.add(
            psi=psi.numpy().astype(np.float32), reference=reference.numpy().astype(np.float32)
        )
        if self.best[mode] == (sample.sweep, sample.chain):
            initial = self.posterior.initial_field(white_noise)
            tally.example = Example(
                chain=sample.chain,
                sweep=sample.sweep + 1,
                initial=np.asarray(initial, dtype=np.float64),
                evolved=np.asarray(delta, dtype=np.float64),
                psi=_embedded(psi, self.posterior),
                reference_psi=(
                    None if self.reference is None else _embedded(reference, self.posterior)
                ),
                halo_mass=_drawn_mass(mass_function, self.posterior, self.seed),
            )

    def modes(self) -> tuple[Mode, ...]:
        """The modes met, that in which psi rises first."""
        return tuple(
            self._of(psi, self.tallies[psi]) for psi in ("rises", "falls") if psi in self.tallies
        )

    def _of(self, psi: str, tally: _Tally) -> Mode:
        found, expected, start = (np.array(part) for part in zip(*tally.haloes, strict=True))
        count = tally.evolved.count
        rises = psi_rises(self.run.theta[self.run.warmup :], self.run.names)
        if tally.example is None:
            raise RuntimeError(f"No sample of the mode in which psi {psi} was the best")
        means = {**tally.evolved.arrays, **tally.psi.arrays}
        return Mode(
            psi=psi,
            chains=tuple(sorted(tally.chains)),
            num_fields=count,
            volumes=np.mean(tally.volumes, axis=0),
            found=found.mean(axis=0),
            expected_mean=expected.mean(axis=0),
            expected_std=expected.std(axis=0, ddof=1 if count > 1 else 0),
            start=start.mean(axis=0),
            evolved_mean=means["evolved_mean"].astype(np.float64),
            evolved_variance=_variance(tally.evolved, "evolved"),
            psi_mean=_embedded(means["psi_mean"], self.posterior),
            psi_variance=_embedded(_variance(tally.psi, "psi"), self.posterior),
            reference_psi=(
                None
                if self.reference is None
                else _embedded(means["reference_mean"], self.posterior)
            ),
            power=self.run.power[self.run.warmup :][rises == (psi == "rises")],
            example=tally.example,
        )
