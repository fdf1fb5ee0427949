"""Writes the same haloes in every format that is read, each in the words of its code."""

import dataclasses
import gzip
import io

import h5py
import numpy as np
import pytest


@dataclasses.dataclass
class Haloes:
    """Haloes of a box of 100 Mpc/h at a = 0.5; every third is a subhalo of the one before."""

    positions: np.ndarray
    mass: np.ndarray
    parent: np.ndarray

    @classmethod
    def draw(cls, number=12, seed=0):
        rng = np.random.default_rng(seed)
        parent = np.where(np.arange(number) % 3 == 2, np.arange(number) - 1, -1)
        return cls(rng.uniform(0, 100, (number, 3)), 10 ** rng.uniform(12, 15, number), parent)


def rockstar(haloes):
    lines = [
        "#ID DescID Mvir Vmax Vrms Rvir Rs Np X Y Z VX VY VZ M200b M200c A[x] PID",
        "#a = 0.500000",
        "#Om = 0.300000; Ol = 0.700000; h = 0.700000",
        "#FOF linking length: 0.280000",
        "#Unbound Threshold: 0.500000; FOF Refinement Threshold: 0.700000",
        "#Particle mass: 1.03289e+10 Msun/h",
        "#Box size: 100.000000 Mpc/h",
        "#Force resolution assumed: 0.009 Mpc/h",
        "#Units: Masses in Msun / h",
        "#Units: Positions in Mpc / h (comoving)",
        "#Units: Velocities in km / s (physical, peculiar)",
        "#Units: Halo Distances, Lengths, and Radii in kpc / h (comoving)",
        "#Np is an internal debugging quantity.",
        "#Rockstar Version: 0.99.9-RC3+",
    ]
    for i, (x, m, p) in enumerate(zip(haloes.positions, haloes.mass, haloes.parent, strict=True)):
        at = " ".join(f"{v:.17g}" for v in x)
        lines.append(f"{i} -1 {m:.17g} 200 210 9 3 77 {at} 1 2 3 {1.1 * m:.17g} {m / 2:g} 0.1 {p}")
    return text(lines)


def consistent_trees(haloes):
    lines = [
        "#scale(0) id(1) desc_scale(2) pid(3) upid(4) sam_mvir(5) mvir(6) x(7) y(8) z(9) A[x](10) "
        "M200c(11) b_to_a(500c)(12)",
        "#Omega_M = 0.300000; Omega_L = 0.700000; h0 = 0.700000",
        "#Full box size = 100.000000 Mpc/h",
        "#Scale: Scale factor of halo.",
        "#SAM_Mvir: Halo mass, smoothed across accretion history (Msun/h).  Only for models.",
        "#Mvir: Halo mass (Msun/h).",
        "#X/Y/Z: Halo position (Mpc/h comoving).",
        "#JX/JY/JZ: Halo angular momenta ((Msun/h) * (Mpc/h) * km/s (physical)).",
    ]
    for i, (x, m, p) in enumerate(zip(haloes.positions, haloes.mass, haloes.parent, strict=True)):
        at = " ".join(f"{v:.17g}" for v in x)
        lines.append(f"0.50000 {i} 0.6 {p} {p} {m:g} {m:.17g} {at} 0.3 {m / 2:g} 0.9")
    return text(lines)


def pinocchio(haloes):
    lines = [
        "# Group catalog for redshift 1.000000 and minimal mass of 10 particles",
        "#    1) group ID",
        "#    2) group mass (Msun/h)",
        "# 3- 5) initial position (Mpc/h)",
        "# 6- 8) final position (Mpc/h)",
        "# 9-11) velocity (km/s)",
        "#   12) number of particles",
        "#",
    ]
    for i, (x, m) in enumerate(zip(haloes.positions, haloes.mass, strict=True)):
        at = " ".join(f"{v:.17g}" for v in x)
        lines.append(f"  {i} {m:.17g}  1.00 2.00 3.00  {at}  -1.00 0.00 2.50   30")
    return text(lines)


def comma_separated(haloes):
    lines = ["# box_size = 100 Mpc/h, redshift = 1", "id,x [Mpc/h],y [Mpc/h],z [Mpc/h],"
             "mass (Msun/h),parent_id"]  # fmt: skip
    for i, (x, m, p) in enumerate(zip(haloes.positions, haloes.mass, haloes.parent, strict=True)):
        lines.append(",".join([str(i), *(f"{v:.17g}" for v in x), f"{m:.17g}", str(p)]))
    return text(lines)


def white_space(haloes):
    out = io.StringIO()
    table = np.column_stack([haloes.mass, haloes.positions])
    np.savetxt(out, table, header="mass x y z", fmt="%.17g")
    return out.getvalue().encode()


def hdf5(haloes):
    out = io.BytesIO()
    with h5py.File(out, "w") as file:
        file["Group/GroupPos"] = haloes.positions
        file["Group/Group_M_Crit200"] = haloes.mass / 1e10
        file["Group/Group_M_Mean200"] = haloes.mass / 2e10
        file["Group/parent_id"] = haloes.parent
        file["Group/GroupPos"].attrs["unit"] = "Mpc/h"
        file["Group/Group_M_Crit200"].attrs["units"] = "1e10 Msun/h"
        file.create_group("Header").attrs.update(
            {"BoxSize": 100.0, "Redshift": 1.0, "Omega0": 0.3, "HubbleParam": 0.7}
        )
    return out.getvalue()


def npz(haloes):
    out = io.BytesIO()
    np.savez_compressed(
        out, position=haloes.positions, mass=haloes.mass, pid=haloes.parent,
        box_size=100.0, redshift=1.0, Omega_m=0.3, h=0.7,
        length_unit="Mpc/h", mass_unit="Msun/h",
    )  # fmt: skip
    return out.getvalue()


def _astropy_table(haloes):
    table = pytest.importorskip("astropy.table").Table()
    for axis, name in enumerate("xyz"):
        table[name] = haloes.positions[:, axis]
    table["mvir"] = haloes.mass
    table["pid"] = haloes.parent
    return table


def fits(haloes):
    table = _astropy_table(haloes)
    from astropy.io import fits as module

    hdu = module.table_to_hdu(table)
    for name in "xyz":
        hdu.columns[name].unit = "Mpc/h"
    hdu.columns["mvir"].unit = "Msun/h"
    hdu.header.update({"BOXSIZE": 100.0, "REDSHIFT": 1.0, "OMEGA_M": 0.3, "HUBBLE": 70.0})
    out = io.BytesIO()
    module.HDUList([module.PrimaryHDU(), hdu]).writeto(out)
    return out.getvalue()


def ecsv(haloes):
    table = _astropy_table(haloes)
    from astropy import units
    from astropy.cosmology import units as cosmology

    for name in "xyz":
        table[name].unit = units.Mpc / cosmology.littleh
    table["mvir"].unit = units.solMass / cosmology.littleh
    table.meta.update(
        {"box_size": 100.0, "redshift": 1.0, "Omega_m": 0.3, "h": 0.7}
    )  # fmt: skip
    out = io.StringIO()
    table.write(out, format="ascii.ecsv")
    return out.getvalue().encode()


def text(lines):
    return ("\n".join(lines) + "\n").encode()


# what it takes besides the file to read it, and whether it has parents and a cosmology
WRITERS = {
    "rockstar": (rockstar, {}, True, True),
    "consistent_trees": (consistent_trees, {}, True, True),
    "pinocchio": (pinocchio, {"box_size": 100.0}, False, False),
    "comma_separated": (comma_separated, {}, True, False),
    "white_space": (
        white_space,
        {"box_size": 100.0, "length_unit": "Mpc/h", "mass_unit": "Msun/h"},
        False,
        False,
    ),
    "hdf5": (hdf5, {"columns": {"mass": "Group/Group_M_Crit200"}}, True, True),
    "npz": (npz, {}, True, True),
    "fits": (fits, {}, True, True),
    "ecsv": (ecsv, {}, True, True),
}


def write(folder, name, haloes, compressed=False):
    """Write a file; returns its path and the options to read it with."""
    writer, options, *_ = WRITERS[name]
    data = writer(haloes)
    path = folder / f"{name}.dat{'.gz' if compressed else ''}"
    path.write_bytes(gzip.compress(data) if compressed else data)
    return path, options
