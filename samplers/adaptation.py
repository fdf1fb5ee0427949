"""Learning the inverse Hessian of quasi-Newton HMC while warming up."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from samplers.kernel import Kernel, argument
from samplers.parts import Parts, as_parts
from samplers.results import (
    find_innermost,
    find_outermost,
    innermost_state,
    replace_innermost,
)
from samplers.target import Tensor, stateless_seed

__all__ = ["QuasiNewtonAdaptation", "QuasiNewtonAdaptationResults"]


class QuasiNewtonAdaptationResults(NamedTuple):
    """Results of `QuasiNewtonAdaptation`.

    Attributes:
        inner_results: results of the inner kernel.
        step: number of steps taken, int32 scalar.
    """

    inner_results: Any
    step: Tensor


class QuasiNewtonAdaptation(Kernel):
    """Feeds the ends of each trajectory to the BFGS history, then freezes it.

    The pair is s = (proposed state - initial state) and y = minus the difference of the gradients
    of the log density, whether or not the proposal was accepted: both ends belong to the same
    target, also in a Gibbs sampler, and a rejected trajectory knows as much of the curvature. One
    that diverged does not: its far end is another place, and it is left out.

    While it adapts the chain is not invariant, as B depends on the chain's own past. After
    `num_adaptation_steps` the history never changes; draws count after a second, short burn-in.
    `QuasiNewtonEnsemble` adapts for ever and is exact.

    It may be wrapped in or wrap TFP's step size adaptations.

    Args:
        inner_kernel: `QuasiNewtonHMC`, or a wrapper around it.
        num_adaptation_steps: number of steps with adaptation, at least 0; `None` never to freeze,
            as in Charnock et al. 2020. Such a chain is biased (on a skewed target in three
            dimensions by a hundred standard errors) and `is_calibrated` says so; it is there to
            reproduce published results.
        scheme: "pooled": one history takes the pairs of all chains; "per_chain": every chain has
            its own, as in the paper. It must agree with `shared` of the inverse Hessian, from
            which it follows by default.
        max_energy_error: a trajectory whose energy changed by more than this [nats] gives no pair.
        name: prefix of the names of operations.

    Raises:
        ValueError: if `num_adaptation_steps` is negative, `scheme` is not the one of the inverse
            Hessian, `max_energy_error` is not positive, or the inverse Hessian cannot learn from
            pairs.
    """

    def __init__(
        self,
        inner_kernel: Any,
        num_adaptation_steps: Tensor | None,
        scheme: str | None = None,
        max_energy_error: float = 10.0,
        name: str | None = None,
    ) -> None:
        """Check the arguments and keep them; the class says what they are."""
        forever = num_adaptation_steps is None
        steps = None if forever else tf.get_static_value(num_adaptation_steps)
        if steps is not None and (
            np.ndim(steps) or np.asarray(steps).dtype.kind not in "iu" or steps < 0
        ):
            raise ValueError(
                "Invalid value for argument `num_adaptation_steps`. Expected a non-negative "
                f"integer. Received: num_adaptation_steps={num_adaptation_steps!r}"
            )
        if not max_energy_error > 0:
            raise ValueError(
                "Invalid value for argument `max_energy_error`. Expected a positive number. "
                f"Received: max_energy_error={max_energy_error!r}"
            )
        innermost = inner_kernel
        while "inner_kernel" in innermost.parameters:
            innermost = innermost.parameters["inner_kernel"]
        self._inverse_hessian = innermost.parameters.get("inverse_hessian")
        if not hasattr(self._inverse_hessian, "update"):
            raise ValueError(
                "Invalid value for argument `inner_kernel`. Expected a kernel whose "
                "`inverse_hessian` has an `update`. Received: "
                f"inverse_hessian={self._inverse_hessian!r}"
            )
        own = "pooled" if getattr(self._inverse_hessian, "shared", True) else "per_chain"
        if scheme not in (None, own):
            raise ValueError(
                f'Invalid value for argument `scheme`. Expected "{own}", as the inverse Hessian '
                f"is made for it, or None. Received: scheme={scheme!r}"
            )
        self._parameters = {
            "inner_kernel": inner_kernel,
            "num_adaptation_steps": num_adaptation_steps,
            "scheme": scheme,
            "max_energy_error": max_energy_error,
            "name": name,
        }

    inner_kernel = argument("inner_kernel", "The kernel whose curvature is learnt.")

    num_adaptation_steps = argument(
        "num_adaptation_steps", "Number of steps with adaptation; `None` if it never ends."
    )
    max_energy_error = argument(
        "max_energy_error", "Largest change of the energy of a trajectory that gives a pair."
    )

    @property
    def is_calibrated(self) -> bool:
        """Whether the inner kernel is and the history is frozen some day, when it holds."""
        calibrated: bool = self.inner_kernel.is_calibrated
        return calibrated and self.num_adaptation_steps is not None

    def one_step(
        self,
        current_state: Tensor,
        previous_kernel_results: QuasiNewtonAdaptationResults,
        seed: Tensor = None,
    ) -> tuple[Tensor, QuasiNewtonAdaptationResults]:
        """Take a step of the inner kernel and learn from its trajectory.

        Args:
            current_state: `[..., d]`, or a list of one.
            previous_kernel_results: results of the step before, or of `bootstrap_results`.
            seed: stateless seed.

        Returns:
            The next state and the results.
        """
        with tf.name_scope((self.name or "quasi_newton_adaptation") + "_one_step"):
            previous = previous_kernel_results
            gradients = find_innermost(previous.inner_results, "grads_target_log_prob")
            history = find_innermost(previous.inner_results, "inverse_hessian")
            new_state, inner_results = self.inner_kernel.one_step(
                current_state, previous.inner_results, seed=stateless_seed(seed)
            )
            ratio = find_outermost(inner_results, "log_accept_ratio")
            proposed_results = find_outermost(inner_results, "proposed_results")
            initial = as_parts(innermost_state(previous.inner_results, current_state))
            layout = Parts(initial, ratio.shape.rank, self._inverse_hessian)
            proposed = as_parts(find_outermost(inner_results, "proposed_state"))
            step = layout.join(proposed) - layout.join(initial)
            # false for NaN
            close = tf.abs(ratio) <= tf.cast(self.max_energy_error, ratio.dtype)
            updated = self._inverse_hessian.update(
                history,
                tf.where(close[..., tf.newaxis], step, tf.zeros_like(step)),
                layout.join(gradients) - layout.join(proposed_results.grads_target_log_prob),
            )
            if self.num_adaptation_steps is not None:
                adapting = previous.step < tf.cast(self.num_adaptation_steps, tf.int32)
                updated = tf.nest.map_structure(
                    lambda new, old: tf.where(adapting, new, old), updated, history
                )
            return new_state, QuasiNewtonAdaptationResults(
                inner_results=replace_innermost(inner_results, "inverse_hessian", updated),
                step=previous.step + 1,
            )

    def bootstrap_results(self, init_state: Tensor) -> QuasiNewtonAdaptationResults:
        """Start with the inner kernel's results at the initial state."""
        return QuasiNewtonAdaptationResults(
            inner_results=self.inner_kernel.bootstrap_results(init_state),
            step=tf.constant(0, tf.int32),
        )
