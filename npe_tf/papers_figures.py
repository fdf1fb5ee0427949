"""The figures 2 to 6 of Charnock et al. 2020 (MNRAS 494, 50) of a run, one after the other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from npe_tf import figures, plots
from npe_tf.figure_data import FigureData, Mode

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["papers_figures"]

_PSI = {
    "rises": r"$\psi$ rises with the density",
    "falls": r"$\psi$ falls with the density",
}
_SLABS = 8  # of these a box is made; one of them is projected


def papers_figures(data: FigureData) -> Iterator[tuple[str, Figure]]:
    """Draw all that a run's numbers give.

    Figures that show psi are drawn once for each mode of the posterior that chains are in, and
    their names say which.

    Args:
        data: of the run.

    Yields:
        Name of a file, without an ending, and the figure.

    Raises:
        ImportError: if matplotlib is missing.
    """
    yield "figure_2_mass_function", _mass_functions(data)
    yield "figure_3_traces", _traces(data)
    for mode in data.modes:
        ending = f"_psi_{mode.psi}" if len(data.modes) > 1 else ""
        yield f"figure_4_projections{ending}", _projections(data, mode)
        yield f"figure_5_fields{ending}", _fields(data, mode)
    yield "figure_6_power", _power(data)


def _chains(mode: Mode) -> str:
    """The chains of a mode."""
    numbers = ", ".join(map(str, mode.chains))
    return f"chain{'s' if len(mode.chains) > 1 else ''} {numbers}"


def _mass_functions(data: FigureData) -> Figure:
    panels = [
        figures.HaloCounts(
            f"{_PSI[mode.psi]}: {_chains(mode)}",
            mode.found,
            mode.expected_mean,
            mode.expected_std,
            mode.start,
            mode.volumes,
        )
        for mode in data.modes
    ]
    start = "start" if data.start_is_given else "start (first sweep)"
    edges = data.log_mass_edges / np.log(10.0)
    return figures.mass_functions(edges, data.environments, panels, start)


def _traces(data: FigureData) -> Figure:
    kinds: dict[int, list[str]] = {}
    for mode in data.modes:
        for chain in mode.chains:
            kinds.setdefault(chain, []).append(mode.psi)
    chains = [
        f"chain {chain}" + (rf": $\psi$ {' and '.join(kinds[chain])}" if chain in kinds else "")
        for chain in range(data.theta.shape[1])
    ]
    names = [figures.readable_name(name) for name in data.names]
    return plots.parameter_traces(data.theta, names, data.warmup, chains)


def _projections(data: FigureData, mode: Mode) -> Figure:
    example = mode.example
    sample = {
        "initial": example.initial,
        "evolved": example.evolved,
        "psi": example.psi,
        "halo_mass": example.halo_mass,
    }
    reference = {"halo_mass": data.halo_mass}
    name = "catalogue"
    if data.reference is not None and example.reference_psi is not None:
        name = "simulation" if data.reference.is_simulated else "truth"
        reference |= {
            "initial": data.reference.initial,
            "evolved": data.reference.evolved,
            "psi": example.reference_psi,
        }
    return figures.projections(
        {name: reference, "sample": sample},
        data.box_size,
        max(1, len(data.counts) // _SLABS),
        f"{_PSI[mode.psi]}: sweep {example.sweep} of chain {example.chain}",
    )


def _fields(data: FigureData, mode: Mode) -> Figure:
    if data.reference is not None and mode.reference_psi is not None:
        whose = "simulation" if data.reference.is_simulated else "truth"
        reference = {"evolved": data.reference.evolved, "psi": mode.reference_psi}
        headings = (f"evolved density, {whose}", rf"$\psi$ of the {whose}'s density")
    else:
        reference = {"counts": data.counts, "halo_mass": data.halo_mass}
        headings = ("haloes of the catalogue", "their mass")
    samples = f"{mode.num_fields} sample{'s' if mode.num_fields > 1 else ''}"
    return figures.field_moments(
        reference,
        {"evolved": mode.evolved_mean, "psi": mode.psi_mean},
        {"evolved": mode.evolved_variance, "psi": mode.psi_variance},
        data.box_size,
        headings,
        f"{_PSI[mode.psi]}: {samples} of {_chains(mode)}",
    )


def _power(data: FigureData) -> Figure:
    several = len(data.modes) > 1
    samples = {(rf"$\psi$ {mode.psi}" if several else "samples"): mode.power for mode in data.modes}
    return plots.power_spectra(
        data.k, samples, data.prior_power, data.modes_per_shell, data.true_power
    )
