"""The data that is shipped with the package."""

from __future__ import annotations

import dataclasses
import importlib.resources
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from npe_tf.catalogue import Catalogue, read_fields

__all__ = ["NBodyBox", "load_nbody_box", "nbody_box_path"]

_COSMOLOGY = ("Omega_m", "Omega_b", "h", "sigma8", "n_s")


@dataclasses.dataclass(frozen=True, eq=False)
class NBodyBox:
    """A simulated box with its haloes and the fields they formed from.

    Attributes:
        catalogue: friends-of-friends haloes of at least 20 particles, in file order.
        delta_linear: overdensity of the initial conditions extrapolated linearly to a = 1, with
            the modes below the Nyquist frequency of its mesh, `[64, 64, 64]` float32.
        delta_final: overdensity at a = 1, cloud-in-cell from all particles, `[64, 64, 64]` float32.
        cosmology: the parameters Omega_m, Omega_b, h, sigma8 and n_s of the flat LCDM universe
            that was simulated, by the names that `npe_tf.cosmology.Cosmology` gives them.
        scale_factor: of the haloes and of `delta_final`.
        attributes: everything that the file says of itself: units, conventions and the numerical
            parameters of the simulation.
    """

    catalogue: Catalogue
    delta_linear: NDArray[np.float32]
    delta_final: NDArray[np.float32]
    cosmology: Mapping[str, float]
    scale_factor: float
    attributes: Mapping[str, Any]

    @property
    def box_size(self) -> float:
        """Comoving side of the box [Mpc/h]."""
        return self.catalogue.box_size

    @property
    def num_cells(self) -> int:
        """Cells of the fields' mesh along each side."""
        return len(self.delta_linear)


def nbody_box_path() -> Path:
    """Path of the shipped N-body box, an HDF5 file in the layout of `npe_tf.catalogue`.

    Raises:
        FileNotFoundError: if the package was installed without its data.
    """
    path = Path(str(importlib.resources.files("npe_tf") / "data" / "nbody_box_250.h5"))
    if not path.is_file():
        raise FileNotFoundError(
            f"The shipped simulation is not at {path}. Install npe_tf with pip, unpacked"
        )
    return path


def load_nbody_box() -> NBodyBox:
    """Load the shipped N-body box: 250 Mpc/h at a = 1 with 38,629 haloes.

    A particle-mesh simulation of 256^3 particles of 8.14e10 Msun/h with a 512^3 force mesh,
    started from second-order perturbation theory at a = 0.05 and run to a = 1 in 40 steps. Its
    halo mass function is within 20% of published fits for friends-of-friends haloes; it is low at
    2e12 Msun/h, where the force mesh smooths.

    Returns:
        The haloes (31,967 of them above 2e12 Msun/h) and the linear and the final overdensity.

    Raises:
        FileNotFoundError: if the package was installed without its data.
        ValueError: if the file is damaged.
    """
    path = nbody_box_path()
    catalogue = Catalogue.read_hdf5(path)
    fields = read_fields(path)
    with h5py.File(path, "r") as file:
        attributes = {
            key: value.item() if isinstance(value, np.generic) else value
            for key, value in file.attrs.items()
        }
    return NBodyBox(
        catalogue=catalogue,
        delta_linear=fields["delta_linear"].astype(np.float32),
        delta_final=fields["delta_final"].astype(np.float32),
        cosmology={name: float(attributes[name]) for name in _COSMOLOGY},
        scale_factor=float(attributes["scale_factor"]),
        attributes=attributes,
    )
