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
import tensorflow as tf
import tensorflow_probability as tfp
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "ParameterRow",
    "bulk_ess",
    "effective_sample_size",
    "format_table",
    "parameter_table",
    "rank_normalised_rhat",
    "split_rhat",
    "tail_ess",
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
    return _per_quantity(_samples(samples), _effective_sample_size)


def _effective_sample_size(block: Array) -> Any:
    return tfp.mcmc.effective_sample_size(
        block if block.shape[1] > 1 else block[:, 0],
        filter_beyond_positive_pairs=True,
        cross_chain_dims=1 if block.shape[1] > 1 else None,
    )


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
        # TensorFlow Probability gives the ratio of variances.
        return np.sqrt(tfp.mcmc.potential_scale_reduction(_split(block)))

    return _per_quantity(_samples(samples), diagnose)


def _ratio_of_deviations(halves: Array) -> Array:
    """Of all draws to those within chains, without Brooks and Gelman's correction."""
    within = halves.var(axis=0, ddof=1).mean(axis=0)
    between = halves.mean(axis=0).var(axis=0, ddof=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.sqrt((len(halves) - 1) / len(halves) + between / within))


def _split(block: Array) -> Array:
    """Halves of chains as chains, `[S/2, 2C, n]`; of an odd S the last draw is left out."""
    half = block.shape[0] // 2
    return np.concatenate([block[:half], block[half : 2 * half]], axis=1)


def _rank_normalised(block: Array) -> Array:
    """Normal scores of the ranks among all draws of all chains, equal values sharing theirs."""
    flat = block.reshape(-1, block.shape[-1])
    ranks = np.empty_like(flat)
    for column in range(flat.shape[1]):
        _, where, counts = np.unique(flat[:, column], return_inverse=True, return_counts=True)
        ranks[:, column] = (np.cumsum(counts) - (counts - 1) / 2.0)[where]
    scores = tf.math.ndtri((ranks - 0.375) / (len(flat) + 0.25))
    return np.asarray(scores).reshape(block.shape)


def rank_normalised_rhat(samples: ArrayLike) -> Array:
    """Compare the halves of all chains by their ranks: in place and in spread.

    The larger of split R-hat of the rank-normalised draws and of their rank-normalised distances
    from the median (Vehtari et al. 2021, Bayesian Analysis 16, 667). It also sees chains that
    differ in width only, and does not need moments that are finite. Their limit is 1.01.

    Args:
        samples: draws, `[S, C, ...]`.

    Returns:
        R-hat of each quantity, `[...]`; NaN where `effective_sample_size` is.
    """

    def diagnose(block: Array) -> Any:
        halves = _split(block)
        folded = np.abs(halves - np.median(halves, axis=(0, 1)))
        return np.maximum(
            _ratio_of_deviations(_rank_normalised(halves)),
            _ratio_of_deviations(_rank_normalised(folded)),
        )

    return _per_quantity(_samples(samples), diagnose)


def bulk_ess(samples: ArrayLike) -> Array:
    """Effective sample size of the rank-normalised halves of chains (Vehtari et al. 2021).

    Args:
        samples: draws, `[S, C, ...]`.

    Returns:
        As `effective_sample_size`.
    """
    return _per_quantity(
        _samples(samples), lambda block: _effective_sample_size(_rank_normalised(_split(block)))
    )


def tail_ess(samples: ArrayLike) -> Array:
    """Effective sample size for the 5th and 95th percentiles, the smaller (Vehtari et al. 2021).

    Args:
        samples: draws, `[S, C, ...]`.

    Returns:
        As `effective_sample_size`.
    """

    def diagnose(block: Array) -> Any:
        halves = _split(block)
        sizes = [
            _effective_sample_size(np.where(halves <= limit, 1.0, 0.0))
            for limit in np.quantile(halves, (0.05, 0.95), axis=(0, 1))
        ]
        # where few draws hardly cross a percentile there is no number, and that is bad enough
        return np.nan_to_num(np.minimum(*sizes), nan=1.0)

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
        ess: bulk effective sample size of all chains together.
        tail: effective sample size of the tails.
        rhat: rank-normalised split R-hat.
    """

    name: str
    mean: float
    sd: float
    q05: float
    q50: float
    q95: float
    ess: float
    tail: float
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
        bulk_ess(draws),
        tail_ess(draws),
        rank_normalised_rhat(draws),
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
    header = ["parameter", "mean", "sd", "5%", "50%", "95%", "ESS", "tail", "R-hat"]
    formats = [".4g"] * 5 + [".0f", ".0f", ".3f"]
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
