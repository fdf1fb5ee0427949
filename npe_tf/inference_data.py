"""A chain file as ArviZ takes it.

Needs ArviZ, of any version from 0.20 on, and nothing of TensorFlow.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npe_tf.chain_store import CHAIN_FILE, ChainStore
from npe_tf.grid import Grid

__all__ = ["to_inference_data"]

_SAMPLE_STATS = {
    "log_posterior": "lp",
    "acceptance": "acceptance_rate",
    "step_size": "step_size",
}
_BLOCKS = ["field", "parameters"]

# Dimensions of a row of each column that has coordinates.
_DIMENSIONS = {
    "theta": ("parameter",),
    "power": ("k",),
    "modes": ("mode",),
    "voxels": ("voxel",),
    "mass_function": ("environment", "mass"),
    "acceptance": ("block",),
    "step_size": ("block",),
}


def to_inference_data(path: str | Path, warmup: bool = False) -> Any:
    """Read a run, finished or still being written, for ArviZ.

    Args:
        path: the chain file, or the folder of the run.
        warmup: whether the sweeps of the warm-up come too, in groups of their own.

    Returns:
        `arviz.InferenceData`, or an `xarray.DataTree` from ArviZ 1 on, with the groups

        * ``posterior``: ``theta`` `[chain, draw, parameter]`, ``power`` `[chain, draw, k]` in
            (Mpc/h)^3, and what else is watched, see `npe_tf.watched`: ``modes``
            `[chain, draw, mode]`, ``voxels`` `[chain, draw, voxel]`, ``mass_function``
            `[chain, draw, environment, mass]`;
        * ``sample_stats``: ``lp``, the log posterior up to a constant, `[chain, draw]`;
            ``acceptance_rate`` and ``step_size`` `[chain, draw, block]`;
        * ``observed_data``: ``counts``, haloes per voxel, if the run stored them;
        * ``constant_data``: other arrays that the run stored once, such as the true field;
        * with `warmup`, ``warmup_posterior`` and ``warmup_sample_stats``.

        The run's attributes are attributes of the whole. Fields are stored for some sweeps only and
        stay in the file.

    Raises:
        ImportError: if ArviZ is not installed.
        OSError: if there is no chain.
        ValueError: if it has no samples yet.
    """
    try:
        import arviz
        import xarray
    except ImportError as error:
        raise ImportError(
            "`to_inference_data` needs ArviZ. Expected the extra `arviz`: pip install "
            "'npe_tf[arviz]'"
        ) from error
    path = Path(path)
    with ChainStore.open(path / CHAIN_FILE if path.is_dir() else path) as store:
        groups = _Reader(store).groups(xarray.Dataset, warmup)
        attributes = _netcdf_attributes(store.attributes)
    if int(arviz.__version__.split(".")[0]) < 1:
        return arviz.InferenceData(attrs=attributes, **groups)
    tree = xarray.DataTree.from_dict(groups)
    tree.attrs.update(attributes)
    return tree


def _netcdf_attributes(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Without what the coordinates say; NetCDF has no booleans."""
    kept = {
        name: int(value) if isinstance(value, bool) else value
        for name, value in attributes.items()
        if not name.startswith(("names.", "watched."))
    }
    return {**kept, "inference_library": "npe_tf"}


class _Reader:
    def __init__(self, store: ChainStore) -> None:
        self.store = store
        attributes = store.attributes
        self.warmup = int(attributes["num_warmup"])
        self.num_sweeps = store.num_committed
        if self.num_sweeps <= self.warmup:
            raise ValueError(
                "Invalid value for argument `path`. Expected a run with at least one sweep of "
                f"sampling. Received: {self.num_sweeps} sweeps, {self.warmup} of them warm-up"
            )
        grid = Grid(int(attributes["num_cells"]), float(attributes["box_size"]))
        known = {
            "parameter": attributes["parameters"],
            "k": grid.shell_wavenumber(),
            "mode": attributes.get("names.modes"),
            "voxel": attributes.get("names.voxels"),
            "environment": attributes.get("watched.environments"),
            "mass": attributes.get("watched.masses"),
            "block": _BLOCKS,
        }
        self.coordinates = {name: list(x) for name, x in known.items() if x is not None}

    def groups(self, dataset: Any, warmup: bool) -> dict[str, Any]:
        """Datasets by name."""
        stats = {n: name for n, name in _SAMPLE_STATS.items() if n in self.store.columns}
        spans = {"": (self.warmup, self.num_sweeps)}
        if warmup:
            spans["warmup_"] = (0, self.warmup)
        groups = {}
        for prefix, span in spans.items():
            groups[f"{prefix}posterior"] = dataset(self._variables(self._quantities(), *span))
            groups[f"{prefix}sample_stats"] = dataset(self._variables(stats, *span))
        observed = [name for name in self.store.constants if name == "counts"]
        others = [name for name in self.store.constants if name != "counts"]
        for group, names in (("observed_data", observed), ("constant_data", others)):
            if names:
                groups[group] = dataset(
                    {name: self._constant(name, self.store.constant(name)) for name in names}
                )
        return groups

    def _quantities(self) -> dict[str, str]:
        marked = [n for n in self.store.columns if f"names.{n}" in self.store.attributes]
        return {name: name for name in ("theta", "power", *marked)}

    def _variables(self, names: dict[str, str], start: int, stop: int) -> dict[str, Any]:
        """Dimensions and values by name, and the coordinates."""
        variables: dict[str, Any] = {
            "chain": np.arange(self.store.columns["theta"].shape[0]),
            "draw": np.arange(stop - start),
        }
        for column, name in names.items():
            values = self.store.read(column, start, stop).swapaxes(0, 1)
            row = self._row_dimensions(column, name, values.shape[2:])
            variables[name] = (("chain", "draw", *row), values)
            variables |= {dim: self.coordinates[dim] for dim in row if dim in self.coordinates}
        return variables

    def _row_dimensions(self, column: str, name: str, shape: tuple[int, ...]) -> tuple[str, ...]:
        """Those with coordinates if these fit, as files of other versions might not."""
        dimensions = _DIMENSIONS.get(column, ())
        lengths = tuple(len(self.coordinates.get(dim, ())) for dim in dimensions)
        return dimensions if lengths == shape else _numbered(name, len(shape))

    @staticmethod
    def _constant(name: str, value: NDArray[Any]) -> Any:
        return _numbered(name, value.ndim), value


def _numbered(name: str, rank: int) -> tuple[str, ...]:
    return tuple(f"{name}_dim_{axis}" for axis in range(rank))
