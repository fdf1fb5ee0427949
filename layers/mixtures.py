"""Sums over the components of a mixture: its density and its integral above a threshold.

The parameters are those of `MixtureDensity`: log amplitudes, means and scales, each `[..., T]` with
the components last. The leading shapes broadcast against each other and against that of x.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from layers.components import ComponentFamily

__all__ = ["integral", "log_integral", "log_intensity"]

Tensor = Any


def log_intensity(
    log_amplitude: Tensor,
    mean: Tensor,
    scale: Tensor,
    x: Tensor,
    family: ComponentFamily,
    threshold: Tensor,
) -> Tensor:
    """Log density of the mixture per unit x, log sum_t alpha_t f(x; mu_t, sigma_t).

    Args:
        log_amplitude: log alpha_t, `[..., T]`.
        mean: mu_t, `[..., T]`.
        scale: sigma_t > 0, `[..., T]`.
        x: where, `[...]`.
        family: f.
        threshold: where the components start, scalar.

    Returns:
        `[...]`, of the dtype of `log_amplitude`, which all arguments are converted to.
    """
    log_amplitude, mean, scale, x, threshold = _tensors(log_amplitude, mean, scale, x, threshold)
    terms = log_amplitude + family.log_density(x[..., tf.newaxis], mean, scale, threshold)
    return tf.reduce_logsumexp(terms, axis=-1)


def log_integral(
    log_amplitude: Tensor,
    mean: Tensor,
    scale: Tensor,
    family: ComponentFamily,
    threshold: Tensor,
    x: Tensor | None = None,
) -> Tensor:
    """Log of the mixture's integral above x, by default above the threshold.

    Args:
        log_amplitude: log alpha_t, `[..., T]`.
        mean: mu_t, `[..., T]`.
        scale: sigma_t > 0, `[..., T]`.
        family: of the components.
        threshold: where the components start, scalar.
        x: at or above the threshold, `[...]`.

    Returns:
        `[...]`, of the dtype of `log_amplitude`.
    """
    log_amplitude, mean, scale, threshold = _tensors(log_amplitude, mean, scale, threshold)
    above = threshold if x is None else tf.convert_to_tensor(x, mean.dtype)[..., tf.newaxis]
    terms = log_amplitude + family.log_survival(above, mean, scale, threshold)
    return tf.reduce_logsumexp(terms, axis=-1)


def integral(
    log_amplitude: Tensor,
    mean: Tensor,
    scale: Tensor,
    family: ComponentFamily,
    threshold: Tensor,
    x: Tensor | None = None,
) -> Tensor:
    """The mixture's integral above x, by default above the threshold.

    Args:
        log_amplitude: log alpha_t, `[..., T]`.
        mean: mu_t, `[..., T]`.
        scale: sigma_t > 0, `[..., T]`.
        family: of the components.
        threshold: where the components start, scalar.
        x: at or above the threshold, `[...]`.

    Returns:
        `[...]`, of the dtype of `log_amplitude`.
    """
    log_amplitude, mean, scale, threshold = _tensors(log_amplitude, mean, scale, threshold)
    above = threshold if x is None else tf.convert_to_tensor(x, mean.dtype)[..., tf.newaxis]
    terms = family.integral(log_amplitude, above, mean, scale, threshold)
    return tf.reduce_sum(terms, axis=-1)


def _tensors(first: Tensor, *others: Tensor) -> list[Tensor]:
    """Everything as tensors of the first one's dtype."""
    first = tf.convert_to_tensor(first)
    return [first, *(tf.convert_to_tensor(other, first.dtype) for other in others)]
