"""Sampling the joint posterior: Gibbs sweeps over the field and the bias parameters.

Each sweep visits two blocks, as BORG does. The white noise is moved by Hamiltonian Monte Carlo with
a mass matrix that is diagonal in Fourier space, one value per shell of wavenumber; the bias
parameters by quasi-Newton Hamiltonian Monte Carlo with a limited-memory BFGS inverse Hessian.

Warm-up has three parts. In the first the field is annealed from its prior: the likelihood is raised
to a power that grows to one, and the parameters stand still, so that the largest scales, which the
haloes fix best, find their place before the small ones could lock them. In the second both blocks
move and learn. The third only burns in what was learnt; from then on nothing adapts.

The first two parts are cut into windows. At the start of each the curvature of both blocks is
measured where the chain stands: probes per shell for the field, Hessian-vector products for the
parameters. Within a window the step sizes adapt to their target acceptance (dual averaging,
Nesterov 2009 as in Hoffman & Gelman 2014, section 3.2) and the trajectories of the parameters
update their BFGS history.

Chains are independent and take turns. After every sweep all that is needed to go on is committed to
the chain file, so that a run can be killed at any instant, and a resumed run is the same to the
last bit as one that was never interrupted.
"""

from __future__ import annotations

import dataclasses
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike, NDArray

from npe_tf.chain_store import CHAIN_FILE, ChainStore, Column, predicted_nbytes
from npe_tf.posterior import FieldPosterior
from npe_tf.pretraining import pretrain
from samplers import (
    Block,
    BlockGibbs,
    FourierDiagonalInverseHessian,
    LimitedMemoryInverseHessian,
    QuasiNewtonAdaptation,
    QuasiNewtonHMC,
    ShellVariance,
    refresh_target,
    shell_curvature,
)
from samplers.results import find_innermost, find_outermost, replace_innermost

__all__ = ["Progress", "Settings", "WarmupPlan", "run_inference"]

Tensor = Any
Array = NDArray[Any]

_FIELD, _BIAS = 0, 1
_BFGS_MEMORY = 40
_NUM_PROBES = 2
_ANNEALING_FRACTION = 0.4
_ANNEALING_WINDOWS = 7
_FIRST_WINDOW = 8
_SETTLING_FRACTION = 0.15


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a run is asked to do.

    Attributes:
        num_warmup: sweeps before sampling.
        num_samples: sweeps that count.
        num_chains: independent chains.
        seed: of everything random.
        field_leapfrog_steps: gradients per trajectory of the field.
        bias_leapfrog_steps: gradients per trajectory of the parameters.
        bias_steps: trajectories of the parameters per sweep.
        field_target_accept: acceptance that the field's step size is tuned to.
        bias_target_accept: the same for the parameters.
        field_every: sweeps between stored fields.
        annealing_start: power of the likelihood in the first sweep of the warm-up; 1 for a warm-up
            without annealing.
    """

    num_warmup: int = 200
    num_samples: int = 400
    num_chains: int = 2
    seed: int = 0
    field_leapfrog_steps: int = 32
    bias_leapfrog_steps: int = 5
    bias_steps: int = 3
    field_target_accept: float = 0.7
    bias_target_accept: float = 0.8
    field_every: int = 10
    annealing_start: float = 0.01

    def __post_init__(self) -> None:
        """Refuse what cannot be run."""
        for name in (
            "num_samples", "num_chains", "field_leapfrog_steps", "bias_leapfrog_steps",
            "bias_steps", "field_every",
        ):  # fmt: skip
            _check_integer(name, getattr(self, name), 1)
        _check_integer("num_warmup", self.num_warmup, 2)
        _check_integer("seed", self.seed, 0)
        for name in ("field_target_accept", "bias_target_accept"):
            value = getattr(self, name)
            if not 0 < value < 1:
                raise ValueError(
                    f"Invalid value for argument `{name}`. Expected a number in (0, 1). Received: "
                    f"{name}={value!r}"
                )
        if not 0 < self.annealing_start <= 1:
            raise ValueError(
                "Invalid value for argument `annealing_start`. Expected a number in (0, 1]. "
                f"Received: annealing_start={self.annealing_start!r}"
            )

    @property
    def num_sweeps(self) -> int:
        """Warm-up and sampling together."""
        return self.num_warmup + self.num_samples


def _check_integer(name: str, value: Any, smallest: int) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < smallest:
        raise ValueError(
            f"Invalid value for argument `{name}`. Expected an integer of at least {smallest}. "
            f"Received: {name}={value!r}"
        )


@dataclasses.dataclass(frozen=True)
class WarmupPlan:
    """What happens at which sweep of the warm-up.

    Attributes:
        annealed: first sweep at the full likelihood, in which the parameters begin to move.
        windows: first sweep of each window.
        frozen: sweep from which on nothing adapts.
        annealing_start: power of the likelihood in sweep 0.
    """

    annealed: int
    windows: tuple[int, ...]
    frozen: int
    annealing_start: float

    @classmethod
    def of(cls, settings: Settings) -> WarmupPlan:
        """Cut a warm-up into its parts and windows.

        Annealing takes windows of equal length, in each of which the power of the likelihood
        about doubles; after it they double in length.
        """
        warmup = settings.num_warmup
        frozen = warmup - int(_SETTLING_FRACTION * warmup)
        annealed = int(_ANNEALING_FRACTION * warmup) if settings.annealing_start < 1 else 0
        pieces = min(_ANNEALING_WINDOWS, annealed)
        windows = [annealed * piece // pieces for piece in range(pieces)]
        start, length = annealed, _FIRST_WINDOW
        while start == annealed or start + 2 * length <= frozen:
            windows.append(start)
            start, length = start + length, 2 * length
        return cls(annealed, tuple(windows), frozen, settings.annealing_start)

    def inverse_temperature(self, sweep: int) -> float:
        """Power of the likelihood in a sweep."""
        if sweep >= self.annealed:
            return 1.0
        return float(self.annealing_start ** (1.0 - sweep / self.annealed))


@dataclasses.dataclass(frozen=True)
class Progress:
    """Where a run stands.

    Attributes:
        sweep: sweeps done, of all chains.
        num_sweeps: sweeps asked for.
        phase: ``"warm-up"`` or ``"sampling"``.
        seconds_per_sweep: recent mean, all chains together.
        eta_seconds: estimate of the time left.
        field_acceptance: mean over the recent sweeps and chains.
        bias_acceptance: the same for the parameters.
        log_posterior: of each chain.
        field_step_size: of each chain.
    """

    sweep: int
    num_sweeps: int
    phase: str
    seconds_per_sweep: float
    eta_seconds: float
    field_acceptance: float
    bias_acceptance: float
    log_posterior: tuple[float, ...]
    field_step_size: tuple[float, ...]

    def line(self) -> str:
        """One line for a terminal or a log."""
        left = round(self.eta_seconds)
        eta = f"{left // 3600}:{left // 60 % 60:02d}:{left % 60:02d}"
        log_posterior = " ".join(f"{value:.1f}" for value in self.log_posterior)
        return (
            f"{self.phase} {self.sweep}/{self.num_sweeps} | {self.seconds_per_sweep:.2f} s/sweep | "
            f"ETA {eta} | accept field {self.field_acceptance:.2f} bias "
            f"{self.bias_acceptance:.2f} | step {np.mean(self.field_step_size):.3f} | "
            f"log posterior {log_posterior}"
        )


@dataclasses.dataclass
class _StepSize:
    """Dual averaging of one step size, restarted with every window."""

    centre: float
    error_sum: float = 0.0
    log_average: float = 0.0
    count: int = 0

    # four times the usual: one acceptance in a sweep, often 0 or 1, is a noisy guide
    _SHRINKAGE = 0.2
    _OFFSET = 10
    _DECAY = 0.75

    def update(self, acceptance: float, target: float) -> float:
        """Take in one acceptance probability; return the step size to try next."""
        self.count += 1
        self.error_sum += target - acceptance
        gain = np.sqrt(self.count) / (self._SHRINKAGE * (self.count + self._OFFSET))
        log_step = np.log(self.centre) - gain * self.error_sum
        weight = self.count**-self._DECAY
        self.log_average = weight * log_step + (1 - weight) * self.log_average
        return float(np.exp(log_step))

    @property
    def average(self) -> float:
        """The step size to keep."""
        return float(np.exp(self.log_average)) if self.count else self.centre

    def to_array(self) -> Array:
        """For the checkpoint."""
        return np.array([self.centre, self.error_sum, self.log_average, self.count], np.float64)

    @classmethod
    def from_array(cls, array: Array) -> _StepSize:
        """Inverse of `to_array`."""
        return cls(float(array[0]), float(array[1]), float(array[2]), int(array[3]))


class _Engine:
    """The compiled functions of a run; they hold no state of a chain."""

    def __init__(self, posterior: FieldPosterior, settings: Settings) -> None:
        grid = posterior.grid
        self.posterior = posterior
        self.settings = settings
        self.dtype = tf.as_dtype(posterior.bias.dtype)
        # Modes that the density does not depend on keep their prior width: a shell of their own.
        live_shells = grid.num_cells // 2
        shells = np.where(grid.alive, grid.shells(), live_shells)
        self.field_curvature = FourierDiagonalInverseHessian(shells, live_shells + 1)
        self.num_shells = live_shells + 1
        memory = max(_BFGS_MEMORY, posterior.bias.parameters.size + 10)
        self.bias_curvature = LimitedMemoryInverseHessian(memory=memory)
        self.plan = WarmupPlan.of(settings)
        adaptation_steps = (self.plan.frozen - self.plan.annealed) * settings.bias_steps

        def field_kernel(target: Any) -> Any:
            return QuasiNewtonHMC(
                target,
                step_size=0.01,
                num_leapfrog_steps=settings.field_leapfrog_steps,
                inverse_hessian=self.field_curvature,
                step_size_jitter=0.2,
                store_parameters_in_results=True,
            )

        def bias_kernel(target: Any) -> Any:
            kernel = QuasiNewtonHMC(
                target,
                step_size=0.1,
                num_leapfrog_steps=settings.bias_leapfrog_steps,
                inverse_hessian=self.bias_curvature,
                step_size_jitter=0.2,
                store_parameters_in_results=True,
            )
            return QuasiNewtonAdaptation(kernel, num_adaptation_steps=adaptation_steps)

        self.field_kernel = field_kernel
        self.kernel = BlockGibbs(
            None,
            [
                Block("field", field_kernel, lambda _, theta: posterior.given_parameters(theta)),
                Block(
                    "bias",
                    bias_kernel,
                    lambda white_noise, _: posterior.given_field(white_noise),
                    num_steps=settings.bias_steps,
                ),
            ],
        )
        self.sweep = tf.function(self._sweep)
        self.anneal = tf.function(self._anneal)
        self.bootstrap = tf.function(self._bootstrap)
        self.probe_field = tf.function(self._probe_field)
        self.bias_hessian = tf.function(self._bias_hessian)
        self.evolved = tf.function(self._evolved)

    def _bootstrap(self, white_noise: Tensor, theta: Tensor) -> Any:
        return self.kernel.bootstrap_results([white_noise, theta])

    def _sweep(self, white_noise: Tensor, theta: Tensor, results: Any, seed: Tensor) -> Any:
        (white_noise, theta), results = self.kernel.one_step(
            [white_noise, theta], results, seed=seed
        )
        accept = [_acceptance(block) for block in results.block_results]
        return white_noise, theta, results, results.target_log_prob, accept

    def _anneal(
        self, white_noise: Tensor, theta: Tensor, results: Any, seed: Tensor, beta: Tensor
    ) -> Any:
        """Move the field alone, the likelihood raised to the power beta."""
        kernel = self.field_kernel(self.posterior.given_parameters(theta, beta))
        field, *others = results.block_results
        field = refresh_target(field, kernel.bootstrap_results(white_noise))
        white_noise, field = kernel.one_step(white_noise, field, seed=seed)
        results = results._replace(block_results=(field, *others))
        log_prob = self.posterior.log_prob(white_noise, theta)
        not_moved = tf.constant(np.nan, log_prob.dtype)
        return white_noise, theta, results, log_prob, [_acceptance(field), not_moved]

    def _probe_field(
        self,
        white_noise: Tensor,
        theta: Tensor,
        displacement: Tensor,
        seed: Tensor,
        beta: Tensor,
    ) -> Tensor:
        """Curvature of -log posterior in each shell; at least that of the prior."""
        return shell_curvature(
            self.posterior.given_parameters(theta, beta),
            white_noise,
            self.field_curvature,
            seed,
            displacement,
            num_probes=_NUM_PROBES,
            minimum=1.0,
        )

    def _bias_hessian(self, white_noise: Tensor, theta: Tensor) -> Tensor:
        """Hessian of -log posterior in the parameters, `[size, size]`."""
        target = self.posterior.given_field(white_noise)

        def row(direction: Tensor) -> Tensor:
            with tf.GradientTape() as outer:
                outer.watch(theta)
                with tf.GradientTape() as inner:
                    inner.watch(theta)
                    log_prob = target(theta)
                slope = tf.reduce_sum(inner.gradient(log_prob, theta) * direction)
            return -outer.gradient(slope, theta)

        return tf.map_fn(row, tf.eye(theta.shape[0], dtype=theta.dtype), parallel_iterations=1)

    def _evolved(self, white_noise: Tensor) -> tuple[Tensor, Tensor]:
        """Linear and evolved overdensity."""
        return self.posterior.initial_field(white_noise), self.posterior.density(white_noise)


def _acceptance(results: Any) -> Tensor:
    """Probability with which the last proposal of a kernel was accepted; 0 if it is NaN."""
    ratio = tf.cast(find_outermost(results, "log_accept_ratio"), tf.float64)
    probability = tf.exp(tf.minimum(ratio, 0.0))
    return tf.where(tf.math.is_nan(probability), tf.zeros_like(probability), probability)


class _Chain:
    """State of one chain, the part of it that adapts, and its running moments."""

    def __init__(self, engine: _Engine, number: int) -> None:
        self.engine = engine
        self.seed = tf.random.experimental.stateless_fold_in(
            tf.constant([engine.settings.seed, 0]), number
        )
        self.number = number
        self.state: list[Tensor] = []
        self.results: Any = None
        self.steps = [_StepSize(0.02), _StepSize(0.3)]
        self.variance: Array = np.ones(engine.num_shells)
        shape = engine.posterior.grid.shape
        names = ("initial_mean", "initial_m2", "final_mean", "final_m2")
        self.moments = {name: np.zeros(shape, np.float32) for name in names}
        self.num_moments = 0

    def start(self, theta: Array | None, report: Callable[[str], None]) -> None:
        """Draw the white noise from its prior and find parameters to start with."""
        dtype = self.engine.dtype
        posterior = self.engine.posterior
        white_noise = tf.random.stateless_normal(
            posterior.grid.shape, self._fold(2**30), dtype=dtype
        )
        if theta is None:
            rng_seed = int(np.random.SeedSequence([self.engine.settings.seed, self.number])
                           .generate_state(1)[0])  # fmt: skip
            delta = posterior.density(white_noise).numpy()
            fitted = pretrain(
                posterior.bias,
                posterior.likelihood.abundance_matched(delta),
                delta,
                num_steps=150,
                num_polish=100,
                num_starts=1,
                prior_scale=posterior.prior_scale,
                seed=rng_seed,
            )
            report(
                f"chain {self.number}: parameters fitted to the chain's own first field, haloes "
                f"moved to where it is dense: log L = {fitted.log_likelihood:.1f}"
            )
            theta = fitted.theta
        self.state = [white_noise, tf.constant(theta, dtype)]
        self.results = self.engine.bootstrap(*self.state)
        log_prob = float(self.results.target_log_prob)
        if not np.isfinite(log_prob):
            raise ValueError(
                "Invalid value for argument `initial_theta`. Expected parameters of finite "
                f"posterior density. Received: log posterior {log_prob} in chain {self.number}"
            )

    def _fold(self, number: int) -> Tensor:
        return tf.random.experimental.stateless_fold_in(self.seed, number)

    def open_window(self, sweep: int) -> None:
        """Measure the curvature where the chain stands and restart the step sizes."""
        engine, (white_noise, theta) = self.engine, self.state
        displacement = np.sqrt(self.variance) if sweep else np.full(engine.num_shells, 0.1)
        curvature = engine.probe_field(
            white_noise,
            theta,
            tf.constant(displacement, engine.dtype),
            self._fold(2**30 + 1 + sweep),
            tf.constant(engine.plan.inverse_temperature(sweep), tf.float64),
        ).numpy()
        self.variance = 1.0 / curvature.astype(np.float64)
        field, bias = self.results.block_results
        field = replace_innermost(
            field, "inverse_hessian", ShellVariance(tf.constant(self.variance, engine.dtype))
        )
        if sweep >= engine.plan.annealed:
            bias = self._with_measured_hessian(bias)
        self.results = self.results._replace(block_results=(field, bias))
        self.steps = [_StepSize(step.average) for step in self.steps]
        self._set_steps([step.centre for step in self.steps])

    def _with_measured_hessian(self, bias: Any) -> Any:
        """Kernel results of the parameters with the Hessian of where the chain stands."""
        engine = self.engine
        hessian = engine.bias_hessian(*self.state).numpy().astype(np.float64)
        values, vectors = np.linalg.eigh(0.5 * (hessian + hessian.T))
        # Noise of the precision and saddle directions must not make B indefinite.
        floor = max(engine.posterior.prior_scale**-2, 1e-7 * values[-1])
        values = np.maximum(np.abs(values), floor)
        history = engine.bias_curvature.from_hessian((vectors * values) @ vectors.T)
        old = find_innermost(bias, "inverse_hessian")
        history = tf.nest.map_structure(lambda new, like: tf.cast(new, like.dtype), history, old)
        return replace_innermost(bias, "inverse_hessian", history)

    def _set_steps(self, sizes: list[float]) -> None:
        blocks = []
        for block, size in zip(self.results.block_results, sizes, strict=True):
            old = find_innermost(block, "step_size")
            blocks.append(replace_innermost(block, "step_size", tf.constant(size, old.dtype)))
        self.results = self.results._replace(block_results=tuple(blocks))

    def advance(self, sweep: int) -> dict[str, Any]:
        """One sweep; returns what the chain file keeps of it."""
        engine, settings, plan = self.engine, self.engine.settings, self.engine.plan
        if sweep in plan.windows:
            self.open_window(sweep)
        used = [float(find_innermost(b, "step_size")) for b in self.results.block_results]
        arguments = (*self.state, self.results, self._fold(sweep))
        if sweep < plan.annealed:
            beta = tf.constant(plan.inverse_temperature(sweep), tf.float64)
            outcome = engine.anneal(*arguments, beta)
        else:
            outcome = engine.sweep(*arguments)
        white_noise, theta, self.results, log_posterior, accept = outcome
        self.state = [white_noise, theta]
        acceptance = [float(a) for a in accept]
        if sweep < plan.frozen:
            targets = (settings.field_target_accept, settings.bias_target_accept)
            tried = [
                step.centre if np.isnan(a) else step.update(a, target)
                for step, a, target in zip(self.steps, acceptance, targets, strict=True)
            ]
            last = sweep + 1 == plan.frozen
            self._set_steps([step.average for step in self.steps] if last else tried)
        initial, final = (np.asarray(f) for f in engine.evolved(white_noise))
        if sweep >= settings.num_warmup:
            self._accumulate(initial, final)
        grid = engine.posterior.grid
        modes = np.fft.rfftn(initial)
        power = grid.shell_mean(np.abs(modes) ** 2) * grid.volume / grid.num_cells**6
        return {
            "theta": theta.numpy(),
            "log_posterior": float(log_posterior),
            "acceptance": acceptance,
            "step_size": used,
            "power": power,
            "white_noise": white_noise.numpy(),
        }

    def _accumulate(self, initial: Array, final: Array) -> None:
        """Welford's running mean and sum of squared deviations."""
        self.num_moments += 1
        for name, field in (("initial", initial), ("final", final)):
            mean, m2 = self.moments[f"{name}_mean"], self.moments[f"{name}_m2"]
            offset = field - mean
            mean += (offset / self.num_moments).astype(mean.dtype)
            m2 += (offset * (field - mean)).astype(m2.dtype)

    def to_checkpoint(self) -> dict[str, Array]:
        """All that is needed to go on, by name."""
        flat = tf.nest.flatten([self.state, self.results], expand_composites=True)
        prefix = f"{self.number}"
        arrays = {f"{prefix}/state/{i}": np.asarray(value) for i, value in enumerate(flat)}
        arrays |= {f"{prefix}/moments/{name}": value for name, value in self.moments.items()}
        arrays[f"{prefix}/moments/count"] = np.array(self.num_moments, np.int64)
        arrays[f"{prefix}/variance"] = self.variance
        arrays[f"{prefix}/steps"] = np.stack([step.to_array() for step in self.steps])
        return arrays

    def from_checkpoint(self, arrays: Mapping[str, Array]) -> None:
        """Inverse of `to_checkpoint`."""
        prefix = f"{self.number}"
        dtype = self.engine.dtype
        shape = self.engine.posterior.grid.shape
        size = self.engine.posterior.bias.parameters.size
        state = [tf.TensorSpec(shape, dtype), tf.TensorSpec([size], dtype)]
        structure = [
            state,
            self.engine.bootstrap.get_concrete_function(*state).structured_outputs,
        ]
        count = len(tf.nest.flatten(structure, expand_composites=True))
        flat = [tf.constant(arrays[f"{prefix}/state/{i}"]) for i in range(count)]
        self.state, self.results = tf.nest.pack_sequence_as(structure, flat, expand_composites=True)
        self.moments = {name: np.array(arrays[f"{prefix}/moments/{name}"]) for name in self.moments}
        self.num_moments = int(arrays[f"{prefix}/moments/count"])
        self.variance = np.array(arrays[f"{prefix}/variance"])
        self.steps = [_StepSize.from_array(row) for row in arrays[f"{prefix}/steps"]]


def _columns(posterior: FieldPosterior, settings: Settings) -> dict[str, Column]:
    chains, size = settings.num_chains, posterior.bias.parameters.size
    shape = posterior.grid.shape
    dtype = np.dtype(posterior.bias.dtype)
    return {
        "theta": Column((chains, size), dtype),
        "log_posterior": Column((chains,), np.dtype(np.float64)),
        "acceptance": Column((chains, 2), np.dtype(np.float64)),
        "step_size": Column((chains, 2), np.dtype(np.float64)),
        "power": Column((chains, posterior.grid.num_cells // 2), np.dtype(np.float64)),
        "white_noise": Column((chains, *shape), dtype, every=settings.field_every),
    }


@contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """Turn Ctrl-C into a question that the loop asks between sweeps."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    asked = False

    def note(signum: int, frame: Any) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True

    previous = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: asked
    finally:
        signal.signal(signal.SIGINT, previous)


def run_inference(
    posterior: FieldPosterior,
    settings: Settings,
    output: str | Path,
    *,
    initial_theta: ArrayLike | None = None,
    attributes: Mapping[str, Any] | None = None,
    constants: Mapping[str, ArrayLike] | None = None,
    report: Callable[[Progress], None] | None = None,
    say: Callable[[str], None] | None = None,
    max_seconds: float | None = None,
) -> Path:
    """Run, or go on with, a set of chains.

    Args:
        posterior: the target.
        settings: what to run.
        output: folder of the run; made if need be. If it holds a run of the same settings, data
            and attributes, that run is continued; `num_samples` alone may have grown.
        initial_theta: parameters `[size]` to start every chain with; by default each chain starts
            with random parameters, fitted to its own random field.
        attributes: what else identifies the run (the catalogue's name and checksum, the
            cosmology); stored, and compared when a run is continued.
        constants: arrays to store once, such as the true field.
        report: called after every sweep.
        say: called with a line of text now and then.
        max_seconds: stop after the sweep in which this much time has passed; the same call goes
            on later.

    Returns:
        Path of the chain file.

    Raises:
        ValueError: if `output` belongs to a different run or the start has no finite density.
        OSError: if the folder cannot be written to.
    """
    say = say or (lambda line: None)
    folder = Path(output)
    path = folder / CHAIN_FILE
    size = posterior.bias.parameters.size
    theta = None if initial_theta is None else np.asarray(initial_theta, dtype=np.float64)
    if theta is not None and (theta.shape != (size,) or not np.all(np.isfinite(theta))):
        raise ValueError(
            f"Invalid value for argument `initial_theta`. Expected {size} finite numbers. "
            f"Received: shape {theta.shape}"
        )
    identity = {
        **(attributes or {}),
        **{f.name: getattr(settings, f.name) for f in dataclasses.fields(settings)
           if f.name != "num_samples"},
        "num_cells": posterior.grid.num_cells,
        "box_size": posterior.grid.box_size,
        "num_haloes": posterior.likelihood.num_haloes,
        "mass_threshold": posterior.likelihood.mass_threshold,
        "dtype": posterior.bias.dtype,
        "parameters": list(posterior.bias.parameters.names),
        "initial_theta": "" if theta is None else theta.tobytes().hex(),
    }  # fmt: skip
    columns = _columns(posterior, settings)
    # Whatever is wrong with the folder shows before anything is compiled.
    store = ChainStore.open(path, "r+", expected=identity) if path.exists() else None
    if store is None:
        folder.mkdir(parents=True, exist_ok=True)

    engine = _Engine(posterior, settings)
    chains = [_Chain(engine, number) for number in range(settings.num_chains)]
    try:
        saved = None if store is None else store.checkpoint()
        if saved is not None:
            for chain in chains:
                chain.from_checkpoint(saved)
            assert store is not None
            say(f"going on after sweep {store.num_committed} of {settings.num_sweeps}")
        else:
            for chain in chains:
                chain.start(theta, say)
        if store is None:
            template = _merged(chain.to_checkpoint() for chain in chains)
            stored = {name: np.asarray(value) for name, value in (constants or {}).items()}
            total = predicted_nbytes(columns, settings.num_sweeps, template, stored)
            say(f"chain file {path}: {total / 2**20:.0f} MiB when complete")
            store = ChainStore.create(
                path, columns, settings.num_sweeps, template, identity, stored
            )
        if store.capacity < settings.num_sweeps:
            store.extend(settings.num_sweeps)
        _loop(store, chains, settings, report, say, max_seconds)
    finally:
        if store is not None:
            store.close()
    return path


def _merged(parts: Any) -> dict[str, Array]:
    merged: dict[str, Array] = {}
    for part in parts:
        merged |= part
    return merged


def _loop(
    store: ChainStore,
    chains: list[_Chain],
    settings: Settings,
    report: Callable[[Progress], None] | None,
    say: Callable[[str], None],
    max_seconds: float | None,
) -> None:
    began = time.monotonic()
    recent: list[tuple[float, float, float]] = []
    with _interruptible() as interrupted:
        for sweep in range(store.num_committed, settings.num_sweeps):
            started = time.monotonic()
            rows = [chain.advance(sweep) for chain in chains]
            store.append(
                {
                    name: np.stack([np.asarray(row[name]) for row in rows]).astype(column.dtype)
                    for name, column in store.columns.items()
                },
                _merged(chain.to_checkpoint() for chain in chains),
            )
            accept = np.mean([row["acceptance"] for row in rows], axis=0)
            recent = [*recent[-19:], (time.monotonic() - started, accept[0], accept[1])]
            with warnings.catch_warnings():
                # while the field is annealed the parameters have no acceptance
                warnings.simplefilter("ignore", RuntimeWarning)
                seconds, field, bias = np.nanmean(recent, axis=0)
            if report:
                report(
                    Progress(
                        sweep=sweep + 1,
                        num_sweeps=settings.num_sweeps,
                        phase="warm-up" if sweep < settings.num_warmup else "sampling",
                        seconds_per_sweep=float(seconds),
                        eta_seconds=float(seconds) * (settings.num_sweeps - sweep - 1),
                        field_acceptance=float(field),
                        bias_acceptance=float(bias),
                        log_posterior=tuple(float(row["log_posterior"]) for row in rows),
                        field_step_size=tuple(float(row["step_size"][_FIELD]) for row in rows),
                    )
                )
            out_of_time = max_seconds is not None and time.monotonic() - began > max_seconds
            if (interrupted() or out_of_time) and sweep + 1 < settings.num_sweeps:
                say(
                    f"stopped after sweep {sweep + 1} of {settings.num_sweeps}; everything is "
                    "saved, and the same command goes on from here"
                )
                return
