"""Quasi-Newton HMC whose inverse Hessian is learnt from other chains, exactly and for ever."""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf
import tensorflow_probability as tfp

from samplers.kernel import Kernel, argument
from samplers.parts import Parts, as_parts, like_state
from samplers.results import find_innermost, innermost_state, replace_innermost
from samplers.target import Tensor, stateless_seed

__all__ = ["QuasiNewtonEnsemble", "QuasiNewtonEnsembleResults"]


class QuasiNewtonEnsembleResults(NamedTuple):
    """Results of `QuasiNewtonEnsemble`.

    Attributes:
        half_results: results of the inner kernel for the first and the second half of the chains.
        target_log_prob: log density of all chains, `[chains, ...]`.
        is_accepted: whether each moved, `[chains, ...]`.
    """

    half_results: tuple[Any, Any]
    target_log_prob: Tensor
    is_accepted: Tensor


class QuasiNewtonEnsemble(Kernel):
    """Two halves of an ensemble of chains, each moved with the curvature that the other one sees.

    The joint density of all chains is the product of their targets. One half moves with a B that
    is a function of where the other half stands, which does not move meanwhile: given that half, B
    is a constant, so the step leaves the product invariant, and so does that of the other half
    with a B from the new places of the first. Nothing needs to be frozen, and B follows the chains
    wherever they go.

    The pairs are the differences of places and of gradients from one chain to the next of the other
    half; with n chains there are n/2 - 1 of them, so that the ensemble should have more than twice
    as many chains as the target has dimensions.

    Args:
        inner_kernel: `QuasiNewtonHMC` with a shared `LimitedMemoryInverseHessian`, or a wrapper
            around it, such as a step size adaptation.
        name: prefix of the names of operations.

    Raises:
        ValueError: if the inverse Hessian is not one history for all chains.
    """

    def __init__(self, inner_kernel: Any, name: str | None = None) -> None:
        """Check the arguments and keep them; the class says what they are."""
        innermost = inner_kernel
        while "inner_kernel" in innermost.parameters:
            innermost = innermost.parameters["inner_kernel"]
        self._inverse_hessian = innermost.parameters.get("inverse_hessian")
        if not getattr(self._inverse_hessian, "shared", False):
            raise ValueError(
                "Invalid value for argument `inner_kernel`. Expected a kernel whose "
                "`inverse_hessian` is a limited-memory one with shared=True. Received: "
                f"inverse_hessian={self._inverse_hessian!r}"
            )
        self._parameters: dict[str, Any] = {"inner_kernel": inner_kernel, "name": name}

    inner_kernel = argument("inner_kernel", "The kernel that moves each half.")

    @property
    def is_calibrated(self) -> bool:
        """Whether the inner kernel is."""
        calibrated: bool = self.inner_kernel.is_calibrated
        return calibrated

    def one_step(
        self,
        current_state: Any,
        previous_kernel_results: QuasiNewtonEnsembleResults,
        seed: Tensor = None,
    ) -> tuple[Any, QuasiNewtonEnsembleResults]:
        """Move the first half, then the second.

        Args:
            current_state: `[chains, ..., d]`, or a list of parts.
            previous_kernel_results: results of the step before, or of `bootstrap_results`.
            seed: stateless seed.

        Returns:
            The next state and the results.
        """
        with tf.name_scope((self.name or "quasi_newton_ensemble") + "_one_step"):
            halves = self._halves(current_state)
            results = list(previous_kernel_results.half_results)
            seeds = tfp.random.split_seed(stateless_seed(seed), n=2)
            for own, other in ((0, 1), (1, 0)):
                history = self._history(halves[other], results[other])
                fixed = replace_innermost(results[own], "inverse_hessian", history)
                halves[own], results[own] = self.inner_kernel.one_step(
                    halves[own], fixed, seed=seeds[own]
                )
            return self._whole(current_state, halves), self._results(results)

    def bootstrap_results(self, init_state: Any) -> QuasiNewtonEnsembleResults:
        """Start the inner kernel for both halves.

        Raises:
            ValueError: if the number of chains is odd or less than four.
        """
        with tf.name_scope((self.name or "quasi_newton_ensemble") + "_bootstrap_results"):
            return self._results(
                [self.inner_kernel.bootstrap_results(half) for half in self._halves(init_state)]
            )

    def _halves(self, state: Any) -> list[Any]:
        parts = as_parts(state)
        for part in parts:
            chains = part.shape[0] if part.shape.rank else None
            if chains is None or chains < 4 or chains % 2:
                raise ValueError(
                    "Invalid value for argument `current_state`. Expected an even number of at "
                    f"least 4 chains along the first axis. Received: shape={part.shape}"
                )
        return [
            like_state(state, [tf.split(part, 2, axis=0)[half] for part in parts])
            for half in (0, 1)
        ]

    def _whole(self, state: Any, halves: list[Any]) -> Any:
        parts = [as_parts(half) for half in halves]
        return like_state(state, [tf.concat(pair, axis=0) for pair in zip(*parts, strict=True)])

    def _history(self, state: Any, results: Any) -> Any:
        """What one half knows of the curvature."""
        gradients = find_innermost(results, "grads_target_log_prob")
        log_prob = find_innermost(results, "target_log_prob")
        parts = as_parts(innermost_state(results, state))
        layout = Parts(parts, log_prob.shape.rank, self._inverse_hessian)
        places, slopes = layout.join(parts), layout.join(gradients)
        return self._inverse_hessian.update(
            self._inverse_hessian.initial(places),
            places[1:] - places[:-1],
            slopes[:-1] - slopes[1:],
        )

    def _results(self, results: list[Any]) -> QuasiNewtonEnsembleResults:
        log_probs = [find_innermost(half, "target_log_prob") for half in results]
        accepted = [_found_or_true(half, "is_accepted", log_probs[0]) for half in results]
        return QuasiNewtonEnsembleResults(
            half_results=(results[0], results[1]),
            target_log_prob=tf.concat(log_probs, axis=0),
            is_accepted=tf.concat(accepted, axis=0),
        )


def _found_or_true(results: Any, field: str, like: Tensor) -> Tensor:
    """A field of nested results, or true where a kernel without accept-reject has none."""
    try:
        return find_innermost(results, field)
    except ValueError:
        return tf.ones_like(like, tf.bool)
