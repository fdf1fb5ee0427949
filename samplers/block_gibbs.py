"""Gibbs sampling in blocks, each with a transition kernel of its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from samplers.kernel import Kernel, argument
from samplers.results import find_innermost, find_outermost, merge_fields
from samplers.target import TargetLogProbFn, Tensor, stateless_seed

__all__ = ["Block", "BlockGibbs", "BlockGibbsResults", "refresh_target"]

# What TFP's kernels and those of this package remember of a target at the current state.
_TARGET_FIELDS = frozenset(
    {
        "target_log_prob",
        "grads_target_log_prob",
        # tfp.mcmc.MetropolisAdjustedLangevinAlgorithm
        "diffusion_drift",
        "volatility",
        "grads_volatility",
    }
)


def refresh_target(previous: Any, fresh: Any) -> Any:
    """Renew what kernel results remember of the target and keep all else.

    Step sizes, curvature, counters and the state of adaptations stay; log densities, gradients and
    drifts are renewed, at every depth.

    Args:
        previous: kernel results of the block's last visit.
        fresh: results of `bootstrap_results` for the same state under the present target.

    Returns:
        Kernel results to step from.

    Raises:
        ValueError: for results of `tfp.mcmc.ReplicaExchangeMC`. Its hot replicas keep places that
            belong to where the other blocks were, and which these do not see when they move, so
            that no refreshing would leave the joint density invariant.
    """
    if _has_replicas(previous):
        raise ValueError(
            "Invalid value for argument `make_kernel`. Expected a kernel whose state is all it "
            "knows of places. Received: one that exchanges replicas, "
            f"with results {type(previous).__name__}"
        )
    return merge_fields(previous, fresh, _TARGET_FIELDS)


def _has_replicas(results: Any) -> bool:
    try:
        find_outermost(results, "post_swap_replica_states")
    except ValueError:
        return False
    return True


@dataclasses.dataclass(frozen=True)
class Block:
    """One block of a Gibbs sampler.

    Attributes:
        name: unique name.
        make_kernel: builds the block's transition kernel for a target, a callable of the block's
            part alone.
        make_target: builds that target from all parts; it may compute whatever depends on the
            other blocks only, once per visit. Any function of the part that differs from the
            joint log density by a constant will do. By default the joint log density with the
            other parts held fixed.
        num_steps: number of steps of the kernel per visit.
        refresh: merges the results of the last visit with fresh ones. The default knows TFP's
            kernels; a kernel that remembers the target under other names needs its own.
    """

    name: str
    make_kernel: Callable[[TargetLogProbFn], Any]
    make_target: Callable[..., TargetLogProbFn] | None = None
    num_steps: int = 1
    refresh: Callable[[Any, Any], Any] = refresh_target

    def __post_init__(self) -> None:
        """Refuse what cannot be stepped."""
        if not isinstance(self.name, str) or not self.name:
            raise ValueError(
                "Invalid value for argument `name`. Expected a non-empty string. "
                f"Received: name={self.name!r}"
            )
        if not callable(self.make_kernel):
            raise ValueError(
                "Invalid value for argument `make_kernel`. Expected a callable. "
                f"Received: make_kernel={self.make_kernel!r}"
            )
        if (
            isinstance(self.num_steps, bool)
            or not isinstance(self.num_steps, (int, np.integer))
            or self.num_steps < 1
        ):
            raise ValueError(
                "Invalid value for argument `num_steps`. Expected a positive integer. "
                f"Received: num_steps={self.num_steps!r}"
            )


class BlockGibbsResults(NamedTuple):
    """Results of `BlockGibbs`.

    Attributes:
        block_results: results of each block's kernel, in the order of the blocks.
        target_log_prob: the last block's log density at the new state; the joint one unless that
            block makes its own target.
    """

    block_results: tuple[Any, ...]
    target_log_prob: Tensor


class BlockGibbs(Kernel):
    """Visits blocks in turn, stepping each with its own kernel given all others.

    The state is a list (or tuple, or namedtuple) with one part per block. When a block's turn
    comes the others have moved, so that the log density and the gradient its kernel remembers are
    stale: they are evaluated anew, one gradient per visit, before the kernel steps.

    Args:
        target_log_prob_fn: the joint log density, a callable of all parts in order; `None` if every
            block makes its own target.
        blocks: the blocks, in the order of the parts and of the visits.
        name: prefix of the names of operations.

    Raises:
        ValueError: if there is no block, two share a name, or a block has no target.
    """

    def __init__(
        self,
        target_log_prob_fn: TargetLogProbFn | None,
        blocks: Sequence[Block],
        name: str | None = None,
    ) -> None:
        """Check the arguments and keep them; the class says what they are."""
        names = [block.name for block in blocks]
        if not names or len(set(names)) != len(names):
            raise ValueError(
                "Invalid value for argument `blocks`. Expected at least one block, each with a "
                f"name of its own. Received: {names}"
            )
        if target_log_prob_fn is None:
            missing = [block.name for block in blocks if block.make_target is None]
            if missing:
                raise ValueError(
                    "Invalid value for argument `target_log_prob_fn`. Expected a callable, as "
                    f"these blocks make no target: {missing}. Received: target_log_prob_fn=None"
                )
        elif not callable(target_log_prob_fn):
            raise ValueError(
                "Invalid value for argument `target_log_prob_fn`. Expected a callable or None. "
                f"Received: target_log_prob_fn={target_log_prob_fn!r}"
            )
        self._parameters: dict[str, Any] = {
            "target_log_prob_fn": target_log_prob_fn,
            "blocks": blocks,
            "name": name,
        }

    blocks = argument("blocks", "The blocks.")

    def copy(self, **override: Any) -> BlockGibbs:
        """The same kernel with some arguments replaced.

        Raises:
            ValueError: if the joint log density is replaced while blocks keep targets of their
                own. `tfp.mcmc.TransformedTransitionKernel` does so; around the kernels of the
                blocks it transforms those targets too.
        """
        own = [block.name for block in self.blocks if block.make_target is not None]
        if "target_log_prob_fn" in override and "blocks" not in override and own:
            raise ValueError(
                "Invalid value for argument `blocks`. Expected blocks that follow the new "
                f"`target_log_prob_fn`. Received: blocks that make their own target: {own}"
            )
        copied: BlockGibbs = super().copy(**override)
        return copied

    @property
    def is_calibrated(self) -> bool:
        """Whether the kernels of all blocks are."""

        def unused(*parts: Tensor) -> Tensor:
            raise ValueError("A kernel evaluated its target while it was made.")

        return all(block.make_kernel(unused).is_calibrated for block in self.blocks)

    def one_step(
        self,
        current_state: Sequence[Tensor],
        previous_kernel_results: BlockGibbsResults,
        seed: Tensor = None,
    ) -> tuple[Any, BlockGibbsResults]:
        """Visit every block once.

        Args:
            current_state: one part per block.
            previous_kernel_results: results of the step before, or of `bootstrap_results`.
            seed: stateless seed.

        Returns:
            The next state, in the container of the current one, and the results.
        """
        parts = self._parts(current_state)
        block_results = list(previous_kernel_results.block_results)
        seeds = tfp.random.split_seed(stateless_seed(seed), n=len(parts))
        with tf.name_scope((self.name or "block_gibbs") + "_one_step"):
            for i, block in enumerate(self.blocks):
                with tf.name_scope(block.name):
                    kernel = block.make_kernel(self._conditional(i, parts))
                    results = block.refresh(block_results[i], kernel.bootstrap_results(parts[i]))
                    parts[i], block_results[i] = _steps(
                        kernel, block.num_steps, parts[i], results, seeds[i]
                    )
        return _pack(current_state, parts), self._results(block_results)

    def bootstrap_results(self, init_state: Sequence[Tensor]) -> BlockGibbsResults:
        """Start every block's kernel at the initial state."""
        parts = self._parts(init_state)
        with tf.name_scope((self.name or "block_gibbs") + "_bootstrap_results"):
            return self._results(
                [
                    block.make_kernel(self._conditional(i, parts)).bootstrap_results(parts[i])
                    for i, block in enumerate(self.blocks)
                ]
            )

    def _parts(self, state: Any) -> list[Any]:
        if not isinstance(state, (list, tuple)) or len(state) != len(self.blocks):
            raise ValueError(
                "Invalid value for argument `current_state`. Expected a list with a part for each "
                f"of the blocks {[block.name for block in self.blocks]}. Received: {state!r}"
            )
        return [tf.nest.map_structure(tf.convert_to_tensor, part) for part in state]

    def _conditional(self, index: int, parts: Sequence[Any]) -> TargetLogProbFn:
        # In a graph the other parts were computed from this one, by the visits before. Kernels that
        # differentiate the whole graph (TFP's do) would follow that path without the stop.
        fixed = [tf.nest.map_structure(tf.stop_gradient, part) for part in parts]
        make_target = self.blocks[index].make_target
        if make_target is not None:
            return make_target(*fixed)
        joint = self._parameters["target_log_prob_fn"]
        before, after = fixed[:index], fixed[index + 1 :]

        def conditional(*part: Tensor) -> Tensor:
            # Kernels spread a part that is a list over the arguments of their target.
            own = part[0] if not isinstance(parts[index], (list, tuple)) else list(part)
            return joint(*before, own, *after)

        return conditional

    @staticmethod
    def _results(block_results: Sequence[Any]) -> BlockGibbsResults:
        return BlockGibbsResults(
            block_results=tuple(block_results),
            target_log_prob=find_innermost(block_results[-1], "target_log_prob"),
        )


def _steps(kernel: Any, num_steps: int, state: Any, results: Any, seed: Tensor) -> tuple[Any, Any]:
    if num_steps == 1:
        return kernel.one_step(state, results, seed=seed)

    def body(step: Tensor, state: Any, results: Any) -> tuple[Any, ...]:
        own = tf.random.experimental.stateless_fold_in(seed, step)
        return (step + 1, *kernel.one_step(state, results, seed=own))

    _, state, results = tf.while_loop(
        lambda step, *_: step < num_steps, body, (tf.constant(0), state, results)
    )
    return state, results


def _pack(like: Any, parts: list[Any]) -> Any:
    return like._make(parts) if hasattr(like, "_make") else type(like)(parts)
