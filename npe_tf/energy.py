"""What a run costs: wall time, processor time and energy.

Energy is read from Linux's powercap interface (RAPL) where the counters of the processors may be
read, which most systems grant to root alone. It is then that of whole processors, other processes
and idle time included. Elsewhere it is estimated as processor time times `WATTS_PER_CORE`. Both
leave out memory, cooling and graphics cards.
"""

from __future__ import annotations

import dataclasses
import math
import os
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

__all__ = ["COST_COLUMNS", "WATTS_PER_CORE", "Cost", "Meter"]

COST_COLUMNS = ("wall_seconds", "cpu_seconds", "energy_joules")
"""Columns of a chain file: what each sweep has cost, all chains together."""

WATTS_PER_CORE = 12.0
"""Power of one busy core [W].

The value for a processor that is not known in the calculator of Green Algorithms (Lannelongue et
al. 2021, Advanced Science 8, 2100707).
"""

_POWERCAP = Path("/sys/class/powercap")
_JOULES_PER_KWH = 3.6e6


class Meter:
    """Measures what has passed since it was last asked.

    Args:
        powercap: folder of the counters of energy.
    """

    def __init__(self, powercap: str | Path = _POWERCAP) -> None:
        """Start."""
        # packages only: "intel-rapl:0:0" is a part of "intel-rapl:0"
        found = sorted(Path(powercap).glob("intel-rapl:*"))
        self._packages = [folder for folder in found if folder.name.count(":") == 1]
        self._last = self._now()

    def _now(self) -> tuple[float, float, list[tuple[float, float]]]:
        # user and system time of this process and of its children that have ended
        return time.monotonic(), sum(os.times()[:4]), [_counter(p) for p in self._packages]

    def lap(self) -> dict[str, float]:
        """Cost since the last lap, or since the meter was made.

        Returns:
            ``wall_seconds`` [s], ``cpu_seconds`` [s], summed over cores, and ``energy_joules`` [J],
            NaN where it cannot be measured.
        """
        wall, cpu, energy = self._now()
        last_wall, last_cpu, last_energy = self._last
        self._last = wall, cpu, energy
        # The counter starts again at its range, within an hour or so.
        used = [
            now - before if now >= before else now - before + span
            for (now, span), (before, _) in zip(energy, last_energy, strict=True)
        ]
        values = (wall - last_wall, cpu - last_cpu, sum(used) if used else math.nan)
        return dict(zip(COST_COLUMNS, values, strict=True))


def _counter(package: Path) -> tuple[float, float]:
    """Reading and range of a counter of energy [J]; NaN if it may not be read."""
    try:
        reading, span = (
            int((package / name).read_text()) for name in ("energy_uj", "max_energy_range_uj")
        )
    except (OSError, ValueError):
        return math.nan, math.nan
    return reading * 1e-6, span * 1e-6


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a run, or a part of one, has cost.

    Attributes:
        wall_seconds: [s].
        cpu_seconds: summed over cores [s].
        energy_joules: measured [J]; NaN where any part was not measured.
    """

    wall_seconds: float
    cpu_seconds: float
    energy_joules: float = math.nan

    @classmethod
    def of(cls, wall_seconds: ArrayLike, cpu_seconds: ArrayLike, energy_joules: ArrayLike) -> Cost:
        """Sum over sweeps, the columns `[S]` of a chain file."""
        columns: Iterable[ArrayLike] = (wall_seconds, cpu_seconds, energy_joules)
        return cls(*(float(np.sum(column)) for column in columns))

    @property
    def core_hours(self) -> float:
        """Processor time [h]."""
        return self.cpu_seconds / 3600.0

    def kilowatt_hours(self, watts_per_core: float = WATTS_PER_CORE) -> float:
        """Energy [kWh], measured, or estimated if it was not.

        Args:
            watts_per_core: power of one busy core [W], for the estimate.

        Raises:
            ValueError: if the power is not positive.
        """
        if not 0.0 < watts_per_core < math.inf:
            raise ValueError(
                "Invalid value for argument `watts_per_core`. Expected a positive number of watts. "
                f"Received: watts_per_core={watts_per_core!r}"
            )
        estimate = self.cpu_seconds * watts_per_core
        joules = estimate if math.isnan(self.energy_joules) else self.energy_joules
        return joules / _JOULES_PER_KWH

    def line(self, watts_per_core: float = WATTS_PER_CORE) -> str:
        """One line for a terminal.

        Args:
            watts_per_core: as in `kilowatt_hours`.
        """
        energy = f"{self.kilowatt_hours(watts_per_core):.2g} kWh"
        energy = (
            f"about {energy} at {watts_per_core:g} W per core"
            if math.isnan(self.energy_joules)
            else f"{energy} measured"
        )
        return (
            f"this run: {self.core_hours:.2g} core-hours in {self.wall_seconds / 3600.0:.2g} "
            f"hours, {energy}"
        )
