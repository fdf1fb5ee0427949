"""Seconds per gradient of the log posterior, which is what a chain's time is made of.

Measured on the shipped box, in float32: value and gradient with respect to the field (gravity, bias
model, likelihood) and with respect to the parameters at a fixed density, as the two blocks of the
sampler ask for them, for 32^3 and 64^3 cells with one and eight particles per cell.

Run from the root of the repository: ``python benchmarks/gradient.py``.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from npe_tf.datasets import load_nbody_box
from npe_tf.posterior import PosteriorConfig

MASS_THRESHOLD = 2e12
REPEATS = 20


def compiled_gradient(target: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Value and gradient of a log density as one graph."""

    @tf.function
    def value_and_gradient(state: Any) -> tuple[Any, Any]:
        with tf.GradientTape() as tape:
            tape.watch(state)
            value = target(state)
        return value, tape.gradient(value, state)

    return value_and_gradient


def median_milliseconds(function: Callable[[Any], Any], state: Any) -> float:
    """Median time of a call, after two to compile."""
    times = []
    for turn in range(REPEATS + 2):
        began = time.perf_counter()
        function(state)[1].numpy()
        if turn >= 2:
            times.append(time.perf_counter() - began)
    return 1e3 * statistics.median(times)


def main() -> None:
    """Measure and print."""
    catalogue = load_nbody_box().catalogue
    print("cells  particles per cell  field [ms]  parameters [ms]")
    for num_cells in (32, 64):
        for supersampling in (1, 2):
            posterior = PosteriorConfig(
                num_cells, MASS_THRESHOLD, supersampling=supersampling
            ).build(catalogue)
            white_noise = tf.random.stateless_normal([num_cells] * 3, [1, 2])
            theta = posterior.bias.theta
            field = compiled_gradient(posterior.given_parameters(theta))
            parameters = compiled_gradient(posterior.given_field(white_noise))
            print(
                f"{num_cells:3d}^3  {supersampling**3:18d}  "
                f"{median_milliseconds(field, white_noise):10.1f}  "
                f"{median_milliseconds(parameters, theta):15.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
