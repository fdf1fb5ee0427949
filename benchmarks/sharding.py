"""Memory per device and time of the log posterior and its gradient with the mesh in slabs.

On four logical devices of one processor, in float32: the paper's network and first-order LPT on the
shipped box. Bytes are read off the graph (`npe_tf.sharded.memory`). Devices share the processor, so
that the time says what cutting costs, not what more devices gain.

Run from the root of the repository: ``python benchmarks/sharding.py``.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
import tensorflow as tf

from npe_tf.datasets import load_nbody_box
from npe_tf.posterior import PosteriorConfig
from npe_tf.sharded.memory import memory_by_device
from npe_tf.sharded.posterior import ShardedPosterior

MASS_THRESHOLD = 2e12
REPEATS = 5
MOST_DEVICES = 4


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num_cells", type=int, nargs="+", default=[16, 32])
    parser.add_argument("--ghost_planes", type=int, help="by default those of the posterior")
    arguments = parser.parse_args()
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0],
        [tf.config.LogicalDeviceConfiguration()] * MOST_DEVICES,
    )
    catalogue = load_nbody_box().catalogue
    print(
        "cells  devices  ghosts  peak [kB]  of one device's  received [kB]  written [kB]  time [ms]"
    )
    for num_cells in arguments.num_cells:
        white_noise = np.random.default_rng(1).standard_normal([num_cells] * 3)
        whole = None
        for count in (1, 2, 4):
            try:
                posterior = ShardedPosterior(
                    PosteriorConfig(num_cells, MASS_THRESHOLD),
                    catalogue,
                    [f"CPU:{i}" for i in range(count)],
                    ghost_planes=arguments.ghost_planes,
                )
            except ValueError as error:
                print(f"{num_cells:3d}^3  {count:7d}  {error}")
                continue
            slabs = posterior.slabs.scatter(white_noise, "float32")
            theta = posterior.bias.theta
            times = []
            for turn in range(REPEATS + 2):
                began = time.perf_counter()
                posterior.value_and_gradient(slabs, theta)[0].numpy()
                if turn >= 2:
                    times.append(time.perf_counter() - began)
            memory = memory_by_device(posterior.graph_function, posterior.slabs.devices)
            peak = max(device.peak for device in memory)
            whole = whole or peak
            print(
                f"{num_cells:3d}^3  {count:7d}  {posterior.gravity.ghost_planes:6d}  "
                f"{peak / 1e3:9.0f}  {peak / whole:15.3f}  "
                f"{max(device.received for device in memory) / 1e3:13.0f}  "
                f"{max(device.produced for device in memory) / 1e3:12.0f}  "
                f"{1e3 * statistics.median(times):9.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
