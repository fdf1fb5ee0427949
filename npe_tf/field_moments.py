"""Running mean and variance of fields, for chains too long to keep them all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["FieldMoments"]

Array = NDArray[Any]


class FieldMoments:
    """Welford's running means and sums of squared deviations, in float32.

    Args:
        names: of the fields.
        shape: of each.

    Attributes:
        count: fields taken in, of each name.
        arrays: `<name>_mean` and `<name>_m2` for each name.
    """

    def __init__(self, names: tuple[str, ...], shape: tuple[int, ...]) -> None:
        """Nothing taken in yet."""
        self.count = 0
        self.arrays: dict[str, Array] = {
            f"{name}_{moment}": np.zeros(shape, np.float32)
            for name in names
            for moment in ("mean", "m2")
        }

    def add(self, **fields: Array) -> None:
        """Take in one field of every name."""
        self.count += 1
        for name, field in fields.items():
            mean, m2 = self.arrays[f"{name}_mean"], self.arrays[f"{name}_m2"]
            offset = field - mean
            mean += (offset / self.count).astype(mean.dtype)
            m2 += (offset * (field - mean)).astype(m2.dtype)

    def to_checkpoint(self) -> dict[str, Array]:
        """All of it, by name."""
        parts = {f"moments/{name}": array for name, array in self.arrays.items()}
        return {**parts, "moments/count": np.array(self.count, np.int64)}

    def from_checkpoint(self, arrays: Mapping[str, Array], prefix: str) -> None:
        """Inverse of `to_checkpoint`, the names beginning with a prefix."""
        for name in self.arrays:
            self.arrays[name] = np.array(arrays[f"{prefix}moments/{name}"])
        self.count = int(arrays[f"{prefix}moments/count"])
