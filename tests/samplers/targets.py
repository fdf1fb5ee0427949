"""Targets with exact draws, and the test that says whether a kernel leaves them alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

Array = NDArray[np.float64]

_Function = TypeVar("_Function", bound=Callable[..., Any])

_SHAPE_PARAMETER = 3.0
_MIXING = np.array([[1.0, 0.0, 0.0], [0.7, 0.5, 0.0], [-1.2, 0.4, 2.0]])


def skewed_draws(rng: np.random.Generator, count: int) -> Array:
    """Exact draws of a skewed, curved and correlated density in three dimensions."""
    first = np.log(rng.gamma(_SHAPE_PARAMETER, size=count))
    second = 0.5 * first**2 + rng.normal(size=count)
    third = rng.normal(size=count)
    return np.asarray(np.stack([first, second, third], -1) @ _MIXING.T)


def skewed_log_prob(x: Any) -> Any:
    """Log density of `skewed_draws`, up to a constant."""
    z = tf.linalg.matvec(tf.constant(np.linalg.inv(_MIXING), x.dtype), x)
    first, second, third = z[..., 0], z[..., 1], z[..., 2]
    return (
        _SHAPE_PARAMETER * first
        - tf.exp(first)
        - 0.5 * (second - 0.5 * first**2) ** 2
        - 0.5 * third**2
    )


def skewed_field_draws(rng: np.random.Generator, count: int, cells: int) -> Array:
    """Fields of independent skewed cells."""
    return np.asarray(np.log(rng.gamma(_SHAPE_PARAMETER, size=(count, cells))))


def skewed_field_log_prob(x: Any) -> Any:
    """Log density of `skewed_field_draws`."""
    return tf.reduce_sum(_SHAPE_PARAMETER * x - tf.exp(x), -1)


def cooled(log_prob: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A target that is wrong by a tenth: its widths are five per cent too small."""
    return lambda x: 1.1 * log_prob(x)


def worst_z_score(before: Array, after: Array) -> float:
    """Largest z-score of a change of the moments of exact draws, chain by chain.

    `before` and `after` are `[chains, d]`; the features are all first, second and third moments
    of single coordinates and the products of neighbours.
    """
    mean, std = before.mean(0), before.std(0)

    def features(x: Array) -> Array:
        u = (x - mean) / std
        return np.concatenate([u, u**2, u**3, u * np.roll(u, 1, -1)], -1)

    change = features(after) - features(before)
    error = change.std(0) / np.sqrt(len(change))
    return float(np.abs(change.mean(0) / error).max())


def in_graph(function: _Function) -> _Function:
    """Compile into a graph, with the type kept."""
    compiled: _Function = tf.function(function, autograph=False)
    return compiled


def run(kernel: Any, state: Any, num_steps: int, seed: int = 0) -> tuple[Any, Any]:
    """Step a kernel in one graph; return the last state and its results."""
    results = kernel.bootstrap_results(state)

    @in_graph
    def step(state: Any, results: Any, step_seed: Any) -> Any:
        return kernel.one_step(state, results, seed=step_seed)

    for i in range(num_steps):
        own = tf.random.experimental.stateless_fold_in(tf.constant([seed, 1]), i)
        state, results = step(state, results, own)
    return state, results
