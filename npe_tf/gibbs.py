"""One chain of the joint posterior: Gibbs sweeps over the field and the bias parameters.

Each sweep visits two blocks, as BORG does. The white noise is moved by Hamiltonian Monte Carlo with
a mass matrix that is diagonal in Fourier space, one value per shell of wavenumber; the bias
parameters by quasi-Newton Hamiltonian Monte Carlo with a limited-memory BFGS inverse Hessian.

`npe_tf.warmup` says when a chain learns. At the start of each window the curvature of both blocks
is measured where the chain stands: probes per shell for the field, Hessian-vector products for the
parameters. Within a window the step sizes adapt to their target acceptance, and the trajectories of
the parameters update their BFGS history.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from npe_tf.bias.neural import check_psi, possible_psi
from npe_tf.field_moments import FieldMoments
from npe_tf.posterior import FieldPosterior
from npe_tf.pretraining import pretrain
from npe_tf.statistics import power_spectrum
from npe_tf.warmup import StepSize, WarmupPlan
from npe_tf.watched import Watched
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

__all__ = ["Chain", "GibbsSampler", "Settings"]

Tensor = Any
Array = NDArray[Any]

_BFGS_MEMORY = 40
_NUM_PROBES = 2


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
        preconditioned: whether the curvature of both blocks is measured; else the field has unit
            mass and the BFGS history of the parameters starts at the identity, as in the paper.
        psi: the mode in which every chain starts, as in `JointSettings`.
    """

    num_warmup: int = 200
    num_samples: int = 400
    num_chains: int = 2
    seed: int = 0
    field_leapfrog_steps: int = 32
    bias_leapfrog_steps: int = 5
    bias_steps: int = 3
    field_target_accept: float = 0.7
    bias_target_accept: float = 0.9
    field_every: int = 10
    annealing_start: float = 0.01
    preconditioned: bool = True
    psi: str = "rises"

    def __post_init__(self) -> None:
        """Refuse what cannot be run."""
        check_psi(self.psi)
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


class GibbsSampler:
    """The compiled functions of a run; they hold no state of a chain.

    The field is of the posterior's dtype. The parameters are float64, in which alone products with
    their inverse Hessian, of a condition number of 1e9, mean anything; the model sees them in its
    own precision.
    """

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
        self.plan = WarmupPlan.of(settings.num_warmup, settings.annealing_start)
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
                step_size_jitter=0.5,
                store_parameters_in_results=True,
            )
            return QuasiNewtonAdaptation(kernel, num_adaptation_steps=adaptation_steps)

        self.field_kernel = field_kernel
        self.kernel = BlockGibbs(
            None,
            [
                Block("field", field_kernel, lambda _, theta: self._given_parameters(theta)),
                Block(
                    "bias",
                    bias_kernel,
                    lambda white_noise, _: self._given_field(white_noise),
                    num_steps=settings.bias_steps,
                ),
            ],
        )
        self.sweep = tf.function(self._sweep)
        self.anneal = tf.function(self._anneal)
        self.bootstrap = tf.function(self._bootstrap)
        self.probe_field = tf.function(self._probe_field)
        self.bias_hessian = tf.function(self._bias_hessian)
        self.linear = tf.function(posterior.initial_field.__call__)
        self.evolved = tf.function(posterior.density)
        self.watched = Watched(posterior)

    @functools.cached_property
    def structure(self) -> list[Any]:
        """State and kernel results of a chain, as specifications of tensors."""
        state = [
            tf.TensorSpec(self.posterior.grid.shape, self.dtype),
            tf.TensorSpec([self.posterior.bias.parameters.size], tf.float64),
        ]
        return [state, self.bootstrap.get_concrete_function(*state).structured_outputs]

    def _given_parameters(self, theta: Tensor, beta: Tensor = 1.0) -> Any:
        return self.posterior.given_parameters(tf.cast(theta, self.dtype), beta)

    def _given_field(self, white_noise: Tensor) -> Any:
        target = self.posterior.given_field(white_noise)
        return lambda theta: target(tf.cast(theta, self.dtype))

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
        kernel = self.field_kernel(self._given_parameters(theta, beta))
        field, *others = results.block_results
        field = refresh_target(field, kernel.bootstrap_results(white_noise))
        white_noise, field = kernel.one_step(white_noise, field, seed=seed)
        results = results._replace(block_results=(field, *others))
        log_prob = self._given_field(white_noise)(theta)
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
            self._given_parameters(theta, beta),
            white_noise,
            self.field_curvature,
            seed,
            displacement,
            num_probes=_NUM_PROBES,
            minimum=1.0,
        )

    def _bias_hessian(self, white_noise: Tensor, theta: Tensor) -> Tensor:
        """Hessian of -log posterior in the parameters, `[size, size]`."""
        target = self._given_field(white_noise)

        def row(direction: Tensor) -> Tensor:
            with tf.GradientTape() as outer:
                outer.watch(theta)
                with tf.GradientTape() as inner:
                    inner.watch(theta)
                    log_prob = target(theta)
                slope = tf.reduce_sum(inner.gradient(log_prob, theta) * direction)
            return -outer.gradient(slope, theta)

        return tf.map_fn(row, tf.eye(theta.shape[0], dtype=theta.dtype), parallel_iterations=1)


def _acceptance(results: Any) -> Tensor:
    """Probability with which the last proposal of a kernel was accepted; 0 if it is NaN."""
    ratio = tf.cast(find_outermost(results, "log_accept_ratio"), tf.float64)
    probability = tf.exp(tf.minimum(ratio, 0.0))
    return tf.where(tf.math.is_nan(probability), tf.zeros_like(probability), probability)


class Chain:
    """State of one chain, the part of it that adapts, and its running moments."""

    def __init__(self, sampler: GibbsSampler, number: int) -> None:
        self.sampler = sampler
        self.seed = tf.random.experimental.stateless_fold_in(
            tf.constant([sampler.settings.seed, 0]), number
        )
        self.number = number
        self.state: list[Tensor] = []
        self.results: Any = None
        self.steps = [StepSize(0.02), StepSize(0.3)]
        self.variance: Array = np.ones(sampler.num_shells)
        self.moments = FieldMoments(("initial", "final"), sampler.posterior.grid.shape)

    def start(self, theta: Array | None, report: Callable[[str], None]) -> None:
        """Draw the white noise from its prior and find parameters to start with."""
        dtype = self.sampler.dtype
        posterior = self.sampler.posterior
        white_noise = tf.random.stateless_normal(
            posterior.grid.shape, self._fold(2**30), dtype=dtype
        )
        if theta is None:
            rng_seed = int(np.random.SeedSequence([self.sampler.settings.seed, self.number])
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
                psi=possible_psi(self.sampler.settings.psi, posterior.bias.parameters.names),
            )
            report(
                f"chain {self.number}: parameters fitted to the chain's own first field, haloes "
                f"moved to where it is dense: log L = {fitted.log_likelihood:.1f}"
            )
            theta = fitted.theta
        self.state = [white_noise, tf.constant(theta, tf.float64)]
        self.results = self.sampler.bootstrap(*self.state)
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
        if self.sampler.settings.preconditioned:
            self._measure(sweep)
        self.steps = [StepSize(step.average) for step in self.steps]
        self._set_steps([step.centre for step in self.steps])

    def _measure(self, sweep: int) -> None:
        """Set the mass of the field and the Hessian of the parameters by where the chain stands."""
        sampler, (white_noise, theta) = self.sampler, self.state
        displacement = np.sqrt(self.variance) if sweep else np.full(sampler.num_shells, 0.1)
        curvature = sampler.probe_field(
            white_noise,
            theta,
            tf.constant(displacement, sampler.dtype),
            self._fold(2**30 + 1 + sweep),
            tf.constant(sampler.plan.inverse_temperature(sweep), tf.float64),
        ).numpy()
        self.variance = 1.0 / curvature.astype(np.float64)
        field, bias = self.results.block_results
        field = replace_innermost(
            field, "inverse_hessian", ShellVariance(tf.constant(self.variance, sampler.dtype))
        )
        if sweep >= sampler.plan.annealed:
            bias = self._with_measured_hessian(bias)
        self.results = self.results._replace(block_results=(field, bias))

    def _with_measured_hessian(self, bias: Any) -> Any:
        """Kernel results of the parameters with the Hessian of where the chain stands."""
        sampler = self.sampler
        hessian = sampler.bias_hessian(*self.state).numpy().astype(np.float64)
        values, vectors = np.linalg.eigh(0.5 * (hessian + hessian.T))
        # Noise of the precision and saddle directions must not make B indefinite.
        floor = max(sampler.posterior.prior_scale**-2, 1e-7 * values[-1])
        values = np.maximum(np.abs(values), floor)
        history = sampler.bias_curvature.from_hessian((vectors * values) @ vectors.T)
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
        sampler, settings, plan = self.sampler, self.sampler.settings, self.sampler.plan
        if sweep in plan.windows:
            self.open_window(sweep)
        used = [float(find_innermost(b, "step_size")) for b in self.results.block_results]
        arguments = (*self.state, self.results, self._fold(sweep))
        if sweep < plan.annealed:
            beta = tf.constant(plan.inverse_temperature(sweep), tf.float64)
            outcome = sampler.anneal(*arguments, beta)
        else:
            outcome = sampler.sweep(*arguments)
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
        initial = sampler.linear(white_noise).numpy()
        if sweep >= settings.num_warmup:
            self.moments.add(initial=initial, final=sampler.evolved(white_noise).numpy())
        power = power_spectrum(initial, sampler.posterior.grid).power
        return {
            "theta": theta.numpy(),
            "log_posterior": float(log_posterior),
            "acceptance": acceptance,
            "step_size": used,
            "power": power,
            "white_noise": white_noise.numpy(),
            **sampler.watched(white_noise, theta),
        }

    def to_checkpoint(self) -> dict[str, Array]:
        """All that is needed to go on, by name."""
        flat = tf.nest.flatten([self.state, self.results], expand_composites=True)
        return self._named([np.asarray(value) for value in flat])

    def checkpoint_template(self) -> dict[str, Array]:
        """Zeros of the shapes and types of `to_checkpoint`, before the chain has a state."""
        flat = tf.nest.flatten(self.sampler.structure, expand_composites=True)
        return self._named([np.zeros(spec.shape, spec.dtype.as_numpy_dtype) for spec in flat])

    def from_checkpoint(self, arrays: Mapping[str, Array]) -> None:
        """Inverse of `to_checkpoint`."""
        structure = self.sampler.structure
        count = len(tf.nest.flatten(structure, expand_composites=True))
        flat = [tf.constant(arrays[f"{self.number}/state/{i}"]) for i in range(count)]
        self.state, self.results = tf.nest.pack_sequence_as(structure, flat, expand_composites=True)
        self.moments.from_checkpoint(arrays, f"{self.number}/")
        self.variance = np.array(arrays[f"{self.number}/variance"])
        self.steps = [StepSize.from_array(row) for row in arrays[f"{self.number}/steps"]]

    def _named(self, flat_state: list[Array]) -> dict[str, Array]:
        parts = {f"state/{i}": value for i, value in enumerate(flat_state)}
        parts |= self.moments.to_checkpoint()
        parts["variance"] = self.variance
        parts["steps"] = np.stack([step.to_array() for step in self.steps])
        return {f"{self.number}/{name}": value for name, value in parts.items()}
