"""Halo mass function, time and memory of the boxes that npe-simulate makes.

The boxes are those of the seeds 1, 2 and so on. Masses count particles; bins hold whole numbers of
them.

Run from the root of the repository: ``python benchmarks/simulation.py 64 125 4``.
"""

from __future__ import annotations

import argparse
import resource
import time

import numpy as np

from npe_tf.halo_abundance import FITS, expected_haloes
from npe_tf.mocks import simulate_mock
from npe_tf.nbody import NBodyConfig

EDGES = (20, 40, 80, 160, 320, 640, 1280)


def main() -> None:
    """Simulate, count and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("side", type=int, nargs="?", default=64, help="particles along each side")
    parser.add_argument("box_size", type=float, nargs="?", default=125.0, help="[Mpc/h]")
    parser.add_argument("boxes", type=int, nargs="?", default=4)
    given = parser.parse_args()
    side, box_size, boxes = given.side, given.box_size, given.boxes
    config = NBodyConfig(side, box_size, side // 2)
    # between two numbers of particles, whatever the rounding of their mass
    edges = config.particle_mass * (np.array([*EDGES, np.inf]) - 0.5)
    counts = np.zeros(len(EDGES), dtype=np.int64)
    started = time.monotonic()
    for seed in range(1, boxes + 1):
        mock = simulate_mock(config, np.random.SeedSequence([seed, 1]))
        counts += np.histogram(mock.catalogue.mass, edges)[0]
    seconds = (time.monotonic() - started) / boxes
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{seconds:.0f} s for each of {boxes} boxes, {peak:.2f} GiB at most")
    volume = boxes * box_size**3
    expected = {
        fit: expected_haloes(edges, volume, config.cosmology, config.scale_factor, fit)
        for fit in FITS
    }
    print(f"| particles | from [Msun/h] | haloes | {' | '.join(FITS)} |")
    print("|---" * (3 + len(FITS)) + "|")
    for number, low in enumerate(EDGES):
        ratios = " | ".join(f"{counts[number] / expected[fit][number]:.2f}" for fit in FITS)
        mass = low * config.particle_mass
        print(f"| {low} | {mass:.3g} | {counts[number]} | {ratios} |")


if __name__ == "__main__":
    main()
