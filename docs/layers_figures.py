"""Make the pictures and the table of rotations in docs/layers.md; needs matplotlib.

``python docs/layers_figures.py``
"""

from __future__ import annotations

import itertools
from pathlib import Path

import keras
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from layers import (
    MultipoleConv3D,
    MultipolePower,
    kernel_panels,
    multipole_basis,
)

IMAGES = Path(__file__).resolve().parent / "images"


def show(ax, kernel, title):
    """One kernel, blue to red about white."""
    limit = np.abs(kernel).max()
    ax.imshow(kernel_panels(kernel), cmap="RdBu_r", vmin=-limit, vmax=limit)
    ax.set_title(title, fontsize=8)
    ax.set_axis_off()


def smooth_kernel(basis, m, width):
    """Sum over shells of a Gaussian of the radius, for one m."""
    weights = [
        np.exp(-label.squared_radius / (2 * width**2)) if label.m == m else 0.0
        for label in basis.labels
    ]
    return basis.kernel(weights)


def kernels_2d():
    """Harmonics of l = 0..3 on 9 x 9 cells."""
    fig, axes = plt.subplots(2, 4, figsize=(6, 3.2), constrained_layout=True)
    for order in range(4):
        basis = multipole_basis(9, order, num_axes=2)
        for row, m in enumerate((order, -order) if order else (0, None)):
            if m is None:
                axes[row, order].set_axis_off()
                continue
            name = f"l = {order}" + (f", m = {m}" if order else "")
            show(axes[row, order], smooth_kernel(basis, m, 2.0), name)
    fig.savefig(IMAGES / "kernels_2d.png", dpi=110)


def kernels_3d():
    """Harmonics of l = 0..3 on 5^3 cells, as five slices each."""
    fig, axes = plt.subplots(7, 4, figsize=(10, 5), constrained_layout=True)
    for order, column in itertools.product(range(4), range(7)):
        ax, m = axes[column, order], column - order
        if m > order:
            ax.set_axis_off()
            continue
        basis = multipole_basis(5, order)
        show(ax, smooth_kernel(basis, m, 1.5), f"l = {order}, m = {m}")
    fig.savefig(IMAGES / "kernels_3d.png", dpi=110)


def shells_3d():
    """The four shells of a 3^3 kernel, by number."""
    basis = multipole_basis(3, 0)
    fig, ax = plt.subplots(figsize=(4, 1.5), constrained_layout=True)
    ax.imshow(kernel_panels(basis.shells), cmap="viridis")
    for (row, column), number in np.ndenumerate(kernel_panels(basis.shells)):
        if np.isfinite(number):
            ax.text(column, row, int(number), ha="center", va="center", color="w")
    ax.set_axis_off()
    fig.savefig(IMAGES / "shells_3d.png", dpi=110)


def rotations(num, rng):
    """Random rotation matrices `[num, 3, 3]`, uniform."""
    q, r = np.linalg.qr(rng.normal(size=(num, 3, 3)))
    q *= np.sign(np.diagonal(r, axis1=1, axis2=2))[:, np.newaxis]
    return q * np.sign(np.linalg.det(q))[:, np.newaxis, np.newaxis]


def neighbourhoods(size, radius, turns, rng, num_fields=200, num_waves=60):
    """Random fields around the origin, each in many orientations.

    Sums of plane waves with a Gaussian spectrum, which is what a field of white noise smoothed with
    a Gaussian of `radius` cells is; evaluated exactly, so that only the lattice of the layer
    knows of any axes.

    Returns:
        `[turns * num_fields, size, size, size, 1]`.
    """
    axis = np.arange(size) - (size - 1) / 2
    cells = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    waves = rng.normal(size=(num_fields, num_waves, 3)) / radius
    phases = rng.uniform(0, 2 * np.pi, (num_fields, num_waves))
    fields = []
    for turn in turns:
        # (num_fields, cells, waves)
        angle = np.einsum("fwi,ij,cj->fcw", waves, turn, cells) + phases[:, np.newaxis]
        fields.append(np.cos(angle).sum(-1) * np.sqrt(2 / num_waves))
    return np.concatenate(fields).reshape(-1, size, size, size, 1)


def anisotropy(radius, multipoles, size, share_orders=True, isotropic=False, seed=0):
    """Scatter of the output over rotations, relative to its scatter over fields."""
    rng = np.random.default_rng(seed)
    turns = rotations(12, rng)
    layers = [
        MultipoleConv3D(
            8,
            size,
            multipoles,
            share_orders,
            isotropic=isotropic,
            kernel_initializer=keras.initializers.GlorotUniform(seed=seed),
            dtype="float64",
        ),
        MultipolePower(multipoles, dtype="float64"),
    ]
    outputs = neighbourhoods(size, radius, turns, rng)
    for layer in layers:
        outputs = layer(outputs)
    outputs = np.asarray(outputs).reshape(len(turns), -1, 8)
    return np.median(outputs.std(axis=0).mean(axis=0) / outputs.std(axis=1).mean(axis=0))


def rotation_table():
    """Print the table of docs/layers.md and draw it."""
    radii = [1.0, 1.5, 2.0, 3.0, 4.0, 6.0]
    cases = {
        "l = 0, 3^3": {"multipoles": (0,), "size": 3},
        "l = 0, 5^3": {"multipoles": (0,), "size": 5},
        "l = 1, 3^3": {"multipoles": (1,), "size": 3},
        "l = 1, 3^3, m independent": {"multipoles": (1,), "size": 3, "share_orders": False},
        "l = 2, 3^3": {"multipoles": (2,), "size": 3},
        "l = 2, 3^3, isotropic": {"multipoles": (2,), "size": 3, "isotropic": True},
    }
    fig, ax = plt.subplots(figsize=(5, 3.6), constrained_layout=True)
    print("| smoothing [cells] | " + " | ".join(f"{radius:g}" for radius in radii) + " |")
    print("|---" * (len(radii) + 1) + "|")
    for name, arguments in cases.items():
        values = [anisotropy(radius, **arguments) for radius in radii]
        print(f"| {name} | " + " | ".join(f"{value:.2g}" for value in values) + " |")
        solid = arguments.get("isotropic") or arguments["multipoles"][0] < 2
        ax.loglog(radii, values, "o-" if solid else "s:", ms=4, label=name)
    ax.set_xlabel("Gaussian smoothing of the field [cells]")
    ax.set_ylabel("scatter over rotations / scatter over fields")
    ax.legend(fontsize=7)
    fig.savefig(IMAGES / "rotations.png", dpi=110)


if __name__ == "__main__":
    IMAGES.mkdir(exist_ok=True)
    kernels_2d()
    kernels_3d()
    shells_3d()
    rotation_table()
