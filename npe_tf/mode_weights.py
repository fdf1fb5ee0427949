r"""How the modes of a posterior weigh against each other, the field integrated out.

Chains stay in the mode of the parameters in which they start. What a mode weighs is the integral of
the posterior density over it, and the field has as many dimensions as voxels: its part of the
integral differs from mode to mode by more than the likelihood does. With

    Z(theta) = integral of p(x) L(x, theta) dx

over the white noise x, the weight of a mode is Z(theta) p(theta) / q(theta) at any theta in it,
with q the normalised density of the parameters within the mode.

* The ratio of two Z is measured by *switching*: the parameters go from one mode to the other
  along a straight line of their coordinates in many small steps, the field follows by dynamics, and
  the log likelihood ratios of all steps at the field of the time add up to the work W. On average
  exp(W) is the ratio whatever the speed, and W is at most its log (Jarzynski 1997, Phys. Rev.
  Lett. 78, 2690). So the way there gives a lower bound and the way back an upper, and half of their
  difference has the error of a slow switch in second order only (Crooks 2000, Phys. Rev. E 61,
  2361).
* q is taken as normal, in the coordinates of `npe_tf.bias.standardised`, with mean and covariance
  of the draws.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, MutableMapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike, NDArray

from npe_tf.whitening import Frame, WhitenedPosterior
from samplers import DiagonalInverseHessian, EnergyErrorAdaptation, MicrocanonicalLangevin
from samplers.results import find_innermost, replace_innermost

__all__ = [
    "FieldSwitch",
    "Mode",
    "ModeWeight",
    "SwitchSettings",
    "find_modes",
    "weigh_modes",
]

Tensor = Any
Array = NDArray[np.float64]

_FIRST_STEP = 0.05
_NEVER = 2**30
# chains of one mode overlap in every coordinate: their means differ by at most so many times the
# sum of their standard deviations
_APART = 3.0


@dataclasses.dataclass(frozen=True)
class SwitchSettings:
    """How the parameters go from mode to mode.

    Attributes:
        num_steps: steps of the parameters on the way.
        gradients_per_step: of the field after each.
        num_equilibration: gradients of the field before the first, with parameters that stand; the
            step size adapts.
        energy_error: of the dynamics, see `npe_tf.JointSettings`.
        decoherence_length: of the dynamics, see `npe_tf.JointSettings`.
        seed: of everything random.

    Raises:
        ValueError: if one is out of range.
    """

    num_steps: int = 200
    gradients_per_step: int = 10
    num_equilibration: int = 400
    energy_error: float = 1e-5
    decoherence_length: float = 2.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be run."""
        for name in ("num_steps", "gradients_per_step", "num_equilibration"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
                raise ValueError(
                    f"Invalid value for argument `{name}`. Expected a positive integer. Received: "
                    f"{name}={value!r}"
                )
        for name in ("energy_error", "decoherence_length"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(
                    f"Invalid value for argument `{name}`. Expected a positive number. Received: "
                    f"{name}={value!r}"
                )


@dataclasses.dataclass(frozen=True)
class Mode:
    """Chains of one mode.

    Attributes:
        chains: their numbers.
        mean: of the parameters' coordinates, `[P]`.
        covariance: of them, `[P, P]`.
    """

    chains: tuple[int, ...]
    mean: Array
    covariance: Array

    @property
    def log_volume(self) -> float:
        """-log of the normal density of this covariance at its mean."""
        sign, log_determinant = np.linalg.slogdet(self.covariance)
        if sign <= 0:
            return float("nan")
        return float(0.5 * (len(self.mean) * math.log(2.0 * math.pi) + log_determinant))


def find_modes(coordinates: ArrayLike) -> list[Mode]:
    """Group chains whose draws overlap.

    Two chains are of one mode if in every coordinate their means differ by at most three times the
    sum of their standard deviations, or if chains between them link them so.

    Args:
        coordinates: draws `[T, C, P]` of C chains.

    Returns:
        Modes in the order of their first chains.

    Raises:
        ValueError: for another shape, or numbers that are not finite.
    """
    draws = np.asarray(coordinates, dtype=np.float64)
    if draws.ndim != 3 or len(draws) < 2 or not np.all(np.isfinite(draws)):
        raise ValueError(
            "Invalid value for argument `coordinates`. Expected finite draws of shape [T, C, P], T "
            f"at least 2. Received: shape {draws.shape}"
        )
    mean, spread = draws.mean(axis=0), draws.std(axis=0)
    gap = np.abs(mean[:, np.newaxis] - mean)
    linked = np.all(gap <= _APART * (spread[:, np.newaxis] + spread), axis=-1)
    left, modes = list(range(draws.shape[1])), []
    while left:
        group, new = set(), {left[0]}
        while new:
            group |= new
            new = {int(c) for g in new for c in np.flatnonzero(linked[g])} - group
        left = [chain for chain in left if chain not in group]
        own = draws[:, sorted(group)].reshape(-1, draws.shape[2])
        covariance = np.atleast_2d(np.cov(own, rowvar=False))
        modes.append(Mode(tuple(sorted(group)), own.mean(axis=0), covariance))
    return modes


class FieldSwitch:
    """The dynamics of a field whose parameters are moved.

    Args:
        target: the posterior.
        settings: of the way.
    """

    def __init__(self, target: WhitenedPosterior, settings: SwitchSettings) -> None:
        """Prepare the compiled functions."""
        self.target = target
        self.settings = settings
        self._root = math.sqrt(target.size)
        self._start = tf.function(
            lambda state, frame: self._kernel(frame, 1).bootstrap_results(state)
        )
        self._adapt = tf.function(self._adapting)
        self._move = tf.function(self._moving)
        self._gain = tf.function(self._log_likelihood_ratio)

    def _kernel(self, frame: Frame, num_steps: int) -> MicrocanonicalLangevin:
        return MicrocanonicalLangevin(
            lambda state: self.target.log_prob(state, frame),
            step_size=_FIRST_STEP * self._root,
            inverse_hessian=DiagonalInverseHessian(),
            decoherence_length=self.settings.decoherence_length * self._root,
            num_steps=num_steps,
        )

    def _adapting(self, state: Tensor, frame: Frame, seed: Tensor) -> tuple[Tensor, Tensor]:
        """The equilibration; returns the state and the step size."""
        kernel = EnergyErrorAdaptation(self._kernel(frame, 1), _NEVER, self.settings.energy_error)

        def body(step: Tensor, state: Tensor, results: Any) -> tuple[Tensor, Tensor, Any]:
            own = tf.random.experimental.stateless_fold_in(seed, step)
            state, results = kernel.one_step(state, results, seed=own)
            return step + 1, state, results

        count = self.settings.num_equilibration
        start = (tf.constant(0), state, kernel.bootstrap_results(state))
        _, state, results = tf.while_loop(lambda step, *_: step < count, body, start)
        return state, find_innermost(results, "step_size")

    def _moving(
        self, state: Tensor, results: Any, frame: Frame, step_size: Tensor, seed: Tensor
    ) -> tuple[Tensor, Any]:
        """The field after a step of the parameters: the direction is kept, the gradient is new."""
        kernel = self._kernel(frame, self.settings.gradients_per_step)
        fresh = kernel.bootstrap_results(state)
        fresh = replace_innermost(fresh, "step_size", step_size)
        fresh = replace_innermost(fresh, "direction", find_innermost(results, "direction"))
        return kernel.one_step(state, fresh, seed=seed)

    def _log_likelihood_ratio(self, state: Tensor, frame: Frame, theta: Tensor) -> Tensor:
        """Log likelihoods of the second parameters `[2, P]` minus that of the first."""
        posterior, dtype = self.target.posterior, self.target.dtype
        delta = posterior.density(self.target.white_noise(state, frame))
        first, second = (
            posterior.log_likelihood(delta, tf.cast(t, dtype)) for t in tf.unstack(theta)
        )
        return second - first

    def run(
        self,
        white_noise: ArrayLike,
        start: ArrayLike,
        end: ArrayLike,
        frame: Frame,
        report: Callable[[int, float], None] | None = None,
    ) -> tuple[float, Array]:
        """Move the parameters from one mode to another.

        Args:
            white_noise: a draw given the parameters at the start, or close to one, `[N, N, N]`.
            start: coordinates of the parameters there, `[P]`.
            end: coordinates where they go, `[P]`.
            frame: what a chain has learnt where the way starts.
            report: called with the number of steps done and the work so far.

        Returns:
            The work, an estimate from below of log Z(end) - log Z(start), and the field at the end.

        Raises:
            FloatingPointError: if the likelihood is not finite on the way.
        """
        target, settings = self.target, self.settings
        origin = np.asarray(start, dtype=np.float64)
        way = np.asarray(end, dtype=np.float64) - origin
        standing = target.standing(frame, origin)
        own = target.tensors(standing)
        seed = tf.constant([settings.seed, 2])
        state = tf.constant(target.state(white_noise, origin, standing))
        state, step_size = self._adapt(state, own, seed)
        results = self._start(state, own)
        theta = target.parameters.theta(tf.constant(origin))[0]
        work = 0.0
        for step in range(1, settings.num_steps + 1):
            here = origin + way * (step / settings.num_steps)
            before, theta = theta, target.parameters.theta(tf.constant(here))[0]
            work += float(self._gain(state, own, tf.stack([before, theta])))
            if not math.isfinite(work):
                raise FloatingPointError(
                    f"The likelihood is not finite {step / settings.num_steps:.0%} of the way from "
                    "one mode to the other."
                )
            own = own._replace(centre=tf.constant(here))
            state, results = self._move(
                state,
                results,
                own,
                step_size,
                tf.random.experimental.stateless_fold_in(seed, _NEVER + step),
            )
            if report:
                report(step, work)
        return work, target.white_noise(state, own).numpy()


@dataclasses.dataclass(frozen=True)
class ModeWeight:
    """What a mode weighs against the first.

    Attributes:
        chains: of the mode.
        there: work from the first mode to this one, from below log Z(this) - log Z(first).
        back: work from this one to the first.
        log_prior_ratio: of the parameters at the two means, in their coordinates.
        log_volume_ratio: of the normal volumes of the parameters.
    """

    chains: tuple[int, ...]
    there: float
    back: float
    log_prior_ratio: float
    log_volume_ratio: float

    @property
    def log_ratio(self) -> float:
        """Log of the weight of this mode over that of the first."""
        return 0.5 * (self.there - self.back) + self.log_prior_ratio + self.log_volume_ratio

    @property
    def error(self) -> float:
        """Half of the range between the two bounds, which the two ways give on average."""
        return 0.5 * abs(self.there + self.back)


def weigh_modes(
    target: WhitenedPosterior,
    modes: Sequence[Mode],
    fields: Sequence[ArrayLike],
    positions: Sequence[ArrayLike],
    frames: Sequence[Frame],
    settings: SwitchSettings,
    report: Callable[[str, int, float], None] | None = None,
    known: MutableMapping[str, float] | None = None,
) -> list[ModeWeight]:
    """Weigh every mode against the first.

    Args:
        target: the posterior.
        modes: of `find_modes`, two at least.
        fields: white noise `[N, N, N]` of a chain of each mode, its last for instance.
        positions: coordinates of the parameters of these fields, `[P]`.
        frames: what these chains have learnt.
        settings: of the ways.
        report: called with a name of the way, the steps done on it and the work so far.
        known: work of the ways by their names; those that it lacks are added as they are done, so
            that what was interrupted goes on.

    Returns:
        One for each mode but the first.

    Raises:
        ValueError: if there are fewer than two modes.
    """
    if len(modes) < 2:
        raise ValueError(
            f"Invalid value for argument `modes`. Expected at least two. Received: {len(modes)}"
        )
    switch = FieldSwitch(target, settings)

    def log_prior(point: ArrayLike) -> float:
        theta, log_volume = target.parameters.theta(tf.constant(np.asarray(point)))
        return float(target.posterior.log_prior_parameters(theta) + log_volume)

    known = {} if known is None else known

    def follow(source: int, goal: int) -> float:
        name = f"from chain {modes[source].chains[0]} to chain {modes[goal].chains[0]}"
        if name in known:
            return known[name]
        told = None if report is None else (lambda step, work: report(name, step, work))
        # the ways run between draws, not means: a mean of bent draws may fit nothing
        known[name], _ = switch.run(
            fields[source], positions[source], positions[goal], frames[source], told
        )
        return known[name]

    def log_density(number: int) -> float:
        """Of the normal of a mode at its position."""
        mode = modes[number]
        offset = np.asarray(positions[number]) - mode.mean
        return -0.5 * float(offset @ np.linalg.solve(mode.covariance, offset)) - mode.log_volume

    return [
        ModeWeight(
            chains=modes[number].chains,
            there=follow(0, number),
            back=follow(number, 0),
            log_prior_ratio=log_prior(positions[number]) - log_prior(positions[0]),
            log_volume_ratio=log_density(0) - log_density(number),
        )
        for number in range(1, len(modes))
    ]
