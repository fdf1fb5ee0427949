"""A Keras loss for points with marks on a mesh: the Poisson process of a mixture density."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike, NDArray

from layers import mixtures
from layers.arguments import finite_number, invalid, positive_integer, positive_number
from layers.components import ComponentFamily, component_family, family_config

__all__ = ["PoissonProcessLoss", "points_by_cell"]

Tensor = Any


@keras.saving.register_keras_serializable(package="npe_tf_layers")
class PoissonProcessLoss(keras.losses.Loss):
    """Negative log likelihood of an inhomogeneous, marked Poisson process on a mesh.

    Every cell has an intensity n(x) per unit volume and mark, a mixture of T components: for haloes
    the mark is the log of the mass and n the mass function. With points of marks x_k in it, all
    above the threshold x_min, a cell contributes (Charnock et al. 2020, MNRAS 494, 50, eq. 3 with
    its sign mended)

        V integral of n(x) dx above x_min - sum_k log n(x_k).

    `y_pred` is the output `[..., 3, T]` of ``MixtureDensity(..., output_format="stacked")``, and
    `y_true` holds the marks `[..., K]` of the points of each cell; `points_by_cell` makes it. A
    mark below the threshold, minus infinity by convention, is no point, so that cells may have
    different numbers of points; NaN is an error and makes the loss NaN. A `sample_weight` of the
    cells `[...]` weighs both terms: with zeros it leaves cells out.

    The sum over cells is in the dtype of the loss. In float32 a sum of 10^5 cells is good to about
    six digits: enough to train with, too coarse for a Metropolis test.

    Args:
        cell_volume: V, positive; in any unit, which that of the amplitudes is the inverse of.
        log_mass_threshold: x_min, finite.
        family: of the components: ``"normal"``, ``"tapered_pareto"`` or a `ComponentFamily`.
        parameterisation: ``"log_mass"`` or, for normals only, ``"mass"``; see `component_family`.
        reduction: of the cells; ``"sum"`` makes the loss minus log L. See `keras.losses.Loss`.
        name: of the loss.
        dtype: of its computations; `keras.backend.floatx()` by default, whatever the model's is.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(
        self,
        cell_volume: float = 1.0,
        log_mass_threshold: float = 0.0,
        family: str | ComponentFamily = "normal",
        parameterisation: str = "log_mass",
        reduction: str | None = "sum",
        name: str = "poisson_process",
        dtype: Any = None,
    ) -> None:
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        self.cell_volume = positive_number("cell_volume", cell_volume)
        self.log_mass_threshold = finite_number("log_mass_threshold", log_mass_threshold)
        self.family = component_family(family, parameterisation)
        self.parameterisation = parameterisation

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Marks `[..., K]` and mixtures `[..., 3, T]` to the loss of each cell, `[...]`."""
        marks, mixture = tf.convert_to_tensor(y_true), tf.convert_to_tensor(y_pred)
        _check_shapes(marks.shape, mixture.shape)
        log_amplitude, mean, scale = tf.unstack(mixture, num=3, axis=-2)
        threshold = tf.constant(self.log_mass_threshold, mixture.dtype)
        is_point = tf.logical_not(marks < threshold)
        # padding is replaced before anything is computed: a gradient of zero times that at minus
        # infinity would be NaN
        log_intensity = mixtures.log_intensity(
            log_amplitude[..., tf.newaxis, :],
            mean[..., tf.newaxis, :],
            scale[..., tf.newaxis, :],
            tf.where(is_point, marks, threshold),
            self.family,
            threshold,
        )
        found = tf.reduce_sum(tf.where(is_point, log_intensity, 0.0), axis=-1)
        integral = mixtures.integral(log_amplitude, mean, scale, self.family, threshold)
        return self.cell_volume * integral - found

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {
            **super().get_config(),
            "cell_volume": self.cell_volume,
            "log_mass_threshold": self.log_mass_threshold,
            "family": family_config(self.family, self.parameterisation),
            "parameterisation": self.parameterisation,
            "dtype": self.dtype,
        }


def points_by_cell(cells: ArrayLike, marks: ArrayLike, shape: tuple[int, ...]) -> NDArray[Any]:
    """Sort points into the cells of a mesh, as `PoissonProcessLoss` takes them.

    Args:
        cells: the cell of each point, integers `[H, d]` from zero to below `shape`.
        marks: of each point, finite, `[H]`.
        shape: of the mesh, d positive integers.

    Returns:
        `[*shape, K]` with K the largest number of points in a cell, and at least 1. The marks of a
        cell are in the order given; minus infinity fills up the rest. Floats keep their dtype.

    Raises:
        ValueError: if a shape does not fit, a cell is off the mesh or a mark is not finite.
    """
    if not isinstance(shape, (tuple, list)) or not shape:
        raise invalid("shape", "a tuple of strictly positive integers", shape)
    sizes = tuple(positive_integer("shape", size) for size in shape)
    index, values = np.asarray(cells), np.asarray(marks)
    if index.ndim != 2 or index.shape[1] != len(sizes) or index.dtype.kind not in "iu":
        received = f"{index.dtype} of shape {index.shape}"
        raise invalid("cells", f"integers of shape [H, {len(sizes)}]", received)
    if values.shape != index.shape[:1] or values.dtype.kind not in "iuf":
        received = f"{values.dtype} of shape {values.shape}"
        raise invalid("marks", f"numbers of shape ({len(index)},), one for each cell", received)
    if not np.all(np.isfinite(values)):
        raise invalid("marks", "finite numbers", values[~np.isfinite(values)][0].item())
    outside = np.any((index < 0) | (index >= np.array(sizes)), axis=1)
    if outside.any():
        expected = f"cells of a mesh of shape {sizes}, none negative"
        raise invalid("cells", expected, tuple(index[outside][0].tolist()))
    flat = np.ravel_multi_index(tuple(index.T.astype(np.int64)), sizes)
    order = np.argsort(flat, kind="stable")
    counts = np.bincount(flat, minlength=int(np.prod(sizes)))
    first = np.cumsum(counts) - counts
    place = np.arange(len(flat)) - first[flat[order]]
    dtype = values.dtype if values.dtype.kind == "f" else np.dtype(np.float64)
    sorted_marks = np.full((counts.size, max(1, int(counts.max()))), -np.inf, dtype)
    sorted_marks[flat[order], place] = values[order]
    return sorted_marks.reshape(*sizes, -1)


def _check_shapes(marks: tf.TensorShape, mixture: tf.TensorShape) -> None:
    """Refuse a prediction that is not `[..., 3, T]`, and marks that are not `[..., K]` of it."""
    if mixture.rank is None or marks.rank is None:
        return
    if mixture.rank < 2 or mixture[-2] not in (3, None):
        expected = "the shape [..., 3, T] of a MixtureDensity with output_format='stacked'"
        raise invalid("y_pred", expected, f"shape {tuple(mixture)}")
    if not marks[:-1].is_compatible_with(mixture[:-2]) or marks.rank < 1:
        expected = f"marks of shape {(*mixture[:-2], 'K')}"
        raise invalid("y_true", expected, f"shape {tuple(marks)}")
