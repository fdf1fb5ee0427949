"""How well a chain has converged.

Samples are `[S, C, ...]`: S draws of each of C chains. How well its fields agree with the truth is
measured by `npe_tf.statistics`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow_probability as tfp
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "ParameterRow",
    "effective_sample_size",
    "format_table",
    "parameter_table",
    "split_rhat",
]

_FEWEST_DRAWS = 4  # split R-hat takes the variance of halves of at least two draws
_BLOCK = 1 << 22  # numbers analysed at a time, to bound the memory

Array = NDArray[np.float64]


def _samples(samples: ArrayLike) -> Array:
    array = np.asarray(samples)
    if array.ndim < 2 or 0 in array.shape:
        raise ValueError(
            "Invalid value for argument `samples`. Expected draws and chains, [S, C, ...], not "
            f"empty. Received: shape {array.shape}"
        )
    return array


@contextlib.contextmanager
def _without_cast_warnings() -> Iterator[None]:
    """Hide TensorFlow's warning of the complex-to-real cast in TFP's autocorrelation."""

    def keep(record: logging.LogRecord) -> bool:
        return "will discard the imaginary part" not in record.getMessage()

    logger = logging.getLogger("tensorflow")
    logger.addFilter(keep)
    try:
        yield
    finally:
        logger.removeFilter(keep)


def _per_quantity(samples: Array, diagnose: Callable[[Array], Any]) -> Array:
    """Apply `diagnose` to blocks of `[S, C, n]` in float64; NaN for too few draws."""
    draws, chains, *event = samples.shape
    flat = samples.reshape(draws, chains, -1)
    result = np.full(flat.shape[-1], np.nan)
    if draws >= _FEWEST_DRAWS:
        step = max(1, _BLOCK // (draws * chains))
        for start in range(0, result.size, step):
            block = flat[..., start : start + step].astype(np.float64)
            moving = np.ptp(block, axis=(0, 1)) > 0  # false for NaN too
            with _without_cast_warnings():
                value = np.asarray(diagnose(block))
            result[start : start + step] = np.where(moving, value, np.nan)
    return result.reshape(event)


def effective_sample_size(samples: ArrayLike) -> Array:
    """Estimate how many independent draws the chains are worth together.

    Geyer's initial positive sequence over all chains (Vehtari et al. 2021, Bayesian Analysis 16,
    667), so chains that disagree count for little.

    Args:
        samples: draws, `[S, C, ...]`.

    Returns:
        Effective sample size of each quantity, `[...]`; NaN, "not known", for one that never
        moves, is not finite or has fewer than four draws. Chains that jump to the other side at
        every draw can have more than S C.
    """

    def diagnose(block: Array) -> Any:
        return tfp.mcmc.effective_sample_size(
            block if block.shape[1] > 1 else block[:, 0],
            filter_beyond_positive_pairs=True,
            cross_chain_dims=1 if block.shape[1] > 1 else None,
        )

    return _per_quantity(_samples(samples), diagnose)


def split_rhat(samples: ArrayLike) -> Array:
    """Compare the halves of all chains: split R-hat, near one when they agree.

    Brooks and Gelman 1998 (J. Comput. Graph. Stat. 7, 434) over half chains, as a ratio of
    standard deviations, the scale on which the customary limits of 1.01 to 1.1 hold.

    Args:
        samples: draws, `[S, C, ...]`; one chain will do. Of an odd S the last draw is left out.

    Returns:
        R-hat of each quantity, `[...]`; NaN where `effective_sample_size` is.
    """

    def diagnose(block: Array) -> Any:
        even = block[: block.shape[0] // 2 * 2]
        # TensorFlow Probability gives the ratio of variances.
        return np.sqrt(tfp.mcmc.potential_scale_reduction(even, split_chains=True))

    return _per_quantity(_samples(samples), diagnose)


@dataclasses.dataclass(frozen=True)
class ParameterRow:
    """Summary of one parameter over all chains.

    Attributes:
        name: the parameter.
        mean: posterior mean.
        sd: posterior standard deviation.
        q05: 5th percentile.
        q50: median.
        q95: 95th percentile.
        ess: effective sample size of all chains together.
        rhat: split R-hat.
    """

    name: str
    mean: float
    sd: float
    q05: float
    q50: float
    q95: float
    ess: float
    rhat: float


def parameter_table(samples: ArrayLike, names: Sequence[str]) -> list[ParameterRow]:
    """Summarise the posterior of every parameter.

    Args:
        samples: draws, `[S, C, D]`.
        names: names of the D parameters.

    Returns:
        One row per parameter, in order.
    """
    draws = _samples(samples)
    if draws.ndim != 3 or draws.shape[-1] != len(names):
        raise ValueError(
            f"Invalid value for argument `samples`. Expected draws [S, C, D] of D={len(names)} "
            f"parameters. Received: shape {draws.shape}"
        )
    flat = draws.reshape(-1, len(names)).astype(np.float64)
    columns = [
        flat.mean(0),
        flat.std(0, ddof=1) if len(flat) > 1 else np.full(len(names), np.nan),
        *np.quantile(flat, (0.05, 0.5, 0.95), axis=0),
        effective_sample_size(draws),
        split_rhat(draws),
    ]
    return [
        ParameterRow(name, *map(float, row)) for name, *row in zip(names, *columns, strict=True)
    ]


def format_table(rows: Sequence[ParameterRow]) -> str:
    """Set the summary as plain text.

    Args:
        rows: the rows of `parameter_table`.

    Returns:
        Lines of equal width, the first one the header; "-" where a number is not known.
    """
    header = ["parameter", "mean", "sd", "5%", "50%", "95%", "ESS", "R-hat"]
    formats = [".4g"] * 5 + [".0f", ".3f"]
    lines = [header]
    for row in rows:
        name, *numbers = dataclasses.astuple(row)
        cells = [
            format(x, f) if np.isfinite(x) else "-" for x, f in zip(numbers, formats, strict=True)
        ]
        lines.append([name, *cells])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    texts = []
    for first, *others in lines:
        padded = [cell.rjust(w) for cell, w in zip(others, widths[1:], strict=True)]
        texts.append("  ".join([first.ljust(widths[0]), *padded]))
    return "\n".join(texts)
