"""Fit the bias parameters to a catalogue against a given density field.

The likelihood of the 17 parameters is multimodal and badly conditioned, so each random start is
first moved into the basin of a good mode by a Keras optimiser and then brought to its optimum by
L-BFGS (Nocedal & Wright 2006, chapter 7; `tfp.optimizer.lbfgs_minimize`). A start that ends with
two components on top of each other everywhere (the ordered means' rectifier is dead, and feels no
gradient any more) has failed and is replaced by a new one.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
from numpy.typing import ArrayLike, NDArray

from npe_tf.bias.model import BiasModel
from npe_tf.bias.neural import CENTRE, PSI, psi_rises, response_scales, starting_mean_bias
from npe_tf.catalogues.hdf5 import read_dataset
from npe_tf.catalogues.heaps import file_has_sound_heaps
from npe_tf.likelihood import PoissonLikelihood

__all__ = [
    "Pretrained",
    "Start",
    "load_parameters",
    "pretrain",
    "random_parameters",
    "save_parameters",
]

Tensor = Any

_LBFGS_CHUNK = 50
_LBFGS_PAIRS = 30
_REPLACEMENTS_PER_START = 3


@dataclasses.dataclass(frozen=True)
class Start:
    """How one random start ended.

    Attributes:
        theta: the parameters, `[size]`.
        log_likelihood: of the catalogue, per unit log mass.
        log_posterior: log likelihood plus log prior, up to a constant.
        is_dead: whether two components coincide everywhere.
        is_wanted: whether psi goes with the density as was asked for.
        num_gradients: gradients spent.
        seconds: time spent.
    """

    theta: NDArray[np.float64]
    log_likelihood: float
    log_posterior: float
    is_dead: bool
    num_gradients: int
    seconds: float
    is_wanted: bool = True


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """The best of several starts, and all of them.

    Attributes:
        theta: parameters of the best start, `[size]`.
        log_likelihood: its log likelihood, per unit log mass.
        starts: every start in the order tried.
    """

    theta: NDArray[np.float64]
    log_likelihood: float
    starts: tuple[Start, ...]


def random_parameters(bias: BiasModel, seed: int) -> NDArray[np.float64]:
    """Draw parameters as the layers' initialisers would, with spread-out kernels.

    Kernels (the weights that multiply something) are drawn from N(0, 1/4), those of convolutions
    larger than the paper's from less, see `response_scales`; biases keep the layers' own start,
    moved by N(0, 1/4).

    Args:
        bias: gives the number of parameters and their start.
        seed: of the draw.

    Returns:
        `[size]`.
    """
    rng = np.random.default_rng(seed)
    start = np.zeros(bias.parameters.size)
    of_means = [n.startswith("mean_bias[") for n in bias.parameters.names]
    start[of_means] = starting_mean_bias(bias.family, sum(of_means))
    return start + 0.5 * response_scales(bias.model) * rng.standard_normal(start.size)


def _check_counts(**counts: int) -> None:
    for name, value in counts.items():
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 0:
            raise ValueError(
                f"Invalid value for argument `{name}`. Expected a non-negative integer. Received: "
                f"{name}={value!r}"
            )


def pretrain(
    bias: BiasModel,
    likelihood: PoissonLikelihood,
    delta: ArrayLike,
    *,
    optimizer: keras.optimizers.Optimizer | None = None,
    num_steps: int = 300,
    num_polish: int = 600,
    num_starts: int = 5,
    prior_scale: float = 10.0,
    seed: int = 0,
    initial_theta: ArrayLike | None = None,
    psi: str = "free",
    jit_compile: bool = False,
    report: Callable[[str], None] | None = None,
) -> Pretrained:
    """Maximise likelihood times prior over the bias parameters, the density held fixed.

    On return the model's own weights are the best parameters found.

    Args:
        bias: the model; float64 is advised for the last digits of the fit.
        likelihood: of the catalogue on the mesh of `delta`.
        delta: evolved overdensity, `[N, N, N]`.
        optimizer: any Keras optimiser; Adam with a step of 0.03 by default. A copy of it trains
            each start.
        num_steps: steps of `optimizer` for each start.
        num_polish: most L-BFGS iterations for each start.
        num_starts: random starts.
        prior_scale: standard deviation of the normal prior on each parameter.
        seed: of the starts.
        initial_theta: if given, the only start, `[size]`.
        psi: ``"rises"`` or ``"falls"`` with the density, see `psi_rises`: random starts are turned
            that way, and those that end the other way are replaced. ``"free"`` takes what comes.
        jit_compile: compile the L-BFGS objective with XLA. It takes less memory, by much for models
            whose masses follow the density, and less time on large meshes; digits differ.
        report: called with a line of progress now and then.

    Returns:
        The best start and all others.

    Raises:
        ValueError: for counts below zero, an `initial_theta` or a density that is not finite or of
            another shape, or a `prior_scale` that is not positive.
        RuntimeError: if no start reached a finite likelihood. Where all starts end with a dead
            component the best of them is returned; its `is_dead` says so.
    """
    _check_counts(num_steps=num_steps, num_polish=num_polish)
    if (
        isinstance(num_starts, bool)
        or not isinstance(num_starts, (int, np.integer))
        or num_starts < 1
    ):
        raise ValueError(
            "Invalid value for argument `num_starts`. Expected a positive integer. Received: "
            f"num_starts={num_starts!r}"
        )
    if not (np.isfinite(prior_scale) and prior_scale > 0):
        raise ValueError(
            "Invalid value for argument `prior_scale`. Expected a positive number. Received: "
            f"prior_scale={prior_scale!r}"
        )
    names, size = bias.parameters.names, bias.parameters.size
    if psi not in PSI or (psi != "free" and CENTRE not in names):
        raise ValueError(
            f"Invalid value for argument `psi`. Expected one of {PSI}, and 'free' for a network "
            f"without a kernel {CENTRE!r}. Received: psi={psi!r} for {list(names)}"
        )
    given = None if initial_theta is None else np.asarray(initial_theta, dtype=np.float64)
    if given is not None and (given.shape != (size,) or not np.all(np.isfinite(given))):
        raise ValueError(
            f"Invalid value for argument `initial_theta`. Expected {size} finite numbers. "
            f"Received: initial_theta={initial_theta!r}"
        )
    dtype = tf.as_dtype(bias.dtype)
    field = np.asarray(delta)
    if field.shape != likelihood.grid.shape or not np.all(np.isfinite(field)):
        raise ValueError(
            "Invalid value for argument `delta`. Expected a finite overdensity of shape "
            f"{likelihood.grid.shape}. Received: shape {field.shape} with "
            f"{np.size(field) - np.count_nonzero(np.isfinite(field))} non-finite values"
        )
    fit = _Fit(bias, likelihood, tf.constant(field, dtype), prior_scale, optimizer, jit_compile)
    say = report or (lambda line: None)

    starts: list[Start] = []
    seeds = np.random.SeedSequence(seed).generate_state(num_starts * _REPLACEMENTS_PER_START)
    if given is None:
        candidates = [_turned(random_parameters(bias, int(s)), names, psi) for s in seeds]
    else:
        candidates, num_starts = [given], 1
    for number, candidate in enumerate(candidates, 1):
        start = fit.run(candidate, num_steps, num_polish)
        start = dataclasses.replace(start, is_wanted=_is_wanted(start.theta, names, psi))
        starts.append(start)
        ending = "dead component, replaced" if start.is_dead else "done"
        if not start.is_wanted:
            ending = f"psi no longer {psi} with the density, replaced"
        say(
            f"start {number}: log L = {start.log_likelihood:.1f} ({ending}; "
            f"{start.num_gradients} gradients, {start.seconds:.0f} s)"
        )
        if sum(s.is_wanted and not s.is_dead for s in starts) == num_starts:
            break
    finite = [s for s in starts if np.isfinite(s.log_posterior)]
    finite = [s for s in finite if s.is_wanted] or finite
    if not finite:
        raise RuntimeError(
            f"None of {len(starts)} starts reached a finite likelihood. Check the mass threshold "
            "and the density field, or raise `num_starts`."
        )
    best = max(finite, key=lambda s: s.log_posterior)
    bias.parameters.assign(bias.model, tf.constant(best.theta))
    return Pretrained(best.theta, best.log_likelihood, tuple(starts))


def _is_wanted(theta: NDArray[np.float64], names: tuple[str, ...], psi: str) -> bool:
    return psi == "free" or bool(psi_rises(theta, names)) == (psi == "rises")


def _turned(theta: NDArray[np.float64], names: tuple[str, ...], psi: str) -> NDArray[np.float64]:
    """The same parameters, or those with the opposite kernel."""
    if _is_wanted(theta, names, psi):
        return theta
    of_kernel = [name.startswith("kernel_weights[") for name in names]
    return np.where(of_kernel, -theta, theta)


class _Fit:
    """The compiled objective, reused by every start."""

    def __init__(
        self,
        bias: BiasModel,
        likelihood: PoissonLikelihood,
        delta: Tensor,
        prior_scale: float,
        optimizer: keras.optimizers.Optimizer | None,
        jit_compile: bool,
    ) -> None:
        self.bias = bias
        self.likelihood = likelihood
        self.delta = delta
        self.prior_scale = prior_scale
        # a copy, which has the caller's settings and none of its past
        optimizer = optimizer or keras.optimizers.Adam(0.03)
        self.optimizer = type(optimizer).from_config(optimizer.get_config())
        self.optimizer.build(bias.model.trainable_variables)
        self._fresh = [v.numpy() for v in self.optimizer.variables]
        self._value_and_gradient = tf.function(self._gradient_of_field, jit_compile=jit_compile)
        self._train = tf.function(self._keras_steps)
        self._polish = tf.function(self._lbfgs_steps)

    def _objective(
        self, theta: Tensor | None, delta: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Loss per halo and log likelihood; theta None means the model's own variables."""
        density = self.delta if delta is None else delta
        log_likelihood = self.likelihood(self.bias.mass_function(density, theta))
        weights = self.bias.theta if theta is None else theta
        squares = tf.reduce_sum(tf.square(tf.cast(weights, tf.float64) / self.prior_scale))
        loss = (0.5 * squares - log_likelihood) / self.likelihood.num_haloes
        return loss, log_likelihood

    def _objective_and_gradient(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        value: tuple[Tensor, Tensor] = self._value_and_gradient(theta, self.delta)
        return value

    def _gradient_of_field(self, theta: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
        # the density is an argument: XLA would work out what follows from a constant
        with tf.GradientTape() as tape:
            tape.watch(theta)
            loss, _ = self._objective(theta, delta)
        gradient = tape.gradient(loss, theta)
        return tf.cast(loss, theta.dtype), gradient

    def _keras_steps(self, num_steps: Tensor) -> None:
        variables = self.bias.model.trainable_variables
        for _ in tf.range(num_steps):
            with tf.GradientTape() as tape:
                loss, _ = self._objective(None)
            self.optimizer.apply(tape.gradient(loss, [v.value for v in variables]), variables)

    def _lbfgs_steps(self, theta: Tensor, max_iterations: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        results = tfp.optimizer.lbfgs_minimize(
            self._objective_and_gradient,
            initial_position=theta,
            num_correction_pairs=_LBFGS_PAIRS,
            tolerance=1e-7,
            f_relative_tolerance=0.0,
            max_iterations=max_iterations,
            max_line_search_iterations=30,
        )
        return results.position, results.num_objective_evaluations, results.converged

    def _is_dead(self, theta: Tensor) -> bool:
        """Whether two neighbouring components have the same mean in every voxel."""
        means = self.bias.mass_function(self.delta, theta).mean_log_mass
        gaps = (means[..., 1:] - means[..., :-1]).numpy()
        return bool(gaps.shape[-1]) and bool(np.any(np.all(gaps == 0, axis=tuple(range(3)))))

    def run(self, candidate: NDArray[np.float64], num_steps: int, num_polish: int) -> Start:
        """Train and polish one start."""
        began = time.monotonic()
        dtype = self.bias.dtype
        for variable, value in zip(self.optimizer.variables, self._fresh, strict=True):
            variable.assign(value)
        self.bias.parameters.assign(self.bias.model, tf.constant(candidate, dtype))
        if num_steps:
            self._train(tf.constant(num_steps))
        theta = self.bias.theta
        spent = num_steps
        if np.all(np.isfinite(theta)) and not self._is_dead(theta):
            for done in range(0, num_polish, _LBFGS_CHUNK):
                # A fresh history now and then costs little and leaves stale curvature behind.
                polished, evaluations, converged = self._polish(
                    theta, tf.constant(min(_LBFGS_CHUNK, num_polish - done))
                )
                spent += int(evaluations)
                if not np.all(np.isfinite(polished)):
                    break
                gain = float(self._objective(theta)[0] - self._objective(polished)[0])
                theta = polished
                if bool(converged) or gain * self.likelihood.num_haloes < 1e-2:
                    break
        loss, log_likelihood = self._objective(theta)
        return Start(
            theta=np.asarray(theta, dtype=np.float64),
            log_likelihood=float(log_likelihood),
            log_posterior=-float(loss) * self.likelihood.num_haloes,
            is_dead=self._is_dead(theta),
            num_gradients=spent,
            seconds=time.monotonic() - began,
        )


def save_parameters(
    path: str | Path,
    fitted: Pretrained,
    bias: BiasModel,
    attributes: Mapping[str, Any] | None = None,
) -> None:
    """Write fitted parameters to an HDF5 file, whole or not at all.

    Args:
        path: the file; replaced if it exists.
        fitted: what `pretrain` returned.
        bias: names the parameters.
        attributes: numbers and strings to keep with them.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with h5py.File(temporary, "w") as file:
            file["theta"] = fitted.theta
            file["starts/theta"] = np.stack([s.theta for s in fitted.starts])
            file["starts/log_likelihood"] = [s.log_likelihood for s in fitted.starts]
            file["starts/is_dead"] = [s.is_dead for s in fitted.starts]
            file.attrs["log_likelihood"] = fitted.log_likelihood
            file.attrs["parameters"] = list(bias.parameters.names)
            file.attrs["family"] = bias.family.name
            file.attrs.update(attributes or {})
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def load_parameters(path: str | Path, bias: BiasModel) -> NDArray[np.float64]:
    """Read fitted parameters.

    Args:
        path: a file that `save_parameters` wrote.
        bias: the model that they must fit.

    Returns:
        `[size]`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no such file, or of a model with other parameters or another family of
            components.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"There are no parameters at {str(path)!r}")
    try:
        if not file_has_sound_heaps(str(path)):
            raise OSError("a damaged heap of strings")
        with h5py.File(path) as file:
            names = tuple(file.attrs["parameters"])
            theta = read_dataset(file, "theta", str(path)).astype(np.float64)
            family = file.attrs.get("family", bias.family.name)
    except (OSError, KeyError, RuntimeError, TypeError) as error:
        raise ValueError(
            f"Invalid value for argument `path`. Expected a file of fitted parameters. Received: "
            f"{str(path)!r} ({error})"
        ) from error
    if names != bias.parameters.names:
        raise ValueError(
            f"Invalid value for argument `path`. Expected the parameters "
            f"{list(bias.parameters.names)}. Received: {list(names)}"
        )
    if family != bias.family.name:
        raise ValueError(
            f"Invalid value for argument `path`. Expected parameters of the family "
            f"{bias.family.name!r}. Received: {family!r} in {str(path)!r}"
        )
    if theta.shape != (bias.parameters.size,):
        raise ValueError(
            f"Invalid value for argument `path`. Expected {bias.parameters.size} parameters. "
            f"Received: shape {theta.shape} in {str(path)!r}"
        )
    return theta
