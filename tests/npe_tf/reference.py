"""Naive NumPy references: one loop per sum, no cleverness."""

import itertools
import math

import numpy as np


def nearest_grid_point(positions, num_cells):
    """Mass [N, N, N] of unit particles at `positions` [P, 3] in cells."""
    mesh = np.zeros((num_cells,) * 3)
    for particle in positions:
        mesh[tuple(np.rint(particle).astype(int) % num_cells)] += 1.0
    return mesh


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


def triangular_shaped_cloud(positions, num_cells):
    """Mass [N, N, N] of unit particles at `positions` [P, 3] in cells."""
    mesh = np.zeros((num_cells,) * 3)
    for particle in positions:
        nearest = np.rint(particle).astype(int)
        for step in itertools.product((-1, 0, 1), repeat=3):
            vertex = nearest + step
            distance = np.abs(particle - vertex)
            weight = np.where(distance < 0.5, 0.75 - distance**2, 0.5 * (1.5 - distance) ** 2)
            mesh[tuple(vertex % num_cells)] += np.prod(weight)
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


def mixture_integral(log_threshold, amplitude, mean, scale, parameterisation):
    """Haloes above the threshold per volume in one environment, by the paper's formula."""
    total = 0.0
    for alpha, mu, sigma in zip(amplitude, mean, scale, strict=True):
        if parameterisation == "mass":
            alpha, mu = alpha * math.exp(sigma**2 / 2), mu + sigma**2
        total += alpha / 2 * math.erfc((log_threshold - mu) / (math.sqrt(2) * sigma))
    return total


def poisson_log_likelihood(haloes, mixture, log_threshold, parameterisation, completeness, margin):
    """Log likelihood of a catalogue, halo by halo and voxel by voxel.

    `mixture` is amplitude, mean and scale, each [N', N', N', T] with N' = N - 2 margin, and
    `completeness` is [N, N, N].
    """
    num_cells = len(completeness)
    cell = haloes.box_size / num_cells
    inside = range(margin, num_cells - margin)

    def at(voxel):
        return [quantity[tuple(np.subtract(voxel, margin))] for quantity in mixture]

    total = 0.0
    for voxel in itertools.product(inside, repeat=3):
        integral = mixture_integral(log_threshold, *at(voxel), parameterisation)
        total -= cell**3 * completeness[voxel] * integral
    for position, mass in zip(haloes.positions, haloes.mass, strict=True):
        voxel = tuple(round(x / cell) % num_cells for x in position)
        if math.log(mass) >= log_threshold and all(v in inside for v in voxel):
            density = mixture_density(math.log(mass), *at(voxel), parameterisation)
            total += math.log(completeness[voxel] * density)
    return total


def softplus(x):
    return math.log1p(math.exp(x))


def neural_bias(delta, theta, log_threshold, softening, sigma_init, margin):
    """Log amplitude, mean and scale [N', N', N', 2] of the paper's model of 17 parameters."""
    num_cells = len(delta)
    shells, bias, head = theta[:4], theta[4], np.reshape(theta[5:], (3, 2, 2))
    alpha_init = math.log(math.expm1(1e-3))
    inside = range(margin, num_cells - margin)
    outputs = np.zeros((3, *(len(inside),) * 3, 2))
    for voxel in itertools.product(inside, repeat=3):
        total = bias
        for offset in itertools.product((-1, 0, 1), repeat=3):
            neighbour = tuple((v + o) % num_cells for v, o in zip(voxel, offset, strict=True))
            weight = shells[sum(o * o for o in offset)] * math.sqrt(1 / (4 * math.pi))
            total += weight * math.log(1 + delta[neighbour] + softening)
        psi = softplus(total)
        (alpha_0, alpha_1), (step_0, step_1), (sigma_0, sigma_1) = (w * psi + b for w, b in head)
        mean = step_0 + log_threshold
        outputs[(slice(None), *np.subtract(voxel, margin))] = [
            [math.log(softplus(alpha + alpha_init)) for alpha in (alpha_0, alpha_1)],
            [mean, mean + max(0.0, step_1)],
            [softplus(sigma + sigma_init) for sigma in (sigma_0, sigma_1)],
        ]
    return outputs


def friends_of_friends(positions, box_size, length):
    """Smallest index of each particle's group [P]; every pair is looked at."""
    parent = list(range(len(positions)))

    def root(particle):
        while parent[particle] != particle:
            particle = parent[particle]
        return particle

    for one, other in itertools.combinations(range(len(positions)), 2):
        apart = np.abs(positions[one] - positions[other])
        apart = np.minimum(apart, box_size - apart)
        if math.sqrt(np.sum(apart**2)) <= length:
            low, high = sorted((root(one), root(other)))
            parent[high] = low
    return [root(particle) for particle in range(len(positions))]
