"""Bias models against each other: best fits, and haloes that a fit has not seen.

On one catalogue and one density every model has the same likelihood, of positions and masses, so
that log likelihoods are of the same data and can be compared: their difference at the best
parameters is the paper's (Charnock et al. 2020, eq. 26). More parameters fit better whatever they
are; haloes left out of the fit say whether what they fit is there. The box is cut into octants,
one after the other is hidden, and the score of a model is the log likelihood of the hidden
octant's haloes at the parameters fitted to the other seven. The density is that of the whole box.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike, NDArray

from npe_tf.bias.model import BiasModel
from npe_tf.catalogue import Catalogue
from npe_tf.grid import Grid
from npe_tf.likelihood import PoissonLikelihood
from npe_tf.pretraining import Pretrained, pretrain

__all__ = [
    "Comparison",
    "HeldOut",
    "ModelFit",
    "dilate",
    "fit_model",
    "octants",
    "score_held_out",
    "table",
]


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """Scores of a model on the parts of the box that its fit has not seen.

    Attributes:
        log_likelihood: of each part's haloes, `[parts]`, per unit log mass.
        num_haloes: of each part.
    """

    log_likelihood: tuple[float, ...]
    num_haloes: tuple[int, ...]

    @property
    def mean(self) -> float:
        """Over the parts."""
        return float(np.mean(self.log_likelihood))

    @property
    def standard_error(self) -> float:
        """Of the mean, from the scatter of the parts."""
        return _standard_error(self.log_likelihood)

    def gain(self, other: HeldOut) -> tuple[float, float]:
        """Mean gain over another model in the same parts, and its standard error.

        The error of the difference is far below that of either score: what differs from part to
        part is first of all the number of haloes.
        """
        if self.num_haloes != other.num_haloes:
            raise ValueError(
                "Invalid value for argument `other`. Expected scores of the same parts, of "
                f"{self.num_haloes} haloes. Received: {other.num_haloes}"
            )
        gains = np.subtract(self.log_likelihood, other.log_likelihood)
        return float(np.mean(gains)), _standard_error(gains)


@dataclasses.dataclass(frozen=True)
class ModelFit:
    """A model at its best.

    Attributes:
        name: of the model.
        log_likelihood: the largest found, per unit log mass.
        theta: where it is.
        parameters: names of theta.
        num_haloes: that were fitted.
        held_out: scores on what was hidden, if that was asked for.
    """

    name: str
    log_likelihood: float
    theta: tuple[float, ...]
    parameters: tuple[str, ...]
    num_haloes: int
    held_out: HeldOut | None = None

    @property
    def aic(self) -> float:
        """Akaike's criterion, 2 k - 2 log L; less is better."""
        return 2.0 * len(self.theta) - 2.0 * self.log_likelihood

    @property
    def bic(self) -> float:
        """Schwarz's criterion, k log(haloes) - 2 log L; less is better."""
        return len(self.theta) * math.log(self.num_haloes) - 2.0 * self.log_likelihood


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Several models on one catalogue and one density.

    Attributes:
        fits: one for each model.
        reference: name of the model that the others are compared with.
    """

    fits: tuple[ModelFit, ...]
    reference: str

    def __post_init__(self) -> None:
        """Look for the reference."""
        names = [fit.name for fit in self.fits]
        if self.reference not in names:
            raise ValueError(
                f"Invalid value for argument `reference`. Expected one of {names}. Received: "
                f"reference={self.reference!r}"
            )

    @property
    def reference_fit(self) -> ModelFit:
        """The fit of the reference."""
        return next(fit for fit in self.fits if fit.name == self.reference)

    def to_dict(self) -> dict[str, Any]:
        """All numbers, for JSON."""
        return {
            "reference": self.reference,
            "models": [self._model_to_dict(fit) for fit in self.fits],
        }

    def _model_to_dict(self, fit: ModelFit) -> dict[str, Any]:
        reference = self.reference_fit
        values: dict[str, Any] = {
            "name": fit.name,
            "num_parameters": len(fit.theta),
            "num_haloes": fit.num_haloes,
            "log_likelihood": fit.log_likelihood,
            "gain": fit.log_likelihood - reference.log_likelihood,
            "aic": fit.aic,
            "bic": fit.bic,
            "theta": dict(zip(fit.parameters, fit.theta, strict=True)),
        }
        if fit.held_out is not None:
            values["held_out"] = {
                **dataclasses.asdict(fit.held_out),
                "mean": fit.held_out.mean,
                "standard_error": fit.held_out.standard_error,
            }
            if reference.held_out is not None:
                mean, error = fit.held_out.gain(reference.held_out)
                values["held_out"].update(gain=mean, gain_standard_error=error)
        return values


def _standard_error(values: ArrayLike) -> float:
    array = np.asarray(values)
    return float(np.std(array, ddof=1) / math.sqrt(array.size))


def octants(num_cells: int) -> NDArray[np.bool_]:
    """The eight octants of a mesh.

    Args:
        num_cells: N, even.

    Returns:
        `[8, N, N, N]`, true inside; every voxel is in one.

    Raises:
        ValueError: if N is odd.
    """
    if num_cells < 2 or num_cells % 2:
        raise ValueError(
            "Invalid value for argument `num_cells`. Expected a strictly positive even integer. "
            f"Received: num_cells={num_cells!r}"
        )
    upper = np.arange(num_cells) >= num_cells // 2
    number = 4 * upper[:, None, None] + 2 * upper[:, None] + 1 * upper
    inside: NDArray[np.bool_] = number == np.arange(8)[:, None, None, None]
    return inside


def dilate(mask: NDArray[np.bool_], buffer: int) -> NDArray[np.bool_]:
    """A part of a periodic mesh with the voxels around it.

    Args:
        mask: `[N, N, N]`, true inside.
        buffer: voxels along each axis, zero or more.

    Returns:
        `[N, N, N]`, true where some voxel of the part is at most `buffer` away along every axis.

    Raises:
        ValueError: if the buffer is no such number.
    """
    if isinstance(buffer, bool) or not isinstance(buffer, (int, np.integer)) or buffer < 0:
        raise ValueError(
            "Invalid value for argument `buffer`. Expected a non-negative integer. Received: "
            f"buffer={buffer!r}"
        )
    grown = np.asarray(mask, dtype=bool)
    for axis in range(grown.ndim):
        shifts = range(-int(buffer), int(buffer) + 1)
        grown = np.any([np.roll(grown, shift, axis) for shift in shifts], axis=0)
    return grown


def fit_model(
    name: str,
    bias: BiasModel,
    likelihood: PoissonLikelihood,
    delta: ArrayLike,
    **options: Any,
) -> ModelFit:
    """The best parameters of a model.

    Args:
        name: of the model.
        bias: the model.
        likelihood: of the catalogue.
        delta: overdensity `[N, N, N]`.
        **options: of `pretrain`.

    Returns:
        The best of the starts.
    """
    fitted = pretrain(bias, likelihood, delta, **options)
    theta = tuple(float(x) for x in fitted.theta)
    return ModelFit(
        name, fitted.log_likelihood, theta, bias.parameters.names, likelihood.num_haloes
    )


def score_held_out(
    bias: BiasModel,
    grid: Grid,
    catalogue: Catalogue,
    mass_threshold: float,
    delta: ArrayLike,
    *,
    parts: ArrayLike | None = None,
    buffer: int = 0,
    likelihood_class: type[PoissonLikelihood] = PoissonLikelihood,
    report: Callable[[str], None] | None = None,
    inspect: Callable[[Pretrained], None] | None = None,
    **options: Any,
) -> HeldOut:
    """Log likelihood of the haloes of each part of the box, fitted to those of the others.

    Every fit starts afresh: parameters that have seen the hidden haloes are no start.

    Args:
        bias: the model; its weights change.
        grid: the mesh, periodic.
        catalogue: haloes.
        mass_threshold: smallest mass [Msun/h].
        delta: overdensity `[N, N, N]` of the whole box.
        parts: `[parts, N, N, N]`, true inside; the octants by default.
        buffer: voxels around a part whose haloes are hidden from its fit as well, along each axis.
            With the receptive radius of a model or more, no voxel that was fitted sees the density
            of the part. Models are compared at one buffer, since with it goes what is fitted.
        likelihood_class: that of the model's law of counts.
        report: called with a line after each part.
        inspect: called with the fit that each part is scored by.
        **options: of `pretrain`.

    Returns:
        The scores, which are of all voxels of the part, those without haloes too.

    Raises:
        ValueError: if the parts have another shape, one of them has no halo, or the buffer is
            negative or leaves nothing to fit.
    """
    masks = octants(grid.num_cells) if parts is None else np.asarray(parts, dtype=bool)
    if masks.shape[1:] != grid.shape:
        raise ValueError(
            f"Invalid value for argument `parts`. Expected shape [parts, {grid.num_cells}, "
            f"{grid.num_cells}, {grid.num_cells}]. Received: shape {masks.shape}"
        )
    selected = catalogue.above(mass_threshold)
    voxels = selected.voxel_index(grid.num_cells)
    density = tf.constant(np.asarray(delta), bias.dtype)
    scores, sizes = [], []
    for number, mask in enumerate(masks, 1):
        surrounded = dilate(mask, buffer)
        if np.all(surrounded):
            raise ValueError(
                "Invalid value for argument `buffer`. Expected a buffer that leaves voxels to fit "
                f"around each part of a mesh of {grid.num_cells}^3. Received: buffer={buffer!r}"
            )
        fitted_to = ~surrounded.ravel()[voxels]
        hidden = mask.ravel()[voxels]
        seen, unseen = (
            likelihood_class(
                grid,
                Catalogue(selected.positions[kept], selected.mass[kept], selected.box_size),
                mass_threshold,
                completeness=window,
            )
            for kept, window in ((fitted_to, ~surrounded), (hidden, mask))
        )
        fitted = pretrain(bias, seen, delta, **options)
        if inspect is not None:
            inspect(fitted)
        theta = tf.constant(fitted.theta, bias.dtype)
        scores.append(float(unseen(bias.mass_function(density, theta))))
        sizes.append(unseen.num_haloes)
        if report is not None:
            report(f"part {number}: {sizes[-1]} haloes, log L = {scores[-1]:.1f}")
    return HeldOut(tuple(scores), tuple(sizes))


def table(comparison: Comparison) -> str:
    """A table in Markdown, the best model first."""
    rows: list[Sequence[str]] = [
        ("model", "parameters", "log L", "gain", "AIC", "BIC", "held out", "gain held out")
    ]
    rows.append(["---"] * len(rows[0]))
    for fit in sorted(comparison.fits, key=lambda fit: -fit.log_likelihood):
        values = comparison._model_to_dict(fit)
        held = values.get("held_out")
        row = [fit.name, f"{len(fit.theta)}", f"{fit.log_likelihood:,.1f}"]
        row += [f"{values[key]:,.1f}" for key in ("gain", "aic", "bic")]
        row.append("" if held is None else f"{held['mean']:,.1f} ± {held['standard_error']:,.1f}")
        known = held is not None and "gain" in held
        row.append(
            f"{held['gain']:,.1f} ± {held['gain_standard_error']:,.1f}" if held and known else ""
        )
        rows.append(row)
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
