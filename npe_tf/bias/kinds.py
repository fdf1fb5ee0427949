"""The bias models by name."""

from __future__ import annotations

from npe_tf.bias.linear import Linear
from npe_tf.bias.neural import NeuralBias
from npe_tf.bias.neyrinck import Neyrinck
from npe_tf.bias.power_law import PowerLaw
from npe_tf.bias.second_order import SecondOrder
from npe_tf.bias.single_rate import SingleRate, single_rate_bias

__all__ = ["KINDS", "SINGLE_RATE", "build_single_rate"]

SINGLE_RATE: dict[str, type[SingleRate]] = {
    "neyrinck": Neyrinck,
    "power_law": PowerLaw,
    "linear": Linear,
    "second_order": SecondOrder,
}
"""Layers of the models of one rate."""

KINDS = ("neural", *SINGLE_RATE)
"""Names of all models; ``"neural"`` is `npe_tf.bias.neural.neural_bias_model`."""


def build_single_rate(
    kind: str,
    log_mass_threshold: float,
    *,
    num_cells: int | None = None,
    num_components: int = 2,
    margin: int = 0,
    dtype: str = "float32",
) -> NeuralBias:
    """Build a model of one rate.

    Args:
        kind: a key of `SINGLE_RATE`.
        log_mass_threshold: log of the smallest halo mass [log of Msun/h].
        num_cells: side of the input mesh; `None` for any.
        num_components: of the mass distribution.
        margin: voxels to leave out on each side, for boxes that are not periodic.
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
    return single_rate_bias(layer, num_cells)
