"""Families of mixture components: what one component of a mixture looks like.

A component has a mean, a scale and an integral over everything above a threshold. The coordinate x
is a logarithm (of a halo's mass, say, masses in units of your choice), densities are per unit x,
and everything is in log space: exp(sigma^2 / 2), or a mass in units of a cut-off, overflows long
before the density is unreasonable.

`NormalComponents` and `PerMassNormalComponents` are the two readings of one mixture in Charnock et
al. 2020 (MNRAS 494, 50); `TaperedParetoComponents` is a power law with an exponential cut-off
(Kagan 2002, Geophys. J. Int. 148, 520). A family of your own is a subclass of `ComponentFamily`
with two methods.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from layers.arguments import invalid, one_of

__all__ = [
    "FAMILIES",
    "PARAMETERISATIONS",
    "ComponentFamily",
    "NormalComponents",
    "PerMassNormalComponents",
    "TaperedParetoComponents",
    "component_family",
    "family_config",
]

Tensor = Any

FAMILIES = ("normal", "tapered_pareto")
PARAMETERISATIONS = ("log_mass", "mass")

_SQRT2 = math.sqrt(2.0)
_LOG_2PI_HALF = 0.5 * math.log(2.0 * math.pi)
_NEWTON_STEPS = 6
_MOST_DOUBLINGS = 64


class ComponentFamily(abc.ABC):
    """One component of a mixture: its density above a threshold, and the integral of it.

    All arguments of the methods are tensors of one floating dtype that broadcast against each
    other, element by element. `mean` and `scale` > 0 mean what the family says they mean. The
    threshold is where the component starts, for families that start there; others ignore it.

    A subclass needs `log_density` and `log_survival`. With arguments of its own it also needs
    `get_config`, and to be saved with a model and read back without `custom_objects` the decorator
    `keras.saving.register_keras_serializable`. Two families are equal if they are of one class and
    one configuration.

    Attributes:
        name: of the family, in messages.
    """

    name: str = "custom"

    @abc.abstractmethod
    def log_density(self, x: Tensor, mean: Tensor, scale: Tensor, threshold: Tensor) -> Tensor:
        """Log density of the component per unit x, for x at or above the threshold."""

    @abc.abstractmethod
    def log_survival(self, x: Tensor, mean: Tensor, scale: Tensor, threshold: Tensor) -> Tensor:
        """Log of the density's integral from x to infinity, for x at or above the threshold.

        With ``x = threshold`` it is the component's whole contribution; it need not be zero there.
        """

    def integral(
        self, log_amplitude: Tensor, x: Tensor, mean: Tensor, scale: Tensor, threshold: Tensor
    ) -> Tensor:
        """exp(`log_amplitude`) times the density's integral from x to infinity.

        Amplitude and integral are joined in log space, where neither overflows without the other.
        A family may have a faster way.
        """
        return tf.exp(log_amplitude + self.log_survival(x, mean, scale, threshold))

    def inverse_log_survival(
        self, log_survival: Tensor, mean: Tensor, scale: Tensor, threshold: Tensor
    ) -> Tensor:
        """The x at or above the threshold where `log_survival` takes a given value.

        By bisection, after the interval has been doubled from one scale until it holds the
        solution; to the last digit or two of x, and without a gradient. A value above that at the
        threshold gives the threshold.

        Args:
            log_survival: values of `log_survival`, finite.
            mean: of the components.
            scale: of the components.
            threshold: of the components.

        Returns:
            x of the arguments' common shape.
        """
        target, mean, scale, threshold = _broadcast(log_survival, mean, scale, threshold)

        def is_below(x: Tensor) -> Tensor:
            return self.log_survival(x, mean, scale, threshold) > target

        def is_short(width: Tensor) -> Tensor:
            return tf.reduce_any(is_below(threshold + width))

        def widen(width: Tensor) -> tuple[Tensor]:
            return (tf.where(is_below(threshold + width), 2.0 * width, width),)

        def halve(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
            middle = low + 0.5 * (high - low)
            below = is_below(middle)
            return tf.where(below, middle, low), tf.where(below, high, middle)

        def always(*_: Tensor) -> bool:
            return True

        (width,) = tf.while_loop(is_short, widen, (scale,), maximum_iterations=_MOST_DOUBLINGS)
        low, high = tf.while_loop(
            always,
            halve,
            (threshold, threshold + width),
            maximum_iterations=8 * target.dtype.size,
        )
        return tf.stop_gradient(low + 0.5 * (high - low))

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments; none here."""
        return {}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> ComponentFamily:
        """Make the family from `get_config`."""
        return cls(**config)

    def __eq__(self, other: object) -> bool:
        """Whether class and configuration are the same."""
        return (
            isinstance(other, ComponentFamily)
            and type(self) is type(other)
            and self.get_config() == other.get_config()
        )

    def __hash__(self) -> int:
        """Equal families have equal hashes."""
        return hash(type(self))

    def __repr__(self) -> str:
        """The call that makes it."""
        arguments = ", ".join(f"{key}={value!r}" for key, value in self.get_config().items())
        return f"{type(self).__name__}({arguments})"


@keras.saving.register_keras_serializable(package="npe_tf_layers")
class NormalComponents(ComponentFamily):
    """Normal in x, N(x; mean, scale), of integral one over the whole axis.

    The integral above the threshold is less than one: with it an amplitude is the density of
    everything in the component, whether above the threshold or not. The threshold is not used, and
    the density goes on below it.
    """

    name = "normal"

    def log_density(self, x: Tensor, mean: Tensor, scale: Tensor, threshold: Tensor) -> Tensor:
        """Log of the normal density."""
        return -0.5 * tf.square((x - mean) / scale) - tf.math.log(scale) - _LOG_2PI_HALF

    def log_survival(self, x: Tensor, mean: Tensor, scale: Tensor, threshold: Tensor) -> Tensor:
        """Log of the normal's upper tail, erfc[(x - mean) / (sqrt 2 scale)] / 2."""
        return _log_upper_tail((x - mean) / (_SQRT2 * scale))

    def integral(
        self, log_amplitude: Tensor, x: Tensor, mean: Tensor, scale: Tensor, threshold: Tensor
    ) -> Tensor:
        """exp(`log_amplitude`) times the normal's upper tail.

        Nothing grows here, and the direct form costs half of the one in log space.
        """
        return tf.exp(log_amplitude) * (0.5 * tf.math.erfc((x - mean) / (_SQRT2 * scale)))

    def inverse_log_survival(
        self, log_survival: Tensor, mean: Tensor, scale: Tensor, threshold: Tensor
    ) -> Tensor:
        """The x at or above the threshold where `log_survival` takes a given value."""
        lower = (threshold - mean) / (_SQRT2 * scale)
        z = _inverse_log_upper_tail(log_survival, lower)
        return tf.maximum(mean + _SQRT2 * scale * z, threshold)


@keras.saving.register_keras_serializable(package="npe_tf_layers")
class PerMassNormalComponents(ComponentFamily):
    """Normals in log mass taken per unit mass, as in Charnock et al. 2020.

    Their n(M) = alpha exp(-mean) N(log M; mean, scale) (eq. 10, as their notebook has it) is, as a
    density in x = log M, a normal tilted by exp(x - mean), of integral exp(scale^2 / 2) over the
    whole axis. The threshold is not used, and the density goes on below it.
    """

    name = "per_mass_normal"

    def log_density(self, x: Tensor, mean: Tensor, scale: Tensor, threshold: Tensor) -> Tensor:
        """Log of exp(x - mean) N(x; mean, scale)."""
        offset = x - mean
        return offset - 0.5 * tf.square(offset / scale) - tf.math.log(scale) - _LOG_2PI_HALF

    def log_survival(self, x: Tensor, mean: Tensor, scale: Tensor, threshold: Tensor) -> Tensor:
        """Log of exp(scale^2 / 2) erfc[(x - mean - scale^2) / (sqrt 2 scale)] / 2."""
        square = tf.square(scale)
        return _log_upper_tail((x - mean - square) / (_SQRT2 * scale)) + 0.5 * square

    def inverse_log_survival(
        self, log_survival: Tensor, mean: Tensor, scale: Tensor, threshold: Tensor
    ) -> Tensor:
        """The x at or above the threshold where `log_survival` takes a given value."""
        square = tf.square(scale)
        lower = (threshold - mean - square) / (_SQRT2 * scale)
        z = _inverse_log_upper_tail(log_survival - 0.5 * square, lower)
        return tf.maximum(mean + square + _SQRT2 * scale * z, threshold)


@keras.saving.register_keras_serializable(package="npe_tf_layers")
class TaperedParetoComponents(ComponentFamily):
    """A power law with an exponential cut-off, normalised above the threshold.

    With x = log M, the threshold log m, the cut-off mass M_c = exp(mean) and the e-folding `scale`
    of the power law in log mass, the integral above M is

        S(M) = (M / m)^(-1 / scale) exp[-(M - m) / M_c],

    and the density -dS/dx = (1 / scale + M / M_c) S(M): the tapered Pareto distribution (Kagan
    2002, Geophys. J. Int. 148, 520; Kagan & Schoenberg 2001, J. Appl. Probab. 38A, 158), the law of
    the smaller of a Pareto and a shifted exponential variable. A mass function looks like this.
    S(m) = 1: an amplitude is the density of all that is above the threshold. A mean below the
    threshold leaves an exponential of width M_c above it.

    An x below the threshold, where nothing is, counts as the threshold. M / M_c is held below
    e^-2 times the largest number of the dtype (x - mean below 86 in float32, 707 in float64), so
    that value, gradient and curvature are finite where S is far too small for its logarithm.
    """

    name = "tapered_pareto"

    def log_density(self, x: Tensor, mean: Tensor, scale: Tensor, threshold: Tensor) -> Tensor:
        """Log of (1 / scale + M / M_c) S(M)."""
        x = tf.maximum(x, threshold)
        log_scale = tf.math.log(scale)
        log_hazard = tf.math.softplus(x - mean + log_scale) - log_scale
        return log_hazard + self.log_survival(x, mean, scale, threshold)

    def log_survival(self, x: Tensor, mean: Tensor, scale: Tensor, threshold: Tensor) -> Tensor:
        """Log S(M), zero at the threshold."""
        if x is threshold:
            # the integral over everything, on a whole mesh: it is one whatever the parameters are
            return tf.zeros_like(mean + scale + threshold)
        x = tf.maximum(x, threshold)
        distance, exponent = x - threshold, x - mean
        largest = math.log(exponent.dtype.max) - 2.0
        # -(M - m) / M_c as M / M_c (m / M - 1), which neither cancels nor overflows before it must
        taper = tf.exp(tf.minimum(exponent, largest)) * tf.math.expm1(-distance)
        return taper - distance / scale


def component_family(
    family: str | ComponentFamily | Mapping[str, Any] = "normal",
    parameterisation: str = "log_mass",
) -> ComponentFamily:
    """Find a family of components.

    Args:
        family: ``"normal"``, ``"tapered_pareto"``, a `ComponentFamily`, or what Keras makes of one
            when it saves it.
        parameterisation: what the mixture is a density per unit of: ``"log_mass"``, or ``"mass"``
            for `PerMassNormalComponents`; the latter exists for normals only.

    Returns:
        The family.

    Raises:
        ValueError: if there is no such family, or none in this parameterisation.
    """
    one_of("parameterisation", parameterisation, PARAMETERISATIONS)
    found: Any = family
    if isinstance(family, Mapping):
        found = keras.saving.deserialize_keras_object(dict(family))
    elif family == "normal":
        found = NormalComponents() if parameterisation == "log_mass" else PerMassNormalComponents()
    elif family == "tapered_pareto":
        found = TaperedParetoComponents()
    if not isinstance(found, ComponentFamily):
        raise invalid("family", f"one of {FAMILIES} or a ComponentFamily", family)
    if parameterisation == "mass" and not isinstance(found, PerMassNormalComponents):
        raise invalid(
            "parameterisation", f"'log_mass' for the family {found.name!r}", parameterisation
        )
    return found


def family_config(family: ComponentFamily, parameterisation: str) -> str | dict[str, Any]:
    """What `component_family` makes this family from, fit for JSON."""
    for name in FAMILIES if parameterisation == "log_mass" else ("normal",):
        if component_family(name, parameterisation) == family:
            return name
    config: dict[str, Any] = keras.saving.serialize_keras_object(family)
    return config


def _broadcast(*arguments: Tensor) -> list[Tensor]:
    """Bring tensors to their common shape."""
    zero = tf.zeros_like(sum(arguments[1:], start=arguments[0]))
    return [argument + zero for argument in arguments]


def _log_upper_tail(z: Tensor) -> Tensor:
    """Upper tail of the standard normal beyond sqrt(2) z, in logs: log(erfc(z)/2)."""
    return tfp.math.logerfc(z) - math.log(2.0)


def _inverse_log_upper_tail(log_tail: Tensor, lower: Tensor) -> Tensor:
    """Solve log(erfc(z)/2) = log_tail for z >= lower.

    Newton's method on a concave, falling function converges from the right without overshooting,
    and erfc(z) <= erfc(y) exp(y^2 - z^2) for z >= y >= 0 puts the start to the right of the
    solution. Where the tail is not far out there is the inverse of erfc itself.
    """
    positive = tf.maximum(lower, 0.0)
    excess = tf.maximum(_log_upper_tail(positive) - log_tail, 0.0)
    far = tf.sqrt(tf.square(positive) + excess)
    body = tf.math.erfcinv(2.0 * tf.exp(tf.clip_by_value(log_tail, -20.0, 0.0)))
    z = tf.where(log_tail > -15.0, body, far)
    for _ in range(_NEWTON_STEPS):
        # d/dz log erfc(z) = -2/sqrt(pi) exp(-z^2) / erfc(z)
        log_slope = math.log(2.0 / math.sqrt(math.pi)) - tf.square(z) - tfp.math.logerfc(z)
        step = (_log_upper_tail(z) - log_tail) * tf.exp(-log_slope)
        z = tf.where(log_tail > -15.0, z, z + step)
    return tf.maximum(z, lower)
