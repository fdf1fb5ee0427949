"""One chain of the joint posterior: microcanonical Langevin dynamics of field and parameters.

Field and bias parameters move together, in the coordinates of `npe_tf.whitening`, in which their
posterior is close to a standard normal. A chain needs no hand to get there from a draw of the
prior:

1. *Annealing.* The parameters are fitted to the chain's own random field with the haloes moved to
   where it is dense, and stand still; the field follows the likelihood, raised to a power that
   grows to one. If they moved now, many chains would put the haloes into the voids: a density
   field of the wrong sign with a bias of the wrong sign is a mode of its own.
2. *Settling.* The parameters are fitted to the field that was found, and the field moves on; again,
   a few times.
3. *Learning.* The parameters are fitted once more. The curvature of the block (largest scales and
   parameters) is measured, the
   frame is set by it, and everything moves. That of the modes hardly depends on where the chain is;
   that of the parameters does, and one place says little of others. So every later window sets
   their part by where the one before went and by the slopes it met. The step size adapts to an
   energy error per dimension.
4. *Burning in.* Nothing adapts any more.

The posterior of the parameters has several modes, and the fits decide in which a chain is, see
`npe_tf.chain_fits`.

The dynamics is not adjusted by Metropolis tests; its bias is controlled by the energy error, see
`samplers.MicrocanonicalLangevin`.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from npe_tf.bias.neural import check_psi
from npe_tf.chain_fits import ChainFits
from npe_tf.field_moments import FieldMoments
from npe_tf.posterior import FieldPosterior
from npe_tf.pretraining import Pretrained
from npe_tf.statistics import power_spectrum
from npe_tf.watched import Watched
from npe_tf.whitening import STANDING, Frame, WhitenedPosterior
from samplers import DiagonalInverseHessian, EnergyErrorAdaptation, MicrocanonicalLangevin
from samplers.results import find_innermost, replace_innermost

__all__ = ["JointChain", "JointPlan", "JointSampler", "JointSettings"]

Tensor = Any
Array = NDArray[Any]

_ANNEALING_START = 0.02
_ANNEALING_FRACTION, _SETTLING_FRACTION, _BURN_IN_FRACTION = 0.2, 0.15, 0.1
_ANNEALING_WINDOWS = 6
_SETTLING_WINDOWS = 5
# share of the learning at which each of its windows starts
_LEARNING_WINDOWS = (0.0, 0.1, 0.25, 0.45, 0.7)
# sweeps for which the frame so far counts against those of a window
_FRAME_WEIGHT = 5.0
_MOST_RESCALING = 1e3
_COARSE_ERROR = 1e-3
_FIRST_LEARNING_ERROR = 1e-4
_FIRST_STEP = 0.02
_ANNEALING_LENGTH = 0.3
_NUM_STARTS = 4
_NEVER = 2**30
# a hundred times what a sweep's energy changes by on the largest meshes tried
_MAX_ENERGY_CHANGE = 1000.0
# what a direction of the block may have, in units of the frame, when a window opens
_LARGEST_CURVATURE, _RELAXING_PRODUCTS = 3.0, 24
# Random phases of a shell know the curvature mode by mode. The widths of the modes, their
# correlations included, are larger the more a shell is pinned (measured: twice at a curvature of
# 100, once at 1).
_WIDENING = 0.6


@dataclasses.dataclass(frozen=True)
class JointSettings:
    """What a run is asked to do.

    Attributes:
        num_warmup: sweeps before sampling.
        num_samples: sweeps that count.
        num_chains: independent chains.
        seed: of everything random.
        gradients_per_sweep: steps of the integrator, each a gradient, per sweep.
        energy_error: variance of the energy error of a step per dimension, which sets the step
            size.
        decoherence_length: over which the direction is forgotten, in units of the square root of
            the number of dimensions. Several of them, for the widest directions of the posterior
            are several times wider than their curvature says.
        num_dense_shells: shells of wavenumber in the dense block, see `WhitenedPosterior`.
        field_every: sweeps between stored fields.
        psi: the mode in which every chain starts: psi ``"rises"`` or ``"falls"`` with the density,
            see `npe_tf.bias.neural.psi_rises`, or ``"free"``, whichever its own fits find. Networks
            without such a kernel are always free.

    Raises:
        ValueError: if one is out of range.
    """

    num_warmup: int = 160
    num_samples: int = 800
    num_chains: int = 4
    seed: int = 0
    gradients_per_sweep: int = 20
    energy_error: float = 5e-6
    decoherence_length: float = 6.0
    num_dense_shells: int = 4
    field_every: int = 10
    psi: str = "rises"

    def __post_init__(self) -> None:
        """Refuse what cannot be run."""
        check_psi(self.psi)
        least = {"num_warmup": 10, "seed": 0, "num_dense_shells": 0}
        for field in dataclasses.fields(self):
            value, name = getattr(self, field.name), field.name
            if isinstance(field.default, int):
                smallest = least.get(name, 1)
                if (
                    isinstance(value, bool)
                    or not isinstance(value, (int, np.integer))
                    or value < smallest
                ):
                    raise ValueError(
                        f"Invalid value for argument `{name}`. Expected an integer of at least "
                        f"{smallest}. Received: {name}={value!r}"
                    )
            elif isinstance(field.default, float) and not (math.isfinite(value) and value > 0):
                raise ValueError(
                    f"Invalid value for argument `{name}`. Expected a positive number. Received: "
                    f"{name}={value!r}"
                )

    @property
    def num_sweeps(self) -> int:
        """Warm-up and sampling together."""
        return self.num_warmup + self.num_samples


@dataclasses.dataclass(frozen=True)
class JointPlan:
    """What happens at which sweep of the warm-up.

    Attributes:
        annealing: first sweep of each window of the annealing.
        settling: first sweep of each window at the full likelihood with parameters that stand.
        learning: first sweep of each window of the learning.
        frozen: sweep from which on nothing adapts.
    """

    annealing: tuple[int, ...]
    settling: tuple[int, ...]
    learning: tuple[int, ...]
    frozen: int

    @classmethod
    def of(cls, num_warmup: int) -> JointPlan:
        """Cut a warm-up of at least ten sweeps into its parts."""
        annealed = max(1, int(_ANNEALING_FRACTION * num_warmup))
        settled = max(1, int(_SETTLING_FRACTION * num_warmup))
        start = annealed + settled
        annealing = _evenly(0, annealed, _ANNEALING_WINDOWS)
        settling = _evenly(annealed, settled, _SETTLING_WINDOWS)
        frozen = num_warmup - max(1, int(_BURN_IN_FRACTION * num_warmup))
        starts = {start + int(share * (frozen - start)) for share in _LEARNING_WINDOWS}
        return cls(annealing, settling, tuple(sorted(starts)), frozen)

    @property
    def annealed(self) -> int:
        """First sweep at the full likelihood."""
        return self.settling[0]

    def inverse_temperature(self, sweep: int) -> float:
        """Power of the likelihood in a sweep; the same all through a window."""
        if sweep >= self.annealed:
            return 1.0
        window = sum(start <= sweep for start in self.annealing) - 1
        return float(_ANNEALING_START ** (1.0 - window / len(self.annealing)))


def _evenly(start: int, length: int, most: int) -> tuple[int, ...]:
    """Starts of at most so many windows of about the same length."""
    count = min(most, length)
    return tuple(start + length * window // count for window in range(count))


class Visits(NamedTuple):
    """Where the parameters went in a window, in units of the frame, and how steep it was.

    Attributes:
        count: steps.
        total: sum of the positions, `[P]`.
        squares: sum of their outer products, `[P, P]`.
        slopes: sum of the outer products of the gradients of the log density, `[P, P]`.
    """

    count: Any
    total: Any
    squares: Any
    slopes: Any

    @classmethod
    def none(cls, size: int) -> Visits:
        """Before the first step."""
        square = tf.zeros([size, size], tf.float64)
        return cls(tf.zeros([], tf.float64), tf.zeros([size], tf.float64), square, square)

    def plus(self, position: Tensor, slope: Tensor) -> Visits:
        """One step more."""
        position, slope = tf.cast(position, tf.float64), tf.cast(slope, tf.float64)
        return Visits(
            self.count + 1.0,
            self.total + position,
            self.squares + position[:, tf.newaxis] * position,
            self.slopes + slope[:, tf.newaxis] * slope,
        )

    def rescaling(self, num_sweeps: int) -> Array:
        """The map `[P, P]` to units in which draws and slopes have inverse covariances.

        The covariance of the draws and the inverse of that of the slopes are the same for a normal
        distribution; else the former tells of the largest scale of each direction, as far as the
        window was long enough, and the latter of the smallest. Their geometric mean has the least
        Fisher divergence from the identity (Seyboldt, Carlson & Carpenter 2026, nutpie).

        Args:
            num_sweeps: of the window, for the weight of the identity beside them.
        """
        count = max(float(self.count), 1.0)
        mean = np.asarray(self.total) / count
        draws = np.asarray(self.squares) / count - np.outer(mean, mean)
        slopes = np.asarray(self.slopes) / count
        weight = num_sweeps / (num_sweeps + _FRAME_WEIGHT)
        identity = np.eye(len(mean))
        draws, slopes = (weight * x + (1.0 - weight) * identity for x in (draws, slopes))
        root, inverse_root = (_power(slopes, power) for power in (0.5, -0.5))
        middle = _power(root @ draws @ root, 0.5)
        return _power(inverse_root @ middle @ inverse_root, 0.5)


def _power(matrix: Array, power: float) -> Array:
    """Power of a symmetric positive matrix, its eigenvalues bounded."""
    values, vectors = np.linalg.eigh(0.5 * (matrix + matrix.T))
    values = np.clip(values, 1.0 / _MOST_RESCALING, _MOST_RESCALING)
    return np.asarray((vectors * values**power) @ vectors.T)


class JointSampler:
    """The compiled functions of a run; they hold no state of a chain.

    Attributes:
        target: the posterior in whitened coordinates.
        watched: see `npe_tf.watched`.
    """

    def __init__(self, posterior: FieldPosterior, settings: JointSettings) -> None:
        """Prepare what depends on the mesh."""
        self.posterior = posterior
        self.settings = settings
        self.dtype = tf.as_dtype(posterior.bias.dtype)
        dense = min(settings.num_dense_shells, posterior.grid.num_cells // 2)
        self.target = WhitenedPosterior(posterior, dense)
        self.plan = JointPlan.of(settings.num_warmup)
        self.watched = Watched(posterior)
        self.root = math.sqrt(self.target.size)
        self.adapt = tf.function(self._adapt)
        self.sample = tf.function(self._sample)
        self.bootstrap = tf.function(self._bootstrap)
        self.rows = tf.function(self.target.hessian_rows)
        self.product = tf.function(self.target.hessian_product)
        self.probe = tf.function(self.target.shell_curvature)
        self.unwhiten = tf.function(
            lambda state, frame: (
                self.target.white_noise(state, frame),
                self.target.coordinates(state, frame),
                self.target.theta(state, frame),
            )
        )
        self.log_posterior = tf.function(self.target.log_posterior)
        self.parameter_hessian = tf.function(self._parameter_hessian)
        self.linear = tf.function(posterior.initial_field.__call__)
        self.evolved = tf.function(posterior.density)

    def kernel(self, frame: Frame, beta: Tensor, num_steps: int) -> MicrocanonicalLangevin:
        """The dynamics in a frame."""
        return MicrocanonicalLangevin(
            lambda state: self.target.log_prob(state, frame, beta),
            step_size=_FIRST_STEP * self.root,
            inverse_hessian=DiagonalInverseHessian(),
            decoherence_length=self.settings.decoherence_length * self.root,
            num_steps=num_steps,
            max_energy_change=_MAX_ENERGY_CHANGE if num_steps > 1 else None,
        )

    def _adaptation(self, frame: Frame, beta: Tensor, error: Tensor) -> EnergyErrorAdaptation:
        return EnergyErrorAdaptation(self.kernel(frame, beta, 1), _NEVER, error)

    def _bootstrap(
        self, state: Tensor, frame: Frame, beta: Tensor, step_size: Tensor, length: Tensor
    ) -> Any:
        results = self._adaptation(frame, beta, 1.0).bootstrap_results(state)
        for name, value in (("step_size", step_size), ("decoherence_length", length)):
            old = find_innermost(results, name)
            results = replace_innermost(results, name, tf.cast(value, old.dtype))
        return results

    def _adapt(
        self,
        state: Tensor,
        results: Any,
        visits: Visits,
        frame: Frame,
        beta: Tensor,
        error: Tensor,
        seed: Tensor,
    ) -> tuple[Tensor, Any, Visits, Tensor]:
        """A sweep in which the step size adapts; the mean error over its steps."""
        kernel = self._adaptation(frame, beta, error)
        count = self.settings.gradients_per_sweep

        size = self.posterior.bias.parameters.size

        def body(
            step: Tensor, state: Tensor, results: Any, visits: Visits, total: Tensor
        ) -> tuple[Any, ...]:
            own = tf.random.experimental.stateless_fold_in(seed, step)
            state, results = kernel.one_step(state, results, seed=own)
            found = tf.cast(find_innermost(results, "squared_energy_error"), tf.float64)
            (slope,) = find_innermost(results, "grads_target_log_prob")
            visits = visits.plus(state[-size:], slope[-size:])
            return step + 1, state, results, visits, total + found

        start = (tf.constant(0), state, results, visits, tf.constant(0.0, tf.float64))
        _, state, results, visits, total = tf.while_loop(lambda step, *_: step < count, body, start)
        return state, results, visits, total / (count * self.target.size)

    def _sample(
        self, state: Tensor, results: Any, frame: Frame, seed: Tensor
    ) -> tuple[Tensor, Any, Tensor]:
        """A sweep with what was learnt."""
        kernel = self.kernel(frame, tf.constant(1.0, tf.float64), self.settings.gradients_per_sweep)
        state, inner = kernel.one_step(state, results.inner_results, seed=seed)
        error = tf.cast(inner.squared_energy_error, tf.float64) / self.target.size
        return state, results._replace(inner_results=inner), error

    def _parameter_hessian(self, white_noise: Tensor, coordinates: Tensor) -> Tensor:
        """Hessian of -log posterior in the coordinates of the parameters, `[P, P]`."""
        posterior, delta = self.posterior, tf.stop_gradient(self.posterior.density(white_noise))

        def log_prob(point: Tensor) -> Tensor:
            theta, log_volume = self.target.parameters.theta(point)
            likelihood = posterior.log_likelihood(delta, tf.cast(theta, self.dtype))
            return likelihood + posterior.log_prior_parameters(theta) + log_volume

        def row(direction: Tensor) -> Tensor:
            with tf.GradientTape() as outer:
                outer.watch(coordinates)
                with tf.GradientTape() as inner:
                    inner.watch(coordinates)
                    value = log_prob(coordinates)
                slope = tf.reduce_sum(inner.gradient(value, coordinates) * direction)
            return -outer.gradient(slope, coordinates)

        unit = tf.eye(coordinates.shape[0], dtype=tf.float64)
        return tf.map_fn(row, unit, parallel_iterations=1)

    @functools.cached_property
    def common_fit(self) -> Pretrained:
        """The fit that all chains follow: to the first field of chain 0, once in a process."""
        first = JointChain(self, 0)
        delta = self.posterior.density(first.first_white_noise()).numpy()
        return first.fits.at_first(delta, None, _NUM_STARTS)

    @functools.cached_property
    def structure(self) -> list[Any]:
        """State and kernel results of a chain, as specifications of tensors."""
        state = tf.TensorSpec([self.target.size], self.dtype)
        size = self.posterior.bias.parameters.size
        frame = Frame(
            tf.TensorSpec([self.target.num_shells + 1], tf.float64),
            tf.TensorSpec([size], tf.float64),
            tf.TensorSpec([self.target.block_size] * 2, self.dtype),
        )
        number = tf.TensorSpec([], tf.float64)
        concrete = self.bootstrap.get_concrete_function(state, frame, number, number, number)
        square = tf.TensorSpec([size, size], tf.float64)
        visits = Visits(number, tf.TensorSpec([size], tf.float64), square, square)
        return [state, frame, concrete.structured_outputs, visits]


class JointChain:
    """State of one chain, what it has learnt, and its running moments."""

    def __init__(self, sampler: JointSampler, number: int) -> None:
        """Make a chain that has yet to start."""
        self.sampler = sampler
        self.number = number
        self.seed = tf.random.experimental.stateless_fold_in(
            tf.constant([sampler.settings.seed, 1]), number
        )
        self.state: Tensor = None
        self.frame: Frame = Frame(None, None, None)
        self.results: Any = None
        self.visits = Visits.none(sampler.posterior.bias.parameters.size)
        self.moments = FieldMoments(("initial", "final"), sampler.posterior.grid.shape)
        settings = sampler.settings
        self.fits = ChainFits(sampler.posterior, settings.psi, settings.seed, number)
        self.say: Callable[[str], None] = lambda line: None

    def _fold(self, number: int) -> Tensor:
        return tf.random.experimental.stateless_fold_in(self.seed, number)

    # --- start and windows ----------------------------------------------------------------------

    def first_white_noise(self) -> Tensor:
        """The draw of the prior with which the chain starts, `[N, N, N]`."""
        sampler = self.sampler
        return tf.random.stateless_normal(
            sampler.posterior.grid.shape, self._fold(_NEVER), dtype=sampler.dtype
        )

    def start(self, theta: Array | None, report: Callable[[str], None]) -> None:
        """Draw the white noise from its prior and find parameters to start with."""
        sampler, posterior = self.sampler, self.sampler.posterior
        self.say = report
        white_noise = self.first_white_noise()
        if theta is None:
            where = "the haloes moved to where its first field is dense"
            theta = self._told(self._first_fit(posterior.density(white_noise).numpy()), where)
        coordinates = sampler.target.parameters.coordinates(theta)
        self._enter(white_noise, coordinates, sampler.target.initial_frame(coordinates), 0)
        log_prob = float(find_innermost(self.results, "target_log_prob"))
        if not np.isfinite(log_prob):
            raise ValueError(
                "Invalid value for argument `initial_theta`. Expected parameters of finite "
                f"posterior density. Received: log posterior {log_prob} in chain {self.number}"
            )

    def _first_fit(self, delta: Array) -> Pretrained:
        """Follow the common fit, or, of a chain that is free, fit on its own."""
        if self.fits.psi == "free":
            return self.fits.at_first(delta, None)
        common = self.sampler.common_fit
        return common if self.number == 0 else self.fits.at_first(delta, common.theta)

    def _told(self, fitted: Pretrained, where: str) -> Array:
        self.say(
            f"chain {self.number}: parameters fitted to {where}: log L = "
            f"{fitted.log_likelihood:.1f}"
        )
        return fitted.theta

    def _theta(self) -> Array:
        return np.asarray(self.sampler.unwhiten(self.state, self.frame)[2])

    def _enter(
        self,
        white_noise: Any,
        coordinates: Any,
        frame: Frame,
        sweep: int,
        step: float = _FIRST_STEP,
    ) -> None:
        """Go on in another frame from the same field and parameters."""
        sampler, settings = self.sampler, self.sampler.settings
        learning = sweep >= sampler.plan.learning[0]
        length = settings.decoherence_length if learning else _ANNEALING_LENGTH
        self.frame = sampler.target.tensors(frame)
        self.state = tf.constant(sampler.target.state(white_noise, coordinates, frame))
        self.visits = Visits.none(len(coordinates))
        self.results = sampler.bootstrap(
            self.state,
            self.frame,
            tf.constant(sampler.plan.inverse_temperature(sweep), tf.float64),
            tf.constant(step * sampler.root, tf.float64),
            tf.constant(length * sampler.root, tf.float64),
        )

    def open_window(self, sweep: int) -> None:
        """Measure the curvature where the chain stands, and set the frame by it."""
        sampler, plan, target = self.sampler, self.sampler.plan, self.sampler.target
        white_noise, coordinates, _ = sampler.unwhiten(self.state, self.frame)
        coordinates = coordinates.numpy()
        step = float(find_innermost(self.results, "step_size")) / sampler.root
        if sweep > plan.learning[0]:
            before = plan.learning[plan.learning.index(sweep) - 1]
            rescaling = self.visits.rescaling(sweep - before)
            frame = target.rescaled(self._numpy_frame(), rescaling)._replace(centre=coordinates)
            self._enter(white_noise, coordinates, target.triangular(frame), sweep, 0.5 * step)
            self._relax(white_noise, coordinates, sweep, 0.5 * step)
            return
        if sweep in (*plan.settling, plan.learning[0]):
            delta = sampler.evolved(white_noise).numpy()
            # the field has adapted to the parameters, which are close; chains that are free look
            # for others where they first see their own haloes, and where they begin to learn
            afresh = self.fits.psi == "free" and sweep not in plan.settling[1:]
            learning = sweep == plan.learning[0]
            fitted = self.fits.of_field(
                delta,
                sweep,
                None if afresh else self._theta(),
                num_starts=_NUM_STARTS if learning else 1,
                num_polish=200 if learning else 100,
            )
            theta = self._told(fitted, "its field")
            coordinates = target.parameters.coordinates(theta)
        size = len(coordinates)
        width = self._widths(white_noise, coordinates, sweep)
        mixing = STANDING * np.eye(size)
        if sweep >= plan.learning[0]:
            hessian = sampler.parameter_hessian(white_noise, coordinates).numpy()
            values, vectors = np.linalg.eigh(0.5 * (hessian + hessian.T))
            mixing = (vectors / np.sqrt(np.maximum(np.abs(values), 1.0))) @ vectors.T
        frame = target.diagonal_frame(width, coordinates, mixing)
        if sweep < plan.learning[0]:
            self._enter(white_noise, coordinates, frame, sweep, min(step, 0.2))
            return
        self._enter(white_noise, coordinates, frame, sweep)
        frame = target.triangular(target.refined(self._numpy_frame(), self._block_hessian()))
        self._enter(white_noise, coordinates, frame, sweep, 0.05)

    def _relax(self, white_noise: Any, coordinates: Array, sweep: int, step: float) -> None:
        """Shorten the directions of the block that are steep where the chain stands."""
        sampler, target = self.sampler, self.sampler.target

        def product(direction: Array) -> Array:
            row = sampler.product(self.state, self.frame, tf.constant(direction, sampler.dtype))
            return np.asarray(row, dtype=np.float64)

        frame, curvatures = target.relaxed(
            self._numpy_frame(), product, _LARGEST_CURVATURE, _RELAXING_PRODUCTS
        )
        told = " ".join(f"{value:.3g}" for value in curvatures[:3])
        self.say(f"chain {self.number}: steepest curvatures of the block {told}")
        self._enter(white_noise, coordinates, target.triangular(frame), sweep, step)

    def _numpy_frame(self) -> Frame:
        return Frame(*(value.numpy() for value in self.frame))

    def _widths(self, white_noise: Any, coordinates: Array, sweep: int) -> Array:
        """Width of every shell, from the curvature here."""
        sampler, target = self.sampler, self.sampler.target
        size = len(coordinates)
        old = np.asarray(self.frame.width)
        frame = target.diagonal_frame(old, coordinates, np.eye(size))
        curvature = sampler.probe(
            tf.constant(target.state(white_noise, coordinates, frame)),
            target.tensors(frame),
            tf.constant(sampler.plan.inverse_temperature(sweep), tf.float64),
            self._fold(_NEVER + 1 + sweep),
            tf.constant(0.1, sampler.dtype),
        ).numpy()
        curvature = np.maximum(curvature, 1.0)
        variance = np.clip(1.0 + _WIDENING * np.log10(curvature), 1.0, 2.5) / curvature
        return np.append(np.sqrt(np.minimum(variance, 1.0)), 1.0)

    def _block_hessian(self) -> Array:
        size = self.sampler.target.block_size
        rows = []
        for first in range(0, size, 64):
            numbers = tf.range(first, min(first + 64, size))
            rows.append(self.sampler.rows(self.state, self.frame, numbers).numpy())
        return np.concatenate(rows).astype(np.float64)

    # --- sweeps ---------------------------------------------------------------------------------

    def advance(self, sweep: int) -> dict[str, Any]:
        """One sweep; returns what the chain file keeps of it."""
        sampler, plan = self.sampler, self.sampler.plan
        if sweep in (*plan.annealing, *plan.settling, *plan.learning):
            self.open_window(sweep)
        used = float(find_innermost(self.results, "step_size")) / sampler.root
        seed = self._fold(sweep)
        if sweep < plan.frozen:
            goal = sampler.settings.energy_error
            if sweep < plan.learning[1]:
                # on the way to where the posterior is
                goal = max(goal, _FIRST_LEARNING_ERROR)
            if sweep < plan.learning[0]:
                goal = max(goal, _COARSE_ERROR)
            self.state, self.results, self.visits, error = sampler.adapt(
                self.state,
                self.results,
                self.visits,
                self.frame,
                tf.constant(plan.inverse_temperature(sweep), tf.float64),
                tf.constant(goal, tf.float64),
                seed,
            )
        else:
            self.state, self.results, error = sampler.sample(
                self.state, self.results, self.frame, seed
            )
        white_noise, _, theta = sampler.unwhiten(self.state, self.frame)
        initial = sampler.linear(white_noise).numpy()
        if sweep >= sampler.settings.num_warmup:
            self.moments.add(initial=initial, final=sampler.evolved(white_noise).numpy())
        taken = float(np.isfinite(error))
        return {
            "theta": theta.numpy(),
            "log_posterior": float(sampler.log_posterior(self.state, self.frame)),
            "acceptance": [taken, taken],
            "step_size": [used, used],
            "energy_error": float(error),
            "power": power_spectrum(initial, sampler.posterior.grid).power,
            "white_noise": white_noise.numpy(),
            **sampler.watched(white_noise, theta),
        }

    # --- checkpoints ----------------------------------------------------------------------------

    def to_checkpoint(self) -> dict[str, Array]:
        """All that is needed to go on, by name."""
        everything = [self.state, self.frame, self.results, self.visits]
        flat = tf.nest.flatten(everything, expand_composites=True)
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
        self.state, self.frame, self.results, self.visits = tf.nest.pack_sequence_as(
            structure, flat, expand_composites=True
        )
        self.moments.from_checkpoint(arrays, f"{self.number}/")

    def _named(self, flat_state: list[Array]) -> dict[str, Array]:
        parts = {f"state/{i}": value for i, value in enumerate(flat_state)}
        parts |= self.moments.to_checkpoint()
        return {f"{self.number}/{name}": value for name, value in parts.items()}
