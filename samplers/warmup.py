"""Warming up quasi-Newton HMC in phases, until nothing is left to be set by hand.

1. Start: step size and curvature from nothing, in a short window.
2. Windows of doubling length, as in Stan (Carpenter et al. 2017): the curvature goes on learning
   from the trajectories, the step size starts anew in each window. At the end of the last one B may
   be set to the covariance of its draws.
3. Length: with curvature as it is, short runs of 1, 2, 3, ... leapfrog steps, as long as that pays.
   As in ChEES-HMC (Hoffman, Radul & Sountsov 2021) the squares count as well as the means, since a
   trajectory that returns to the mirror image of its start has not moved them. But the movement of
   the squared distance from the mean, which ChEES maximises, is a sum that fast directions win, and
   noisy: what is taken here is the length of the fewest gradients per independent draw, averaged
   over directions and their squares, with the autocorrelation of one step continued as a geometric
   series.
4. End: the step size for that number, with everything else frozen; a second burn-in as well.

What comes out is a kernel of which nothing changes any more, hence exact, and the states to start
it from.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
from numpy.typing import NDArray

from samplers.adaptation import QuasiNewtonAdaptation
from samplers.inverse_hessian import LimitedMemoryInverseHessian
from samplers.quasi_newton_hmc import QuasiNewtonHMC
from samplers.results import find_innermost, replace_innermost
from samplers.sampling import Run, sample
from samplers.target import TargetLogProbFn, stateless_seed

__all__ = ["WarmedUp", "warm_up"]


class WarmedUp(NamedTuple):
    """What a warm-up found.

    Attributes:
        kernel: a frozen `QuasiNewtonHMC` with step size, number of steps and curvature.
        state: of all chains, to start from.
        step_size: of the kernel.
        num_leapfrog_steps: of the kernel.
        curvature: of the kernel.
        num_gradients: gradients of each chain that the warm-up took.
        criterion: number of leapfrog steps to the independent draws per gradient that the third
            phase expects of it.
    """

    kernel: QuasiNewtonHMC
    state: Any
    step_size: float
    num_leapfrog_steps: int
    curvature: Any
    num_gradients: int
    criterion: dict[int, float]


def warm_up(
    target_log_prob_fn: TargetLogProbFn,
    state: Any,
    seed: Any,
    num_steps: int = 600,
    inverse_hessian: LimitedMemoryInverseHessian | None = None,
    initial_curvature: Any = None,
    initial_step_size: float = 0.1,
    target_accept_prob: float = 0.8,
    lengths: Sequence[int] = (1, 2, 3, 4, 6, 8, 12, 16, 24),
    curvature: str = "covariance",
    step_size_jitter: float = 0.2,
    jit_compile: bool = False,
    progress: bool = False,
) -> WarmedUp:
    """Find step size, trajectory length and curvature of quasi-Newton HMC.

    Args:
        target_log_prob_fn: maps states `[chains, ..., d]` (or parts) to log densities.
        state: where to start, with chains along the first axis; at least two, better dispersed.
        seed: stateless seed.
        num_steps: trajectories in all, about; 100 or more.
        inverse_hessian: by default one history for all chains, of twice the dimensions (at least
            20 and at most 200 pairs).
        initial_curvature: of the inverse Hessian, if something is known; by default B = 1.
        initial_step_size: to start with; it need not be good.
        target_accept_prob: wanted mean acceptance.
        lengths: numbers of leapfrog steps to choose from.
        curvature: "pairs": B is what the trajectories' pairs say; "covariance": after the windows
            B is the covariance of the draws of the last one, if they are more than 10 for each
            dimension and the inverse Hessian remembers as many pairs as there are dimensions.
        step_size_jitter: of the kernel; see `QuasiNewtonHMC`.
        jit_compile: whether XLA compiles the steps.
        progress: whether to write a line with the time left to standard error.

    Returns:
        The frozen kernel, the states, and what was found.

    Raises:
        ValueError: if an argument is out of range.
    """
    if (
        isinstance(num_steps, bool)
        or not isinstance(num_steps, (int, np.integer))
        or num_steps < 100
    ):
        raise ValueError(
            "Invalid value for argument `num_steps`. Expected an integer of at least 100. "
            f"Received: num_steps={num_steps!r}"
        )
    if not lengths or any(
        isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < 1 for n in lengths
    ):
        raise ValueError(
            "Invalid value for argument `lengths`. Expected positive integers. "
            f"Received: lengths={lengths!r}"
        )
    if curvature not in ("pairs", "covariance"):
        raise ValueError(
            'Invalid value for argument `curvature`. Expected "pairs" or "covariance". '
            f"Received: curvature={curvature!r}"
        )
    state = tf.nest.map_structure(tf.convert_to_tensor, state)
    parts = tf.nest.flatten(state)
    if any(part.shape.rank < 1 or (part.shape[0] or 0) < 2 for part in parts):
        raise ValueError(
            "Invalid value for argument `state`. Expected at least two chains along the first "
            f"axis. Received: shapes {[part.shape for part in parts]}"
        )
    if inverse_hessian is None:
        size = sum(int(np.prod(part.shape[1:])) for part in parts)
        inverse_hessian = LimitedMemoryInverseHessian(min(max(2 * size, 20), 200))
    kernels = _Kernels(
        target_log_prob_fn,
        inverse_hessian,
        initial_curvature,
        initial_step_size,
        target_accept_prob,
        step_size_jitter,
    )
    driver = _Driver(kernels, stateless_seed(seed), jit_compile, progress)
    middle = 4
    # half for the windows, a quarter for the choice of a length, the rest for both ends
    start, end, scan = num_steps // 10, num_steps // 5, num_steps // 4
    driver.learn(state, start, 2)
    window, left = max(num_steps // 16, 10), num_steps - start - end - scan
    while left > 0:
        # a last window that would be shorter than the one before is one with it
        count = left if left < 3 * window else window
        run = driver.learn(driver.state, count, middle)
        left, window = left - count, 2 * window
    if curvature == "covariance":
        driver.take_covariance(run, inverse_hessian)
    criterion = driver.scan(sorted(set(lengths)), scan)
    best = max(criterion, key=lambda n: criterion[n])
    driver.settle(best, end)
    kernel = kernels.frozen(driver.step_size, best, driver.curvature)
    return WarmedUp(
        kernel=kernel,
        state=driver.state,
        step_size=driver.step_size,
        num_leapfrog_steps=best,
        curvature=driver.curvature,
        num_gradients=driver.num_gradients,
        criterion=criterion,
    )


class _Kernels:
    """The kernels of the phases, each made once so that each is compiled once."""

    def __init__(
        self,
        target_log_prob_fn: TargetLogProbFn,
        inverse_hessian: LimitedMemoryInverseHessian,
        initial_curvature: Any,
        step_size: float,
        target_accept_prob: float,
        step_size_jitter: float,
    ) -> None:
        self._arguments: dict[str, Any] = {
            "target_log_prob_fn": target_log_prob_fn,
            "inverse_hessian": inverse_hessian,
            "step_size_jitter": step_size_jitter,
        }
        hmc = QuasiNewtonHMC(
            **self._arguments,
            initial_curvature=initial_curvature,
            step_size=step_size,
            num_leapfrog_steps=2,
            store_parameters_in_results=True,
        )
        for_ever = 2**30
        self.fixed_curvature = tfp.mcmc.DualAveragingStepSizeAdaptation(
            hmc, for_ever, target_accept_prob=target_accept_prob
        )
        self.learning = QuasiNewtonAdaptation(self.fixed_curvature, for_ever)

    def frozen(self, step_size: float, num_leapfrog_steps: int, curvature: Any) -> QuasiNewtonHMC:
        return QuasiNewtonHMC(
            **self._arguments,
            initial_curvature=curvature,
            step_size=step_size,
            num_leapfrog_steps=num_leapfrog_steps,
        )


class _Driver:
    """Where the chains are and what has been learnt."""

    def __init__(self, kernels: _Kernels, seed: Any, jit_compile: bool, progress: bool) -> None:
        self._kernels, self._seed = kernels, seed
        self._jit_compile, self._progress = jit_compile, progress
        self._phase = 0
        self.state: Any = None
        self.step_size: float = 0.0
        self.curvature: Any = None
        self.num_gradients = 0

    def learn(self, state: Any, num_steps: int, num_leapfrog_steps: int) -> Run:
        """Learn curvature and step size in one window."""
        return self._run(self._kernels.learning, state, num_steps, num_leapfrog_steps)

    def take_covariance(self, run: Run, inverse_hessian: LimitedMemoryInverseHessian) -> None:
        """Set B to the covariance of a window's draws, if they and the memory suffice.

        With n draws a tenth of n pseudo-draws of the present B keep it positive definite and tame
        the noise of directions that few draws have seen.
        """
        flat = _flat(run)
        count, size = flat.shape[0] * flat.shape[1], flat.shape[2]
        if count < 10 * size or inverse_hessian.memory < size or not inverse_hessian.shared:
            return
        flat = flat - flat.mean(axis=(0, 1))
        covariance = np.einsum("tci,tcj->ij", flat, flat) / count
        known = np.asarray(inverse_hessian.dense(self.curvature), np.float64)
        mixed = 0.9 * covariance + 0.1 * known
        dtype = self.curvature.steps.dtype
        self.curvature = inverse_hessian.from_dense(mixed, dtype)

    def settle(self, num_leapfrog_steps: int, num_steps: int) -> None:
        """Learn the step size, the curvature being what it is."""
        self._run(self._kernels.fixed_curvature, self.state, num_steps, num_leapfrog_steps)

    def scan(self, lengths: Sequence[int], num_steps: int) -> dict[int, float]:
        """Criterion of the lengths; each gets an equal share of the steps.

        The longer ones, which cost most, are left out once two in a row are worse by half than the
        best.
        """
        share = max(num_steps // len(lengths), 8)
        before, start = self.step_size, self.state
        runs: dict[int, NDArray[np.float64]] = {}
        criterion: dict[int, float] = {}
        for length in lengths:
            self.step_size = before
            run = self._run(self._kernels.fixed_curvature, start, share, length)
            # the step size settles in the first third
            runs[length] = _flat(run)[share // 3 :]
            criterion = _draws_per_gradient(runs)
            best = max(criterion.values())
            if all(value < 0.5 * best for value in list(criterion.values())[-2:]):
                break
        self.step_size = before
        return criterion

    def _run(self, kernel: Any, state: Any, num_steps: int, num_leapfrog_steps: int) -> Run:
        results = kernel.bootstrap_results(state)
        if self.curvature is not None:
            results = replace_innermost(results, "inverse_hessian", self.curvature)
            results = _with_step_size(results, self.step_size)
        count = tf.constant(num_leapfrog_steps, tf.int32)
        results = replace_innermost(results, "num_leapfrog_steps", count)
        self._phase += 1
        run = sample(
            kernel,
            num_steps,
            seed=tf.random.experimental.stateless_fold_in(self._seed, self._phase),
            previous=Run(None, None, state, results, 0),
            chunk_size=64,
            trace_fn=_nothing,
            jit_compile=self._jit_compile,
            progress=self._progress,
        )
        self.state = run.state
        self.curvature = find_innermost(run.kernel_results, "inverse_hessian")
        averaged = _step_size_results(run.kernel_results).log_averaging_step
        self.step_size = float(np.exp(np.asarray(tf.nest.flatten(averaged)[0])))
        self.num_gradients += num_steps * num_leapfrog_steps
        return run


def _nothing(_: Any, results: Any) -> Any:
    return ()


def _step_size_results(results: Any) -> Any:
    while not hasattr(results, "log_averaging_step"):
        results = results.inner_results
    return results


def _with_step_size(results: Any, step_size: float) -> Any:
    """Results of a step size adaptation that starts anew at a step size."""
    if not hasattr(results, "log_averaging_step"):
        inner = _with_step_size(results.inner_results, step_size)
        return results._replace(inner_results=inner)

    def filled(like: Any, value: float) -> Any:
        return tf.nest.map_structure(lambda x: tf.fill(tf.shape(x), tf.cast(value, x.dtype)), like)

    logarithm = math.log(step_size)
    step = filled(results.new_step_size, step_size)
    return results._replace(
        inner_results=replace_innermost(results.inner_results, "step_size", step),
        new_step_size=step,
        log_shrinkage_target=filled(results.log_shrinkage_target, math.log(10.0) + logarithm),
        log_averaging_step=filled(results.log_averaging_step, logarithm),
    )


def _flat(run: Run) -> NDArray[np.float64]:
    """Draws of all parts, `[draws, chains, d]`."""
    parts = [np.asarray(part, np.float64) for part in tf.nest.flatten(run.draws)]
    return np.concatenate([part.reshape(*part.shape[:2], -1) for part in parts], axis=-1)


def _draws_per_gradient(runs: dict[int, NDArray[np.float64]]) -> dict[int, float]:
    """Independent draws per gradient of runs of several lengths, from their moves of one step.

    Moments are those of all runs together, and so are the directions: the principal axes if there
    are ten draws for each, else the coordinates.
    """
    size = next(iter(runs.values())).shape[-1]
    every = np.concatenate([draws.reshape(-1, size) for draws in runs.values()])
    mean = every.mean(0)
    if len(every) >= 10 * size:
        variances, axes = np.linalg.eigh(np.atleast_2d(np.cov(every.T)))
        tiny = np.finfo(np.float64).tiny
        axes = axes / np.sqrt(np.maximum(variances, variances[-1] * 1e-30 + tiny))
    else:
        axes = np.diag(1.0 / np.where(every.std(0) > 0.0, every.std(0), 1.0))
    square_mean = np.square((every - mean) @ axes).mean(0)
    square_variance = np.square((every - mean) @ axes).var(0)
    found = {}
    for length, draws in runs.items():
        standard = (draws - mean) @ axes
        moves = np.square(np.diff(standard, axis=0)).mean((0, 1)) / 2.0
        square_moves = np.square(np.diff(np.square(standard), axis=0)).mean((0, 1)) / 2.0
        # 1 - autocorrelation; a stuck chain counts as one of a million draws per independent one
        distance = np.concatenate([moves / square_mean, square_moves / square_variance])
        distance = np.maximum(np.nan_to_num(distance, nan=1.0), 1e-6)
        # antithetic moves are worth no more than independence: others would pay for them
        draws_per_independent = np.maximum((2.0 - distance) / distance, 1.0)
        found[length] = float(1.0 / (length * draws_per_independent.mean()))
    return found
