"""What TFP's conventions ask of every transition kernel, once."""

from __future__ import annotations

from typing import Any

import tensorflow_probability as tfp

from samplers.target import Tensor, stateless_seed

__all__ = ["AdjustedKernel", "Kernel", "argument"]


def argument(name: str, doc: str) -> Any:
    """A read-only property of a `Kernel` for one of the constructor's arguments."""
    return property(lambda self: self.parameters[name], doc=doc)


class Kernel(tfp.mcmc.TransitionKernel):
    """A transition kernel that keeps the constructor's arguments as `parameters`.

    Subclasses set `_parameters` to exactly these, which `copy` relies on.
    """

    _parameters: dict[str, Any]

    @property
    def parameters(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return self._parameters

    @property
    def name(self) -> str | None:
        """Prefix of the names of operations."""
        name: str | None = self._parameters.get("name")
        return name


class AdjustedKernel(Kernel):
    """A proposal with `tfp.mcmc.MetropolisHastings` around it.

    Subclasses give the proposal to `_adjust`; its arguments become their own.
    """

    def _adjust(self, proposal: Kernel) -> None:
        self._impl = tfp.mcmc.MetropolisHastings(proposal)
        self._parameters = dict(proposal.parameters)

    @property
    def is_calibrated(self) -> bool:
        """True: the target is invariant."""
        return True

    def one_step(
        self, current_state: Any, previous_kernel_results: Any, seed: Tensor = None
    ) -> tuple[Any, Any]:
        """Propose the end of a trajectory and accept or reject it.

        Args:
            current_state: `[..., event]`, or a list of parts.
            previous_kernel_results: results of the step before, or of `bootstrap_results`.
            seed: stateless seed.

        Returns:
            The next state and the results of `tfp.mcmc.MetropolisHastings`.
        """
        step: tuple[Any, Any] = self._impl.one_step(
            current_state, previous_kernel_results, seed=stateless_seed(seed)
        )
        return step

    def bootstrap_results(self, init_state: Any) -> Any:
        """Evaluate the target at the initial state; see the proposal."""
        return self._impl.bootstrap_results(init_state)
