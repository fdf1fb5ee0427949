"""Posterior predictive checks: whether haloes drawn from the posterior look like those observed.

For every sample of field and parameters, mock catalogues are drawn from the model: a Poisson number
of haloes in each voxel, masses from its mass function, places anywhere in it. Numbers measured of
them, and of the data, are

* the mass function in environments, which are ranges of the evolved density of the sample;
* counts in cells: how many voxels, and blocks of 2^3 voxels, hold how many haloes;
* the power of the haloes' number density, and its cross power with the evolved density of the
  sample, by mass;
* the one-point distribution of the smoothed number density;
* the scatter of counts: the sum of (count - expected)^2 over voxels in units of what a Poisson
  process makes of it, by mass and by the number expected. Above one haloes flock together within
  a voxel, below one they keep their distance.

The discrepancy of a catalogue is the sum over bins of (value - mean)^2 / variance, mean and
variance being those of data and mocks of the sample together; of numbers of haloes, voxels and
blocks one is added to the variance, lest bins that are empty as a rule decide. The p-value is the
share of mocks that are as discrepant as the data or more (Gelman, Meng & Stern 1996, Statistica
Sinica 6, 733).

Data and mocks of one sample enter in the same way. So, if the sample is the truth and the model is
right, the data's rank is uniform, whatever the bins. The samples of a posterior have seen the data,
and then p-values are nearer to one half than uniform ones: what fails, fails indeed.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike, NDArray

from npe_tf import statistics
from npe_tf.catalogue import Catalogue
from npe_tf.environments import DensityEnvironments, environments_of
from npe_tf.grid import Grid
from npe_tf.likelihood import PoissonLikelihood
from npe_tf.mass_function import HaloMassFunction
from npe_tf.posterior import FieldPosterior

__all__ = [
    "Check",
    "Haloes",
    "MockSampler",
    "PredictiveChecks",
    "format_checks",
    "measure",
    "mock_catalogues",
    "predictive_checks",
]

Tensor = Any
Array = NDArray[np.float64]

_ENVIRONMENTS = DensityEnvironments.labels
# in units of the threshold; fixed, since bins chosen by the data would fit them better than mocks
_MASS_EDGES = 10.0 ** np.array([0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0])
_MASS_BINS = (1.0, 3.0, 10.0)
_COUNT_EDGES = np.array([0, 1, 2, 3, 4, 5, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256])
_DENSITY_EDGES = np.array([0.1, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 7.0])
_RATE_EDGES = np.array([0.0, 0.1, 0.3, 1.0, 3.0, 10.0])
_COUNTED = (
    "mass function",
    "counts in voxels",
    "counts in blocks",
    "one-point distribution",
)
_FAILS = 0.01


class Haloes(NamedTuple):
    """What the checks know of a catalogue.

    Attributes:
        voxels: flat index of each halo among the voxels that count, `[H]`.
        log_mass: `[H]` [log of Msun/h].
    """

    voxels: NDArray[np.int64]
    log_mass: Array


@dataclasses.dataclass(frozen=True)
class Check:
    """One kind of number, of data and mocks.

    Attributes:
        name: of the check.
        axis: what the bins are of.
        bins: B of them, by their lower edges, wavenumbers or whatever `axis` says.
        groups: G names.
        p_value: share of the mocks that are as discrepant as the data or more.
        group_p_values: of each group by itself, `[G]`.
        observed: mean over the samples, `[G, B]`.
        expected: mean over samples and mocks, `[G, B]`.
        pull: (data - mean of the mocks) / their standard deviation, `[S, G, B]`; NaN in bins
            where the mocks never differ.
    """

    name: str
    axis: str
    bins: Array
    groups: tuple[str, ...]
    p_value: float
    group_p_values: Array
    observed: Array
    expected: Array
    pull: Array

    @property
    def fails(self) -> bool:
        """Whether the p-value is below 1%."""
        return self.p_value < _FAILS

    @property
    def mean_pull(self) -> Array:
        """Mean of `pull` over the samples, `[G, B]`; zero where it is not known."""
        return np.asarray(np.nan_to_num(self.pull).mean(axis=0))

    def worst(self) -> tuple[str, float, float]:
        """Group, bin and mean pull of the bin in which the data are furthest from the mocks."""
        group, number = np.unravel_index(np.argmax(np.abs(self.mean_pull)), self.mean_pull.shape)
        return self.groups[group], float(self.bins[number]), float(self.mean_pull[group, number])

    def to_json(self) -> dict[str, Any]:
        """All numbers, fit for JSON."""
        group, number, pull = self.worst()
        return {
            "name": self.name,
            "p_value": self.p_value,
            "fails": self.fails,
            "worst": {"group": group, "bin": number, "pull": pull},
            "axis": self.axis,
            "bins": self.bins.tolist(),
            "groups": list(self.groups),
            "group_p_values": self.group_p_values.tolist(),
            "observed": self.observed.tolist(),
            "expected": self.expected.tolist(),
            "mean_pull": self.mean_pull.tolist(),
        }


class MockSampler:
    """Draws haloes of one sample of field and parameters.

    Args:
        posterior: of the sample.
        delta: evolved overdensity `[N, N, N]`.
        theta: bias parameters, `[size]`.

    Attributes:
        delta: of the voxels that count.
        rates: expected haloes of each voxel that counts, by mass, completeness included: from one,
            three and ten times the threshold, `[3, N', N', N']`.
    """

    def __init__(self, posterior: FieldPosterior, delta: ArrayLike, theta: ArrayLike) -> None:
        """Evaluate the mass functions."""
        dtype = posterior.bias.dtype
        mass_function = posterior.bias.mass_function(
            tf.constant(delta, dtype), tf.constant(theta, dtype)
        )
        self.likelihood: PoissonLikelihood = posterior.likelihood
        self.delta = self.likelihood.interior(delta)
        low = np.log(self.likelihood.mass_threshold)
        above = [
            np.asarray(self.likelihood.expected_counts(mass_function, edge), dtype=np.float64)
            for edge in low + np.log(_MASS_BINS)
        ]
        # a difference of nearly equal numbers may be a little below zero
        self.rates = np.stack([*np.maximum(np.subtract(above[:-1], above[1:]), 0.0), above[-1]])
        self.mass_function = mass_function
        count = mass_function.scale.shape[-1]
        self._mixture = [
            tf.reshape(numbers, [-1, count])
            for numbers in (
                mass_function.log_amplitude,
                mass_function.mean_log_mass,
                mass_function.scale,
            )
        ]

    @property
    def rate(self) -> Array:
        """Expected haloes of all masses in each voxel that counts."""
        return np.asarray(self.rates.sum(axis=0))

    def haloes(self, rng: np.random.Generator) -> Haloes:
        """Draw how many haloes of which mass are in which voxel."""
        counts = self.likelihood.draw_counts(self.rate, self.mass_function, rng).ravel()
        voxels = np.repeat(np.arange(counts.size), counts)
        return Haloes(voxels, self.log_masses(voxels, rng))

    def log_masses(self, voxels: NDArray[np.int64], rng: np.random.Generator) -> Array:
        """Draw a log mass for each of the haloes of given voxels, `[H]`."""
        seed = rng.integers(0, 2**31 - 1, 2, dtype=np.int32)
        log_mass = np.asarray(
            _log_masses(
                self.mass_function.family,
                self.mass_function.parameterisation,
                self.likelihood.mass_threshold,
                self.mass_function.dtype,
            )(*self._mixture, voxels, seed),
            dtype=np.float64,
        )
        return np.maximum(log_mass, np.log(self.likelihood.mass_threshold))

    def catalogue(self, rng: np.random.Generator) -> Catalogue:
        """Draw a catalogue: haloes, and where in their voxels they are.

        Raises:
            ValueError: if no halo is drawn.
        """
        haloes, grid = self.haloes(rng), self.likelihood.grid
        margin = (grid.num_cells - self.delta.shape[0]) // 2
        vertex = np.stack(np.unravel_index(haloes.voxels, self.delta.shape), axis=1) + margin
        inside = rng.uniform(-0.5, 0.5, vertex.shape)
        positions = np.mod((vertex + inside) * grid.cell_size, grid.box_size)
        positions[positions >= grid.box_size] = 0.0  # np.mod rounds what is just below zero up
        # rounding must not take the lightest below the threshold
        mass = np.maximum(np.exp(haloes.log_mass), self.likelihood.mass_threshold)
        return Catalogue(positions, mass, grid.box_size)


@functools.lru_cache(maxsize=8)
def _log_masses(family: Any, parameterisation: str, mass_threshold: float, dtype: Any) -> Any:
    """Function that draws masses of haloes; traced once for all samples of a posterior.

    It takes the mixtures of V voxels, three times `[V, T]`, the voxel of each halo and a seed.
    """
    mixture = tf.TensorSpec([None, None], dtype)

    threshold = float(np.log(mass_threshold))

    def draw(
        log_amplitude: Tensor, mean: Tensor, scale: Tensor, voxels: Tensor, seed: Tensor
    ) -> Any:
        log_amplitude, mean, scale = (
            tf.gather(numbers, voxels) for numbers in (log_amplitude, mean, scale)
        )
        found = HaloMassFunction(log_amplitude, mean, scale, threshold, parameterisation, family)
        return found.sample(seed=seed)

    return tf.function(
        draw,
        input_signature=[mixture] * 3
        + [tf.TensorSpec([None], tf.int64), tf.TensorSpec([2], tf.int32)],
    )


def measure(
    haloes: Haloes, delta: ArrayLike, rates: Array, grid: Grid, mass_threshold: float
) -> dict[str, Array]:
    """Measure all that is checked of a catalogue.

    Args:
        haloes: of the voxels of `grid`.
        delta: evolved overdensity of the sample at hand, `[N, N, N]`.
        rates: expected haloes of the sample at hand, by mass, `[3, N, N, N]`; `MockSampler.rates`.
        grid: of the voxels that count, as if they were periodic.
        mass_threshold: [Msun/h].

    Returns:
        For every check numbers `[G, B]`.
    """
    density = np.asarray(delta, dtype=np.float64)
    heavier = haloes.log_mass - np.log(mass_threshold)
    size = density.size
    fields = [
        np.bincount(haloes.voxels[chosen], minlength=size).reshape(grid.shape)
        for chosen in _in_bins(heavier, np.log(_MASS_BINS))
    ]
    counts = np.sum(fields, axis=0)

    environment = environments_of(density)[haloes.voxels]
    mass_bin = np.clip(np.digitize(heavier, np.log(_MASS_EDGES)) - 1, 0, None)
    flat = environment * len(_MASS_EDGES) + mass_bin
    table = np.bincount(flat, minlength=len(_ENVIRONMENTS) * len(_MASS_EDGES))

    half = grid.num_cells // 2
    blocks = counts.reshape(half, 2, half, 2, half, 2).sum(axis=(1, 3, 5))
    shells = grid.num_cells // 4
    scatter = [_scatter(field, rate) for field, rate in zip(fields, rates, strict=True)]
    contrasts = np.stack([_contrast(field) for field in fields])
    smooth = statistics.smooth(_contrast(counts), grid, grid.cell_size)
    return {
        "mass function": table.reshape(len(_ENVIRONMENTS), -1).astype(np.float64),
        "counts in voxels": _histogram(counts, _COUNT_EDGES),
        "counts in blocks": _histogram(blocks, _COUNT_EDGES),
        "halo power": statistics.power_spectrum(contrasts, grid, num_shells=shells).power,
        "cross power": statistics.power_spectrum(contrasts, grid, density, shells).power,
        "one-point distribution": _histogram(1.0 + smooth, np.append(-np.inf, _DENSITY_EDGES)),
        "scatter of counts": np.stack(scatter),
    }


def _in_bins(x: Array, lower: Array) -> Iterator[NDArray[np.bool_]]:
    """Which numbers are in each bin, of lower edges; the first takes all below, too."""
    number = np.clip(np.digitize(x, lower) - 1, 0, None)
    return (number == bin_ for bin_ in range(len(lower)))


def _contrast(field: NDArray[Any]) -> Array:
    mean = field.mean()
    return np.asarray(field / mean - 1.0) if mean else np.zeros(field.shape)


def _scatter(counts: NDArray[Any], rate: Array) -> Array:
    """Sum of (count - expected)^2 over that of a Poisson process, by the number expected."""
    number = np.digitize(rate.ravel(), _RATE_EDGES) - 1
    squares = np.bincount(number, (counts - rate).ravel() ** 2, len(_RATE_EDGES))
    expected = np.bincount(number, rate.ravel(), len(_RATE_EDGES))
    return np.divide(squares, expected, out=np.ones_like(squares), where=expected > 0)


def _histogram(values: NDArray[Any], lower: NDArray[Any]) -> Array:
    """How many values are in each bin, of lower edges, `[1, B]`."""
    number = np.digitize(values.ravel(), lower) - 1
    return np.bincount(number, minlength=len(lower))[np.newaxis].astype(np.float64)


def _axes(grid: Grid, mass_threshold: float) -> dict[str, tuple[str, Array, tuple[str, ...]]]:
    """What bins and groups of every check are."""
    edges = [factor * mass_threshold for factor in _MASS_BINS]
    masses = [f"{a:.2g} to {b:.2g}" for a, b in zip(edges, edges[1:], strict=False)]
    by_mass = (*masses, f"above {edges[-1]:.2g}")
    k = grid.shell_wavenumber(grid.num_cells // 4)
    counts, lowest = _COUNT_EDGES.astype(np.float64), np.append(0.0, _DENSITY_EDGES)
    return {
        "mass function": ("mass from [Msun/h]", _MASS_EDGES * mass_threshold, _ENVIRONMENTS),
        "counts in voxels": ("haloes from", counts, ("all",)),
        "counts in blocks": ("haloes from", counts, ("all",)),
        "halo power": ("k [h/Mpc]", k, by_mass),
        "cross power": ("k [h/Mpc]", k, by_mass),
        "one-point distribution": ("1 + delta of haloes from", lowest, ("all",)),
        "scatter of counts": ("haloes expected from", _RATE_EDGES, by_mass),
    }


@dataclasses.dataclass(frozen=True)
class PredictiveChecks:
    """All checks of a posterior.

    Attributes:
        checks: each kind of number.
        num_samples: S, of field and parameters.
        num_mocks: of each sample.
    """

    checks: tuple[Check, ...]
    num_samples: int
    num_mocks: int

    def __getitem__(self, name: str) -> Check:
        """The check of that name."""
        return {check.name: check for check in self.checks}[name]

    def to_json(self) -> dict[str, Any]:
        """All numbers, fit for JSON."""
        return {
            "num_samples": self.num_samples,
            "num_mocks": self.num_mocks,
            "checks": [check.to_json() for check in self.checks],
        }


def predictive_checks(
    posterior: FieldPosterior,
    samples: Iterable[tuple[ArrayLike, ArrayLike]],
    num_mocks: int = 39,
    seed: int = 0,
    observed: Haloes | None = None,
) -> PredictiveChecks:
    """Compare the haloes of the likelihood with mocks of samples.

    Args:
        posterior: of the samples.
        samples: white noise `[N, N, N]` and parameters `[size]` that belong together.
        num_mocks: of each sample.
        seed: of the mocks.
        observed: haloes to compare; by default those of the posterior's likelihood.

    Returns:
        The checks. The smallest p-value there can be is one over the number of all mocks plus one.

    Raises:
        ValueError: if there is no sample or fewer than two mocks.
    """
    if num_mocks < 2:
        raise ValueError(
            "Invalid value for argument `num_mocks`. Expected an integer of at least 2. Received: "
            f"num_mocks={num_mocks!r}"
        )
    likelihood = posterior.likelihood
    data = Haloes(likelihood.voxels, likelihood.log_masses) if observed is None else observed
    num_kept = likelihood.shape[0]
    grid = Grid(num_kept, num_kept * posterior.grid.cell_size)
    threshold = likelihood.mass_threshold
    rng = np.random.default_rng(seed)
    found: dict[str, list[Array]] = {}
    for white_noise, theta in samples:
        sampler = MockSampler(posterior, _density(posterior, white_noise), theta)
        catalogues = [data, *(sampler.haloes(rng) for _ in range(num_mocks))]
        measured = [
            measure(each, sampler.delta, sampler.rates, grid, threshold) for each in catalogues
        ]
        for name in measured[0]:
            found.setdefault(name, []).append(np.stack([each[name] for each in measured]))
    if not found:
        raise ValueError(
            "Invalid value for argument `samples`. Expected at least one. Received: none"
        )
    axes = _axes(grid, threshold)
    checks = tuple(_check(name, *axes[name], np.stack(found[name])) for name in found)
    return PredictiveChecks(checks, len(next(iter(found.values()))), num_mocks)


def mock_catalogues(
    posterior: FieldPosterior, samples: Iterable[tuple[ArrayLike, ArrayLike]], seed: int = 0
) -> Iterator[Catalogue]:
    """Draw one catalogue of each sample.

    Args:
        posterior: of the samples.
        samples: white noise `[N, N, N]` and parameters `[size]` that belong together.
        seed: of the haloes.

    Yields:
        Catalogues, one after another.
    """
    rng = np.random.default_rng(seed)
    for white_noise, theta in samples:
        yield MockSampler(posterior, _density(posterior, white_noise), theta).catalogue(rng)


def _density(posterior: FieldPosterior, white_noise: ArrayLike) -> Array:
    delta = posterior.density(tf.constant(white_noise, posterior.bias.dtype))
    return np.asarray(delta, dtype=np.float64)


def _check(name: str, axis: str, bins: Array, groups: tuple[str, ...], numbers: Array) -> Check:
    """The check of numbers `[S, 1 + R, G, B]`, the data's first."""
    data, mocks = numbers[:, 0], numbers[:, 1:]
    # the last shells of a spectrum may be empty
    numbers = np.nan_to_num(numbers)
    variance = numbers.var(axis=1, keepdims=True)
    if name in _COUNTED:
        # one halo where there is rarely any is no discrepancy that should drown others
        variance = variance + 1.0
    squares = (numbers - numbers.mean(axis=1, keepdims=True)) ** 2
    terms = np.divide(squares, variance, out=np.zeros_like(squares), where=variance > 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        scatter = mocks.std(axis=1, ddof=1)
        pull = np.where(scatter > 0, (data - mocks.mean(axis=1)) / scatter, np.nan)
    by_group = terms.sum(axis=-1)
    return Check(
        name,
        axis,
        bins,
        groups,
        float(_p_value(by_group.sum(axis=-1))),
        np.asarray(_p_value(by_group)),
        data.mean(axis=0),
        mocks.mean(axis=(0, 1)),
        pull,
    )


def _p_value(discrepancy: Array) -> Any:
    """Share of mocks above the data of `[S, 1 + R, ...]`, the data counted as one of them."""
    above = discrepancy[:, 1:] >= discrepancy[:, :1]
    return (1 + above.sum(axis=(0, 1))) / (1 + above.shape[0] * above.shape[1])


def format_checks(found: PredictiveChecks) -> str:
    """Set the checks as plain text.

    Args:
        found: the checks.

    Returns:
        One line for each check and each of its groups.
    """
    lines = [
        f"{found.num_samples} samples, {found.num_mocks} mocks of each; p-value: share of mocks "
        "as far from the mean as the data, or farther",
        f"{'check':<24} {'p-value':>8}  furthest bin (pull in standard deviations of the mocks)",
    ]
    for check in found.checks:
        group, number, pull = check.worst()
        where = f"{check.axis} {number:.3g}" + (f", {group}" if len(check.groups) > 1 else "")
        verdict = "  FAILS" if check.fails else ""
        lines.append(f"{check.name:<24} {check.p_value:>8.4f}  {pull:+.1f} at {where}{verdict}")
        if len(check.groups) > 1:
            groups: Mapping[str, float] = dict(
                zip(check.groups, check.group_p_values.tolist(), strict=True)
            )
            lines += [f"  {name:<22} {p:>8.4f}" for name, p in groups.items()]
    return "\n".join(lines)
