"""The layers in naive NumPy: loops over cells, neighbours and components, nothing shared."""

import math
from fractions import Fraction

import numpy as np
import scipy.special


def cell_offsets(kernel_size, dilation_rate):
    """Exact offset of every cell of a kernel from its centre: a dictionary from cell to vector."""
    return {
        cell: [
            Fraction(2 * n + 1 - size, 2) * rate
            for n, size, rate in zip(cell, kernel_size, dilation_rate, strict=True)
        ]
        for cell in np.ndindex(*kernel_size)
    }


def shell_numbers(kernel_size, dilation_rate):
    """Number of the shell of every cell and the shells' squared radii, by comparing all pairs."""
    squared = {
        cell: sum(x * x for x in offset)
        for cell, offset in cell_offsets(kernel_size, dilation_rate).items()
    }
    numbers = np.zeros(kernel_size, int)
    for cell, radius in squared.items():
        numbers[cell] = len({other for other in squared.values() if other < radius})
    return numbers, sorted(set(squared.values()))


def harmonics(vector, multipole):
    """Real harmonics of one order in the direction of a vector: a dictionary from m to value."""
    vector = [float(x) for x in vector]
    nowhere = multipole > 0 and not any(vector)
    if len(vector) == 1:
        return {0: math.sqrt(0.5) * (np.sign(vector[0]) if multipole else 1.0)}
    if len(vector) == 2:
        if multipole == 0:
            return {0: 1 / math.sqrt(2 * math.pi)}
        phase = multipole * math.atan2(vector[1], vector[0])
        pair = {-multipole: math.sin(phase), multipole: math.cos(phase)}
        return {m: 0.0 if nowhere else y / math.sqrt(math.pi) for m, y in pair.items()}
    x, y, z = vector
    theta, phi = math.atan2(math.hypot(x, y), z), math.atan2(y, x)
    values = {}
    for m in range(-multipole, multipole + 1):
        # SciPy's carry the Condon-Shortley phase, which the real ones do not
        value = (-1) ** m * scipy.special.sph_harm_y(multipole, abs(m), theta, phi)
        part = value.imag if m < 0 else value.real
        values[m] = 0.0 if nowhere else part * (math.sqrt(2) if m else 1.0)
    return values


def multipole_kernels(kernel_size, multipole, dilation_rate):
    """Dense kernels of one order that do not vanish: a list of (m, squared radius, kernel)."""
    offsets = cell_offsets(kernel_size, dilation_rate)
    numbers, radii = shell_numbers(kernel_size, dilation_rate)
    kernels = []
    for number, radius in enumerate(radii):
        for m in harmonics(next(iter(offsets.values())), multipole):
            kernel = np.zeros(kernel_size)
            for cell, offset in offsets.items():
                if numbers[cell] == number:
                    kernel[cell] = harmonics(offset, multipole)[m]
            if np.abs(kernel).max() > 1e-9:
                kernels.append((m, radius, kernel))
    return kernels


def dense_kernel(weights, kernel_size, multipoles, dilation_rate, share_orders):
    """For each order weights `[num_weights, channels, filters]` to one dense kernel.

    Its shape is `[*kernel_size, channels, maps]`.
    """
    maps = []
    for order, values in zip(multipoles, weights, strict=True):
        kernels = multipole_kernels(kernel_size, order, dilation_rate)
        radii = sorted({radius for _, radius, _ in kernels})
        for f in range(values.shape[2]):
            for m in harmonics([1] * len(kernel_size), order):
                dense = np.zeros((*kernel_size, values.shape[1]))
                for number, (its_m, radius, kernel) in enumerate(kernels):
                    if its_m == m:
                        j = radii.index(radius) if share_orders else number
                        for c in range(values.shape[1]):
                            dense[..., c] += values[j, c, f] * kernel
                maps.append(dense)
    return np.stack(maps, axis=-1)


def convolution(inputs, kernel, strides, dilation_rate, padding):
    """`[batch, *mesh, channels]` to `[batch, *mesh', maps]`, by cells of mesh' and kernel.

    The kernel is `[*kernel_size, channels, maps]`.
    """
    batch, *mesh, _ = inputs.shape
    *kernel_size, _, maps = kernel.shape
    sizes, befores = [], []
    for n, extent, stride, rate in zip(mesh, kernel_size, strides, dilation_rate, strict=True):
        reach = (extent - 1) * rate
        if padding == "valid":
            sizes.append(math.ceil((n - reach) / stride))
            befores.append(0)
        else:
            sizes.append(math.ceil(n / stride))
            # zeros as TensorFlow puts them: as few as the strides allow, half of them before
            needed = max((sizes[-1] - 1) * stride + reach + 1 - n, 0)
            befores.append((needed if padding == "same" else reach) // 2)
    outputs = np.zeros((batch, *sizes, maps))
    for position in np.ndindex(*sizes):
        for offset in np.ndindex(*kernel_size):
            cell = [
                p * stride + d * rate - before
                for p, stride, d, rate, before in zip(
                    position, strides, offset, dilation_rate, befores, strict=True
                )
            ]
            if padding == "periodic":
                cell = [n % size for n, size in zip(cell, mesh, strict=True)]
            elif any(not 0 <= n < size for n, size in zip(cell, mesh, strict=True)):
                continue
            outputs[(slice(None), *position)] += inputs[(slice(None), *cell)] @ kernel[offset]
    return outputs


def softplus(x):
    return x + math.log1p(math.exp(-x)) if x > 0 else math.log1p(math.exp(x))


def mixture_density(
    features, weights, log_mass_threshold, initial_amplitude, initial_width, mean_activation
):
    """Features `[n, F]` and the six weights to amplitude, mean and scale, each `[n, T]`."""
    amplitude_kernel, amplitude_bias, mean_kernel, mean_bias, scale_kernel, scale_bias = weights
    amplitude_start = math.log(math.exp(initial_amplitude) - 1)
    width_start = math.log(math.exp(initial_width) - 1)
    num_components = len(mean_bias)
    amplitude, mean, scale = np.zeros((3, len(features), num_components))
    for n, psi in enumerate(features):
        for t in range(num_components):
            a, m, s = amplitude_bias[t], mean_bias[t], scale_bias[t]
            for f, value in enumerate(psi):
                a += amplitude_kernel[f, t] * value
                m += mean_kernel[f, t] * value
                s += scale_kernel[f, t] * value
            amplitude[n, t] = softplus(a + amplitude_start)
            scale[n, t] = softplus(s + width_start)
            if t == 0:
                mean[n, t] = m + log_mass_threshold
            else:
                step = softplus(m) if mean_activation == "softplus" else max(0.0, m)
                mean[n, t] = mean[n, t - 1] + step
    return amplitude, mean, scale


def component_density(family, x, mean, scale, threshold):
    """Density per unit x of one component, by its definition."""
    if family == "tapered_pareto":
        mass, smallest, cut_off = math.exp(x), math.exp(threshold), math.exp(mean)
        survival = (mass / smallest) ** (-1 / scale) * math.exp(-(mass - smallest) / cut_off)
        return (1 / scale + mass / cut_off) * survival
    normal = math.exp(-0.5 * ((x - mean) / scale) ** 2) / (scale * math.sqrt(2 * math.pi))
    return normal * math.exp(x - mean) if family == "per_mass_normal" else normal


def component_integral(family, mean, scale, threshold):
    """The density's integral above the threshold."""
    if family == "tapered_pareto":
        return 1.0
    tilt = scale**2 if family == "per_mass_normal" else 0.0
    return math.exp(tilt / 2) * math.erfc((threshold - mean - tilt) / (math.sqrt(2) * scale)) / 2


def poisson_process_loss(marks, mixture, cell_volume, threshold, family):
    """Marks `[n, K]` and mixtures `[n, 3, T]` to the loss of each of n cells."""
    losses = np.zeros(len(marks))
    for cell, (log_amplitude, mean, scale) in enumerate(mixture):
        components = list(zip(np.exp(log_amplitude), mean, scale, strict=True))
        for alpha, mu, sigma in components:
            losses[cell] += cell_volume * alpha * component_integral(family, mu, sigma, threshold)
        for x in marks[cell]:
            if x >= threshold:
                losses[cell] -= math.log(
                    sum(
                        alpha * component_density(family, x, mu, sigma, threshold)
                        for alpha, mu, sigma in components
                    )
                )
    return losses
