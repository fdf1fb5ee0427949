"""The parameters with which a chain starts and settles, and so the mode it is in.

The posterior of the bias parameters has several modes (`docs/inference.md`). A field that has
adapted to the parameters of one refuses those of another, so that the first fits decide for the
whole run. Chains that are to be compared start from one fit: random starts at the first field of
chain 0, the best of which every chain follows, field by field. Chains that are free each take what
their own random starts find.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from npe_tf.bias.neural import possible_psi
from npe_tf.posterior import FieldPosterior
from npe_tf.pretraining import Pretrained, pretrain

__all__ = ["ChainFits"]

Array = NDArray[Any]

_NUM_STEPS = 150


class ChainFits:
    """Fits of the parameters to the fields of a chain.

    Args:
        posterior: gives model, likelihood and prior.
        psi: one of `npe_tf.bias.neural.PSI`.
        seed: of the run.
        number: of the chain.

    Attributes:
        psi: what is asked of the network, ``"free"`` if it has no such psi.
    """

    def __init__(self, posterior: FieldPosterior, psi: str, seed: int, number: int) -> None:
        """Keep the arguments."""
        self.psi = possible_psi(psi, posterior.bias.parameters.names)
        self._posterior = posterior
        self._seed = seed
        self._number = number

    def at_first(
        self, delta: Array, theta: Array | None, num_starts: int = 1, num_polish: int = 100
    ) -> Pretrained:
        """Fit to haloes that are moved to where a field is dense that knows nothing of them.

        Args:
            delta: first overdensity of this chain, `[N, N, N]`.
            theta: where to start, `[P]`; `None` for random starts.
            num_starts: how many random starts, if there are any.
            num_polish: most L-BFGS iterations of each start.
        """
        moved = self._posterior.likelihood.abundance_matched(delta)
        if theta is None:
            return self._fit(delta, moved, 0, num_starts, num_polish)
        return self._near(theta, delta, moved, 0, num_starts, num_polish)

    def of_field(
        self, delta: Array, sweep: int, theta: Array | None, num_starts: int, num_polish: int
    ) -> Pretrained:
        """Fit to a field that has adapted to the haloes.

        Args:
            delta: overdensity `[N, N, N]`.
            sweep: for the random starts.
            theta: where to start, `[P]`; `None` for random starts.
            num_starts: how many random starts, if there are any.
            num_polish: most L-BFGS iterations of each start.
        """
        likelihood = self._posterior.likelihood
        if theta is None:
            return self._fit(delta, likelihood, sweep, num_starts, num_polish)
        return self._near(theta, delta, likelihood, sweep, num_starts, num_polish)

    def _near(
        self,
        theta: Array,
        delta: Array,
        likelihood: Any,
        sweep: int,
        num_starts: int,
        num_polish: int,
    ) -> Pretrained:
        """Follow parameters, or leave them where they lose a component or psi turns."""
        fitted = self._fit(delta, likelihood, sweep, 1, num_polish, theta)
        (start,) = fitted.starts
        if start.is_wanted and not start.is_dead:
            return fitted
        return self._fit(delta, likelihood, sweep, num_starts, num_polish)

    def _fit(
        self,
        delta: Array,
        likelihood: Any,
        sweep: int,
        num_starts: int,
        num_polish: int,
        theta: Array | None = None,
    ) -> Pretrained:
        words = [self._seed, self._number, sweep]
        return pretrain(
            self._posterior.bias,
            likelihood,
            delta,
            num_steps=_NUM_STEPS if theta is None else 0,
            num_polish=num_polish,
            num_starts=num_starts,
            initial_theta=theta,
            prior_scale=self._posterior.prior_scale,
            seed=int(np.random.SeedSequence(words).generate_state(1)[0]),
            psi=self.psi,
        )
