"""Whether the sampled initial fields are fields of the prior, and whether they hold the true one.

In white noise all modes have the same variance under the prior, whatever their wavenumber. Summed
over the n independent real numbers of a shell of wavenumber, the power of the truth is a draw of
chi^2 with n degrees of freedom; so is that of a posterior sample, if the model is right. What the
data leave free varies from sample to sample, what they fix does not, and the same departure may be
seen in all samples.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from npe_tf.grid import Grid

__all__ = ["FieldChecks", "check_fields"]

Array = NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class FieldChecks:
    """One number per shell of wavenumber, `[K]` each.

    Attributes:
        k: mean wavenumber [h/Mpc].
        num_numbers: independent real numbers n in the shell.
        power: power over that of the prior, mean over samples.
        power_sd: its standard deviation over samples.
        departure: of the mean power from the prior's, in units of the prior's standard deviation
            sqrt(2 / n); a draw from a standard normal, for large n, if the model is right.
        true_power: that of the truth, or `None`.
        correlation: of the posterior mean with the truth, or `None`.
        inside_68: share of the true numbers within one posterior standard deviation of the mean,
            or `None`; 0.683 expected.
        inside_95: the same within 1.96; 0.95 expected.
    """

    k: Array
    num_numbers: NDArray[np.int64]
    power: Array
    power_sd: Array
    departure: Array
    true_power: Array | None = None
    correlation: Array | None = None
    inside_68: Array | None = None
    inside_95: Array | None = None

    @property
    def chi_squared(self) -> float:
        """Sum of the squared departures; about as many as there are shells is expected."""
        return float(np.sum(self.departure**2))

    def table(self) -> str:
        """For a terminal."""
        header = "k [h/Mpc] numbers  P/prior     sd  departure"
        if self.true_power is not None:
            header += "  true P   r(k)  in 68%  in 95%"
        lines = [header]
        for i, k in enumerate(self.k):
            line = (
                f"{k:9.3f} {self.num_numbers[i]:7d} {self.power[i]:8.3f} {self.power_sd[i]:6.3f} "
                f"{self.departure[i]:10.2f}"
            )
            if (
                self.true_power is not None
                and self.correlation is not None
                and self.inside_68 is not None
                and self.inside_95 is not None
            ):
                line += (
                    f" {self.true_power[i]:7.3f} {self.correlation[i]:6.3f} "
                    f"{self.inside_68[i]:7.3f} {self.inside_95[i]:7.3f}"
                )
            lines.append(line)
        return "\n".join(lines)


def check_fields(
    samples: Iterable[ArrayLike],
    grid: Grid,
    truth: ArrayLike | None = None,
    num_shells: int | None = None,
) -> FieldChecks:
    """Check samples of the white noise.

    Args:
        samples: at least two fields `[N, N, N]`, one at a time.
        grid: their mesh.
        truth: white noise of the true field `[N, N, N]`, see `InitialField.white_noise`.
        num_shells: shells of wavenumber, as in `Grid.shells`; by default half of one per
            fundamental wavenumber, at most sixteen.

    Returns:
        The numbers.

    Raises:
        ValueError: if a field has another shape or there are fewer than two.
    """
    count = min(16, grid.num_cells // 4) if num_shells is None else num_shells
    x, y, z = (np.broadcast_to(f, grid.modes_shape) for f in grid.frequencies)
    # of k and -k, both of which are stored where the last frequency is zero, only one
    chosen = grid.alive & ((z > 0) | (y > 0) | ((y == 0) & (x > 0)))
    shell = grid.shells(count)[chosen]
    numbers = 2 * np.bincount(shell, minlength=count)
    scale = math.sqrt(2.0) / grid.num_cells**1.5

    def modes(field: ArrayLike) -> NDArray[np.complex128]:
        cube = np.asarray(field, dtype=np.float64)
        if cube.shape != grid.shape:
            raise ValueError(
                f"Invalid value for argument `samples`. Expected fields of shape {grid.shape}. "
                f"Received: shape {cube.shape}"
            )
        return np.asarray(scale * np.fft.rfftn(cube)[chosen])

    def per_shell(values: Array) -> Array:
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(np.bincount(shell, values, minlength=count) / numbers)

    mean = np.zeros(int(chosen.sum()), np.complex128)
    spread = np.zeros((2, len(mean)))
    powers = []
    for sample in samples:
        found = modes(sample)
        powers.append(per_shell(np.abs(found) ** 2))
        offset = found - mean
        mean += offset / len(powers)
        rest = found - mean
        spread += np.stack([offset.real * rest.real, offset.imag * rest.imag])
    if len(powers) < 2:
        raise ValueError(
            f"Invalid value for argument `samples`. Expected at least two. Received: {len(powers)}"
        )
    power = np.mean(powers, axis=0)
    checks = FieldChecks(
        k=grid.shell_wavenumber(count),
        num_numbers=numbers,
        power=power,
        power_sd=np.std(powers, axis=0, ddof=1),
        departure=(power - 1.0) * np.sqrt(numbers / 2.0),
    )
    if truth is None:
        return checks
    true = modes(truth)
    sd = np.sqrt(spread / (len(powers) - 1))
    away = np.abs(np.stack([(true - mean).real, (true - mean).imag]) / sd)
    cross = per_shell((true * mean.conj()).real)
    own = per_shell(np.abs(true) ** 2) * per_shell(np.abs(mean) ** 2)
    return dataclasses.replace(
        checks,
        true_power=per_shell(np.abs(true) ** 2),
        correlation=cross / np.sqrt(own),
        inside_68=per_shell((away < 1.0).sum(axis=0).astype(np.float64)),
        inside_95=per_shell((away < 1.96).sum(axis=0).astype(np.float64)),
    )
