"""Naive NumPy references: one loop per sum, no cleverness."""

import itertools

import numpy as np


def cloud_in_cell(positions, num_cells):
    """Mass [N, N, N] of unit particles at `positions` [P, 3] in cells."""
    mesh = np.zeros((num_cells,) * 3)
    for particle in positions:
        base = np.floor(particle).astype(int)
        offset = particle - base
        for corner in itertools.product((0, 1), repeat=3):
            weight = np.prod([d if c else 1 - d for c, d in zip(corner, offset, strict=True)])
            mesh[tuple((base + corner) % num_cells)] += weight
    return mesh


def mixture_density(log_mass, amplitude, mean, scale, parameterisation):
    """dn/dlogM of one environment by its definition, scalar `log_mass`, lists of components."""
    total = 0.0
    for alpha, mu, sigma in zip(amplitude, mean, scale, strict=True):
        normal = np.exp(-0.5 * ((log_mass - mu) / sigma) ** 2) / (sigma * np.sqrt(2 * np.pi))
        # dn/dM = alpha e^-mu N, and dn/dlogM = M dn/dM
        total += alpha * normal * (np.exp(log_mass - mu) if parameterisation == "mass" else 1.0)
    return total


def directional_derivative(function, point, direction, step):
    """Central difference of the fourth order along `direction`."""
    values = [function(point + c * step * direction) for c in (-2, -1, 1, 2)]
    return (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * step)
