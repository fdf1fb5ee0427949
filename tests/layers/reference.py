"""The layers in naive NumPy: loops over cells, neighbours and components, nothing shared."""

import math

import numpy as np


def shell_numbers(kernel_size):
    """Number of the shell of every cell of a kernel, `[k, k, k]`, by comparing all pairs."""
    reach = kernel_size // 2
    cells = {}
    for i in range(kernel_size):
        for j in range(kernel_size):
            for k in range(kernel_size):
                cells[i, j, k] = (i - reach) ** 2 + (j - reach) ** 2 + (k - reach) ** 2
    numbers = np.zeros((kernel_size,) * 3, int)
    for cell, squared_radius in cells.items():
        numbers[cell] = len({other for other in cells.values() if other < squared_radius})
    return numbers


def multipole_conv(inputs, weights, bias, kernel_size, padding):
    """`[batch, D, H, W, in]` and weights `[num_weights, in, out]` to the output of l = 0."""
    reach = kernel_size // 2
    numbers = shell_numbers(kernel_size)
    batch, *mesh, channels = inputs.shape
    first = reach if padding == "valid" else 0
    sizes = [n - 2 * first for n in mesh]
    outputs = np.zeros((batch, *sizes, weights.shape[2]))
    for b, x, y, z in np.ndindex(batch, *sizes):
        for i, j, k in np.ndindex(kernel_size, kernel_size, kernel_size):
            cell = [n + first + d - reach for n, d in zip((x, y, z), (i, j, k), strict=True)]
            if padding == "periodic":
                cell = [n % size for n, size in zip(cell, mesh, strict=True)]
            elif any(not 0 <= n < size for n, size in zip(cell, mesh, strict=True)):
                continue
            for c in range(channels):
                value = inputs[(b, *cell, c)] / (2 * math.sqrt(math.pi))
                outputs[b, x, y, z] += value * weights[numbers[i, j, k], c]
    return outputs + bias


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
