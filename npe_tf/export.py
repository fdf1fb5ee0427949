"""The fitted bias model with its posterior samples as a SavedModel that needs TensorFlow alone.

A SavedModel is a graph with its numbers. This one holds samples of the bias parameters and what
the model makes of an overdensity on a mesh of any size: the halo mass function of every voxel, the
expected number of haloes by mass, and catalogues. `tf.saved_model.load` reads it where this package
is not installed.

Every function comes twice: for the mean of the function over the samples, the posterior's
expectation, and with ``_of_sample`` for one of them. Haloes are a Poisson process, in both: a
catalogue of the mean is one whose intensity is the mean intensity. To keep the uncertainty of the
bias, draw catalogues of different samples.

What a voxel holds depends on its size. A model is that of the cell size it was fitted at, and of
densities made as those were.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike, NDArray

from npe_tf.bias.neural import NeuralBias
from npe_tf.chain_store import ChainStore
from npe_tf.convergence import Limits, convergence_of
from npe_tf.mass_function import HaloMassFunction
from npe_tf.posterior import PosteriorConfig

__all__ = ["METADATA_FILE", "BiasExport", "export_bias", "metadata_of_run", "samples_of_run"]

Tensor = Any

METADATA_FILE = "metadata.json"  # in the folder `assets` of the SavedModel

_DTYPE = tf.float64
_CELL_SIZE_TOLERANCE = 0.01
# rounding of densities that were painted in float32
_DENSITY_TOLERANCE = 1e-4
_LOG_MASS_TOLERANCE = 1e-9
_DENSITY = tf.TensorSpec([None, None, None], _DTYPE, "density")
_SAMPLE = tf.TensorSpec([], tf.int32, "sample")
_UNITS = {
    "density": "overdensity delta = rho / mean - 1",
    "mass": "Msun/h",
    "log_mass": "natural logarithm of Msun/h",
    "mass_function": "dn/dlogM [(h/Mpc)^3 per unit of natural log mass]",
    "expected_counts": "haloes per voxel",
    "positions": "comoving Mpc/h",
    "cell_size": "comoving Mpc/h",
}


class BiasExport(tf.Module):
    """A bias model with samples of its parameters, all in float64.

    The functions take an overdensity of any mesh `[X, Y, Z]`. Out come voxels `[X', Y', Z']`: all
    of them, or with ``"valid"`` padding those that are `margin` or more from the faces.

    Args:
        bias: float64, its model built for a mesh of any size, see `PosteriorConfig.build_bias`.
        theta: samples of its parameters, `[S, size]`.
        chain: number of the chain that each sample is of, `[S]`; zeros by default.
        cell_size: of the mesh of the fit [Mpc/h].
        margin: voxels lost on each side.
        softening: of the logarithm of the density; overdensities must be above -1 - `softening`.
        metadata: what is kept beside, as JSON.

    Attributes:
        theta: variable `[S, size]`.
        chain: variable `[S]`, int32.
        cell_size: variable, scalar [Mpc/h].

    Raises:
        ValueError: if the model is in float32 or for one mesh only, or a shape does not fit.
    """

    def __init__(
        self,
        bias: NeuralBias,
        theta: ArrayLike,
        chain: ArrayLike | None = None,
        *,
        cell_size: float,
        margin: int = 0,
        softening: float = 0.1,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """Check the arguments."""
        super().__init__(name="bias_export")
        samples = np.atleast_2d(np.asarray(theta, dtype=np.float64))
        if samples.ndim != 2 or samples.shape[1] != bias.parameters.size or not len(samples):
            raise ValueError(
                f"Invalid value for argument `theta`. Expected shape [S, {bias.parameters.size}] "
                f"with at least one sample. Received: shape {np.shape(theta)}"
            )
        if not np.all(np.isfinite(samples)):
            raise ValueError(
                "Invalid value for argument `theta`. Expected finite numbers. Received: "
                f"{np.count_nonzero(~np.isfinite(samples))} that are not"
            )
        origin = np.zeros(len(samples)) if chain is None else np.asarray(chain)
        if origin.shape != (len(samples),):
            raise ValueError(
                f"Invalid value for argument `chain`. Expected shape ({len(samples)},). Received: "
                f"shape {origin.shape}"
            )
        mesh = tuple(bias.model.inputs[0].shape[1:4])
        if bias.dtype != "float64" or any(size is not None for size in mesh):
            raise ValueError(
                "Invalid value for argument `bias`. Expected a float64 model for a mesh of any "
                f"size. Received: {bias.dtype}, mesh {mesh}"
            )
        if not (math.isfinite(cell_size) and cell_size > 0):
            raise ValueError(
                "Invalid value for argument `cell_size`. Expected a positive length in Mpc/h. "
                f"Received: cell_size={cell_size!r}"
            )
        self._bias = bias
        self._margin = int(margin)
        self._lowest_density = -1.0 - min(0.5 * softening, _DENSITY_TOLERANCE)
        self._metadata = json.dumps(dict(metadata or {}), indent=1, allow_nan=False)
        self.theta = tf.Variable(samples, trainable=False, name="theta")
        self.chain = tf.Variable(origin.astype(np.int32), trainable=False, name="chain")
        self.cell_size = tf.Variable(cell_size, dtype=_DTYPE, trainable=False, name="cell_size")

    @property
    def described(self) -> dict[str, Any]:
        """The metadata."""
        described: dict[str, Any] = json.loads(self._metadata)
        return described

    @tf.function(input_signature=[])
    def metadata(self) -> dict[str, Tensor]:
        """What is known of the fit: ``"json"``, a scalar string."""
        return {"json": tf.constant(self._metadata)}

    @tf.function(input_signature=[_DENSITY, tf.TensorSpec([None], _DTYPE, "log_mass")])
    def mass_function(self, density: Tensor, log_mass: Tensor) -> dict[str, Tensor]:
        """Posterior mean of the halo mass function.

        Args:
            density: overdensity `[X, Y, Z]`.
            log_mass: `[M]`, at or above the threshold [log of Msun/h].

        Returns:
            ``"mass_function"``: dn/dlogM `[X', Y', Z', M]` [(h/Mpc)^3].
        """
        density, log_mass = self._checked(density, "log_mass", log_mass)
        return {
            "mass_function": self._mean(
                lambda theta: self._mass_function(density, theta, log_mass), density, log_mass
            )
        }

    @tf.function(input_signature=[_DENSITY, tf.TensorSpec([None], _DTYPE, "log_mass"), _SAMPLE])
    def mass_function_of_sample(
        self, density: Tensor, log_mass: Tensor, sample: Tensor
    ) -> dict[str, Tensor]:
        """Halo mass function of one sample.

        Args:
            density: overdensity `[X, Y, Z]`.
            log_mass: `[M]`, at or above the threshold [log of Msun/h].
            sample: from 0 to S - 1.

        Returns:
            As `mass_function`.
        """
        density, log_mass = self._checked(density, "log_mass", log_mass)
        return {"mass_function": self._mass_function(density, self._one(sample), log_mass)}

    @tf.function(input_signature=[_DENSITY, tf.TensorSpec([None], _DTYPE, "log_mass_edges")])
    def expected_counts(self, density: Tensor, log_mass_edges: Tensor) -> dict[str, Tensor]:
        """Posterior mean of the expected number of haloes by voxel and mass.

        Voxels have the volume `cell_size`^3 of the mesh of the fit, and are seen completely.

        Args:
            density: overdensity `[X, Y, Z]`.
            log_mass_edges: of the B bins, increasing, `[B + 1]` [log of Msun/h].

        Returns:
            ``"expected_counts"``: `[X', Y', Z', B]`.
        """
        density, edges = self._checked(density, "log_mass_edges", log_mass_edges, bins=True)
        return {
            "expected_counts": self._mean(
                lambda theta: self._expected_counts(density, theta, edges), density, edges[1:]
            )
        }

    @tf.function(
        input_signature=[_DENSITY, tf.TensorSpec([None], _DTYPE, "log_mass_edges"), _SAMPLE]
    )
    def expected_counts_of_sample(
        self, density: Tensor, log_mass_edges: Tensor, sample: Tensor
    ) -> dict[str, Tensor]:
        """Expected number of haloes by voxel and mass of one sample.

        Args:
            density: overdensity `[X, Y, Z]`.
            log_mass_edges: of the B bins, increasing, `[B + 1]` [log of Msun/h].
            sample: from 0 to S - 1.

        Returns:
            As `expected_counts`.
        """
        density, edges = self._checked(density, "log_mass_edges", log_mass_edges, bins=True)
        return {"expected_counts": self._expected_counts(density, self._one(sample), edges)}

    @tf.function(
        input_signature=[
            _DENSITY,
            tf.TensorSpec([], _DTYPE, "box_size"),
            tf.TensorSpec([2], tf.int32, "seed"),
        ]
    )
    def sample_catalogue(
        self, density: Tensor, box_size: Tensor, seed: Tensor
    ) -> dict[str, Tensor]:
        """Draw haloes whose intensity is the posterior mean of the intensity.

        Args:
            density: overdensity of a cube, `[N, N, N]`.
            box_size: side of the cube [Mpc/h]. A warning is printed where the cells differ by more
                than 1% from those of the fit.
            seed: two integers; equal seeds draw equal haloes.

        Returns:
            ``"positions"``: comoving, in [0, box_size), `[H, 3]` [Mpc/h]; a halo lies anywhere in
            the cell about its vertex ``(i, j, k) * box_size / N``. ``"log_mass"``: `[H]` [log of
            Msun/h].
        """
        density, cell_size = self._checked_cube(density, box_size)
        count = tf.shape(self.theta)[0]
        share = 1.0 / tf.cast(count, _DTYPE)
        # A process whose intensity is a sum is the union of independent processes.
        vertices = tf.TensorArray(_DTYPE, count, infer_shape=False, element_shape=[None, 3])
        masses = tf.TensorArray(_DTYPE, count, infer_shape=False, element_shape=[None])

        def draw(number: Tensor, vertices: Any, masses: Any) -> tuple[Any, ...]:
            own_seed = tf.random.experimental.stateless_fold_in(seed, number)
            theta = tf.gather(self.theta, number)
            found = self._haloes(density, theta, cell_size, share, own_seed)
            return number + 1, vertices.write(number, found[0]), masses.write(number, found[1])

        _, vertices, masses = tf.while_loop(
            lambda number, *_: number < count,
            draw,
            (0, vertices, masses),
            parallel_iterations=1,
        )
        return _catalogue(vertices.concat(), masses.concat(), cell_size, box_size)

    @tf.function(
        input_signature=[
            _DENSITY,
            tf.TensorSpec([], _DTYPE, "box_size"),
            tf.TensorSpec([2], tf.int32, "seed"),
            _SAMPLE,
        ]
    )
    def sample_catalogue_of_sample(
        self, density: Tensor, box_size: Tensor, seed: Tensor, sample: Tensor
    ) -> dict[str, Tensor]:
        """Draw haloes of one sample of the parameters.

        Args:
            density: overdensity of a cube, `[N, N, N]`.
            box_size: side of the cube [Mpc/h], as in `sample_catalogue`.
            seed: two integers.
            sample: from 0 to S - 1.

        Returns:
            As `sample_catalogue`.
        """
        density, cell_size = self._checked_cube(density, box_size)
        one = tf.ones([], _DTYPE)
        vertices, masses = self._haloes(density, self._one(sample), cell_size, one, seed)
        return _catalogue(vertices, masses, cell_size, box_size)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the SavedModel, whole or not at all.

        Args:
            path: a folder, which must not exist yet.

        Raises:
            FileExistsError: if it exists.
        """
        target = Path(path)
        if target.exists():
            raise FileExistsError(f"Refusing to overwrite {str(target)!r}")
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.{os.getpid()}")
        asset = target.with_name(f".{target.name}.{os.getpid()}.asset") / METADATA_FILE
        try:
            asset.parent.mkdir()
            asset.write_text(self._metadata + "\n")
            self.metadata_file = tf.saved_model.Asset(str(asset))
            signatures = {name: getattr(self, name) for name in _FUNCTIONS}
            # so that what loads it can differentiate through the convolution and the tails
            options = tf.saved_model.SaveOptions(experimental_custom_gradients=True)
            tf.saved_model.save(self, str(temporary), signatures=signatures, options=options)
            os.replace(temporary, target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
            shutil.rmtree(asset.parent, ignore_errors=True)

    def _one(self, sample: Tensor) -> Tensor:
        count = tf.shape(self.theta)[0]
        expected = f"an integer from 0 to {self.theta.shape[0] - 1}"
        with tf.control_dependencies(
            [
                _check((sample >= 0) & (sample < count), "sample", expected, sample),
            ]
        ):
            return tf.gather(self.theta, sample)

    def _checked(
        self, density: Tensor, name: str, log_mass: Tensor, bins: bool = False
    ) -> tuple[Tensor, Tensor]:
        low = self._bias.log_mass_threshold
        expected = f"natural logarithms of masses in Msun/h, at least {low:.6f}"
        fits = tf.reduce_all(log_mass >= low - _LOG_MASS_TOLERANCE)
        fits &= tf.reduce_all(tf.math.is_finite(log_mass))
        if bins:
            fits &= (tf.size(log_mass) > 1) & tf.reduce_all(log_mass[1:] > log_mass[:-1])
            expected += ", two or more and increasing"
        with tf.control_dependencies([_check(fits, name, expected, log_mass)]):
            return self._checked_density(density), tf.maximum(log_mass, tf.constant(low, _DTYPE))

    def _checked_density(self, density: Tensor) -> Tensor:
        lowest = tf.constant(self._lowest_density, _DTYPE)
        fits = tf.reduce_all(tf.math.is_finite(density) & (density >= lowest))
        enough = tf.reduce_all(tf.shape(density) > 2 * self._margin)
        expected = f"more than {2 * self._margin} cells along each axis"
        with tf.control_dependencies(
            [
                _check(enough, "density", expected, tf.shape(density)),
                _check(fits, "density", "finite overdensities of at least -1", density),
            ]
        ):
            return tf.identity(density)

    def _checked_cube(self, density: Tensor, box_size: Tensor) -> tuple[Tensor, Tensor]:
        shape = tf.shape(density)
        cube = tf.reduce_all(shape == shape[0])
        positive = tf.math.is_finite(box_size) & (box_size > 0)
        with tf.control_dependencies(
            [
                _check(cube, "density", "a cube [N, N, N]", shape),
                _check(positive, "box_size", "a positive length in Mpc/h", box_size),
            ]
        ):
            cell_size = box_size / tf.cast(shape[0], _DTYPE)
        own = tf.convert_to_tensor(self.cell_size)

        def warn() -> Tensor:
            return tf.print(
                "warning: cells of", cell_size, "Mpc/h; the bias was fitted to cells of", own,
                "Mpc/h, and is another one at other sizes", output_stream=sys.stderr,
            )  # fmt: skip

        fits = tf.abs(cell_size - own) <= _CELL_SIZE_TOLERANCE * own
        told = tf.cond(fits, tf.no_op, warn)
        with tf.control_dependencies([told] if told is not None else []):
            return self._checked_density(density), tf.identity(cell_size)

    def _mean(self, evaluate: Callable[[Tensor], Tensor], density: Tensor, last: Tensor) -> Tensor:
        """Mean over the samples of a function `[X', Y', Z', len(last)]`, one at a time."""
        count = tf.shape(self.theta)[0]
        voxels = tf.shape(density) - 2 * self._margin
        start = tf.zeros(tf.concat([voxels, tf.shape(last)], axis=0), _DTYPE)
        shape = tf.TensorShape([None] * 4)

        def add(number: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
            return number + 1, total + evaluate(tf.gather(self.theta, number))

        _, total = tf.while_loop(
            lambda number, _: number < count,
            add,
            (0, start),
            shape_invariants=(tf.TensorShape([]), shape),
            parallel_iterations=1,
        )
        return total / tf.cast(count, _DTYPE)

    def _distribution(self, density: Tensor, theta: Tensor) -> HaloMassFunction:
        return self._bias.mass_function(density, theta)

    def _mass_function(self, density: Tensor, theta: Tensor, log_mass: Tensor) -> Tensor:
        return tf.exp(_by_mass(self._distribution(density, theta)).log_intensity(log_mass))

    def _expected_counts(self, density: Tensor, theta: Tensor, edges: Tensor) -> Tensor:
        beyond = _by_mass(self._distribution(density, theta)).integral(edges)
        return (beyond[..., :-1] - beyond[..., 1:]) * self.cell_size**3

    def _haloes(
        self, density: Tensor, theta: Tensor, cell_size: Tensor, share: Tensor, seed: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Haloes of `share` times the intensity: place in cells `[H, 3]` and log mass `[H]`."""
        distribution = self._distribution(density, theta)
        rate = share * distribution.integral() * cell_size**3
        count_seed, place_seed, mass_seed = tf.unstack(
            tf.random.experimental.stateless_split(seed, 3)
        )
        counts = tf.random.stateless_poisson(tf.shape(rate), count_seed, rate, tf.int64)
        flat = tf.reshape(counts, [-1])
        voxels = tf.repeat(tf.range(tf.size(flat, tf.int64)), flat)
        # transposed, as unravel_index gives one axis after another
        vertex = tf.transpose(tf.unravel_index(voxels, tf.shape(rate, tf.int64)))
        inside = tf.random.stateless_uniform([tf.size(voxels), 3], place_seed, dtype=_DTYPE) - 0.5
        log_mass = distribution.at(voxels).sample(seed=mass_seed)
        return tf.cast(vertex + self._margin, _DTYPE) + inside, tf.reshape(log_mass, [-1])


_FUNCTIONS = (
    "metadata",
    "mass_function",
    "mass_function_of_sample",
    "expected_counts",
    "expected_counts_of_sample",
    "sample_catalogue",
    "sample_catalogue_of_sample",
)


def _by_mass(distribution: HaloMassFunction) -> HaloMassFunction:
    """The same mass functions with an axis for masses, `[X, Y, Z, 1]`."""
    return HaloMassFunction(
        distribution.log_amplitude[..., tf.newaxis, :],
        distribution.mean_log_mass[..., tf.newaxis, :],
        distribution.scale[..., tf.newaxis, :],
        distribution.log_mass_threshold,
        distribution.parameterisation,
        distribution.family,
    )


def _catalogue(
    vertices: Tensor, log_mass: Tensor, cell_size: Tensor, box_size: Tensor
) -> dict[str, Tensor]:
    positions = tf.math.floormod(vertices * cell_size, box_size)
    # a coordinate just below zero is rounded up to the box size
    positions = tf.where(positions < box_size, positions, tf.zeros_like(positions))
    return {"positions": positions, "log_mass": log_mass}


def _check(condition: Tensor, name: str, expected: str, received: Tensor) -> Any:
    message = f"Invalid value for argument `{name}`. Expected {expected}. Received: {name}="
    return tf.debugging.Assert(condition, [message, received], summarize=8)


def samples_of_run(
    store: ChainStore, num_samples: int, chains: tuple[int, ...] | None = None
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Samples of the bias parameters: evenly spaced, and equally many of every chain.

    Args:
        store: of a run, `num_warmup` of whose sweeps do not count.
        num_samples: most samples to take; at least one of each chain is.
        chains: numbers of the chains to take; all by default.

    Returns:
        theta: `[S, size]`, chain after chain.
        chain: number of the chain of each, `[S]`.

    Raises:
        ValueError: if the run has no samples yet, or a chain is not there.
    """
    warmup = int(store.attributes["num_warmup"])
    theta = store.read("theta", warmup, max(warmup, store.num_committed))
    num_draws, num_chains = theta.shape[:2]
    if not num_draws:
        raise ValueError(
            "Invalid value for argument `store`. Expected a run with sweeps of sampling. Received: "
            f"{store.num_committed} sweeps, {warmup} of warm-up"
        )
    if num_samples < 1:
        raise ValueError(
            "Invalid value for argument `num_samples`. Expected a strictly positive integer. "
            f"Received: num_samples={num_samples!r}"
        )
    wanted = tuple(range(num_chains)) if chains is None else chains
    if not wanted or len(set(wanted)) < len(wanted) or not set(wanted) <= set(range(num_chains)):
        raise ValueError(
            "Invalid value for argument `chains`. Expected different numbers from 0 to "
            f"{num_chains - 1}. Received: chains={chains!r}"
        )
    each = min(num_draws, max(1, num_samples // len(wanted)))
    draws = (2 * np.arange(each) + 1) * num_draws // (2 * each)
    taken = np.concatenate([theta[draws, number] for number in wanted])
    return taken, np.repeat(np.asarray(wanted, dtype=np.int64), each)


def metadata_of_run(store: ChainStore) -> dict[str, Any]:
    """What a chain file says of its run, and whether it has converged.

    Args:
        store: of a run.

    Returns:
        ``"provenance"`` and ``"convergence"``, fit for JSON.
    """
    keys = ("catalogue", "catalogue_sha256", "scheme", "num_warmup", "seed")
    provenance = {key: store.attributes[key] for key in keys if key in store.attributes}
    provenance["num_sweeps"] = store.num_committed
    provenance["num_chains"] = int(store.columns["theta"].shape[0])
    found, limits = convergence_of(store), Limits()
    rhat, ess = found.worst_rhat, found.worst_ess
    convergence = {
        "verdict": "CONVERGED" if found.reaches(limits) else "NOT CONVERGED",
        "max_rhat": limits.max_rhat,
        "min_ess": limits.min_ess,
        "worst_rhat": _finite(rhat.rhat),
        "worst_rhat_of": rhat.name,
        "worst_ess": _finite(ess.ess),
        "worst_tail_ess": _finite(ess.tail),
        "worst_ess_of": ess.name,
    }
    return {"provenance": provenance, "convergence": convergence}


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None


def export_bias(
    config: PosteriorConfig,
    box_size: float,
    theta: ArrayLike,
    chain: ArrayLike | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> BiasExport:
    """The bias model of a posterior with samples of its parameters, ready to be saved.

    Args:
        config: of the posterior.
        box_size: side of its box [Mpc/h].
        theta: samples, `[S, size]`.
        chain: number of the chain that each is of, `[S]`.
        metadata: to keep beside the description of the model, fit for JSON.

    Returns:
        The model.

    Raises:
        ValueError: if counts are not those of a Poisson process, which catalogues here are.
    """
    if config.counts != "poisson":
        raise ValueError(
            "Invalid value for argument `config`. Expected counts='poisson'. Received: "
            f"counts={config.counts!r}"
        )
    bias = dataclasses.replace(config, dtype="float64").build_bias(any_mesh=True)
    cell_size = box_size / config.num_cells
    attributes = config.to_attributes()
    cosmology = {
        key.partition(".")[2]: attributes.pop(key)
        for key in list(attributes)
        if key.startswith("cosmology.")
    }
    described = {
        "parameters": list(bias.parameters.names),
        "mass_threshold": config.mass_threshold,
        "log_mass_threshold": math.log(config.mass_threshold),
        "cell_size": cell_size,
        "box_size": box_size,
        "gravity": config.gravity,
        "cosmology": cosmology,
        "model": attributes,
        "units": _UNITS,
        **(metadata or {}),
    }
    margin = config.kernel_size // 2 if config.padding == "valid" else 0
    return BiasExport(
        bias,
        theta,
        chain,
        cell_size=cell_size,
        margin=margin,
        softening=config.softening,
        metadata=described,
    )
