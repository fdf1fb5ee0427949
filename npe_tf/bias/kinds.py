"""The bias models by name."""

from __future__ import annotations

from typing import Any

from npe_tf.bias.conditional import Conditional
from npe_tf.bias.linear import Linear
from npe_tf.bias.mass_resolved import MassResolved, mass_resolved_bias
from npe_tf.bias.neural import NeuralBias
from npe_tf.bias.neyrinck import Neyrinck
from npe_tf.bias.peak_background import OfPeaks, PeakBackground, TinkerPeakBackground
from npe_tf.bias.power_law import PowerLaw
from npe_tf.bias.power_law_by_mass import PowerLawByMass
from npe_tf.bias.second_order import SecondOrder
from npe_tf.bias.single_rate import SingleRate, single_rate_bias
from npe_tf.mass_variance import MassVariance

__all__ = [
    "KINDS",
    "MASS_RESOLVED",
    "OF_PEAKS",
    "SINGLE_RATE",
    "build_mass_resolved",
    "build_single_rate",
]

SINGLE_RATE: dict[str, type[SingleRate]] = {
    "neyrinck": Neyrinck,
    "power_law": PowerLaw,
    "linear": Linear,
    "second_order": SecondOrder,
}
"""Layers of the models of one rate."""

OF_PEAKS: dict[str, type[OfPeaks]] = {
    "peak_background": PeakBackground,
    "peak_background_tinker": TinkerPeakBackground,
    "conditional": Conditional,
}
"""Layers of the models that follow from a cosmology."""

MASS_RESOLVED: dict[str, type[MassResolved]] = {**OF_PEAKS, "power_law_by_mass": PowerLawByMass}
"""Layers of the models whose masses follow the density; all but the last need a cosmology."""

KINDS = ("neural", *SINGLE_RATE, *MASS_RESOLVED)
"""Names of all models; ``"neural"`` is `npe_tf.bias.neural.neural_bias_model`."""


def build_single_rate(
    kind: str,
    log_mass_threshold: float,
    *,
    num_cells: int | None = None,
    num_components: int = 2,
    margin: int = 0,
    counts: str = "poisson",
    dtype: str = "float32",
) -> NeuralBias:
    """Build a model of one rate.

    Args:
        kind: a key of `SINGLE_RATE`.
        log_mass_threshold: log of the smallest halo mass [log of Msun/h].
        num_cells: side of the input mesh; `None` for any.
        num_components: of the mass distribution.
        margin: voxels to leave out on each side, for boxes that are not periodic.
        counts: law of the number of haloes in a voxel, see `npe_tf.bias.counts`.
        dtype: ``"float32"`` or ``"float64"``.

    Returns:
        The model, with all parameters zero.

    Raises:
        ValueError: if there is no such model, or it needs a periodic box and there is a margin.
    """
    if kind not in SINGLE_RATE:
        raise ValueError(
            f"Invalid value for argument `kind`. Expected one of {tuple(SINGLE_RATE)}. Received: "
            f"kind={kind!r}"
        )
    if kind == "second_order" and margin:
        raise ValueError(
            "Invalid value for argument `margin`. Expected no margin for 'second_order', whose "
            f"tidal field is that of a periodic box. Received: margin={margin}"
        )
    layer = SINGLE_RATE[kind](log_mass_threshold, num_components, margin, name=kind, dtype=dtype)
    return single_rate_bias(layer, num_cells, counts)


def build_mass_resolved(
    kind: str,
    log_mass_threshold: float,
    *,
    variance: MassVariance | None = None,
    num_cells: int | None = None,
    margin: int = 0,
    counts: str = "poisson",
    dtype: str = "float32",
) -> NeuralBias:
    """Build a model whose masses follow the density.

    Args:
        kind: a key of `MASS_RESOLVED`.
        log_mass_threshold: log of the smallest halo mass [log of Msun/h].
        variance: of the linear density at the epoch of the haloes, for the keys of `OF_PEAKS`; see
            `npe_tf.peak_background.mass_variance`.
        num_cells: side of the input mesh; `None` for any.
        margin: voxels to leave out on each side, for boxes that are not periodic.
        counts: law of the number of haloes in a voxel, see `npe_tf.bias.counts`.
        dtype: ``"float32"`` or ``"float64"``.

    Returns:
        The model, with all parameters zero.

    Raises:
        ValueError: if there is no such model, or it needs a variance.
    """
    if kind not in MASS_RESOLVED:
        raise ValueError(
            f"Invalid value for argument `kind`. Expected one of {tuple(MASS_RESOLVED)}. Received: "
            f"kind={kind!r}"
        )
    options: dict[str, Any] = {"margin": margin, "name": kind, "dtype": dtype}
    layer: MassResolved
    if kind not in OF_PEAKS:
        layer = MASS_RESOLVED[kind](log_mass_threshold, **options)
    elif variance is None:
        raise ValueError(
            f"Invalid value for argument `variance`. Expected a MassVariance for {kind!r}. "
            "Received: variance=None"
        )
    else:
        layer = OF_PEAKS[kind](log_mass_threshold, variance, **options)
    return mass_resolved_bias(layer, num_cells, counts)
