"""What a run would do and take, found out before it begins."""

from __future__ import annotations

import math
import os
import resource
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from npe_tf.catalogue import Catalogue
from npe_tf.chain_store import CHAIN_FILE, ChainStore

if TYPE_CHECKING:
    from npe_tf.inference import JointSettings, Settings
    from npe_tf.posterior import FieldPosterior

_GRADIENTS = 5
# of the joint scheme, each as long as a gradient of all: the fits of the parameters and the
# curvature measured in the warm-up of a chain took 155 s where a gradient took 16 ms, at 32^3
_WARMUP_GRADIENTS = 10_000
# what the sampler's functions take once they are compiled, measured at 32^3
_COMPILED_BYTES = 0.7 * 2**30
# of a gradient and the moments, counted, not measured: white noise, momentum and their gradient,
# four moments, density, displacement and place of every particle, and what comes back along them
_LEAST_FIELDS = 20


def require_memory(num_cells: int, dtype: str) -> None:
    """Refuse a mesh that this machine cannot hold, before it tries and is killed.

    Args:
        num_cells: along each side.
        dtype: of the fields.

    Raises:
        ValueError: if the least that a chain takes is more than all memory there is.
    """
    needed = _LEAST_FIELDS * num_cells**3 * np.dtype(dtype).itemsize
    there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > there:
        raise ValueError(
            f"Invalid value for argument `grid`. Expected a mesh that fits into the "
            f"{there / 2**30:.3g} GiB of memory of this machine. Received: grid={num_cells}, of "
            f"which a chain takes {needed / 2**30:.3g} GiB or more"
        )


def plan(
    catalogue: Catalogue,
    posterior: FieldPosterior,
    settings: JointSettings | Settings,
    output: str,
    constants: Mapping[str, Any],
    num_processes: int,
) -> Iterator[str]:
    """Say what a run would do.

    Args:
        catalogue: all haloes that were read.
        posterior: of the run.
        settings: of the run.
        output: its folder, which is left alone.
        constants: arrays that it would store once.
        num_processes: among which its chains are dealt.

    Yields:
        Lines on haloes, mesh, memory, disk and time.
    """
    from npe_tf.inference import JointSettings, plan_storage

    yield from _haloes(catalogue, posterior)
    grid = posterior.grid
    yield (
        f"mesh: {grid.num_cells}^3 cells of {grid.cell_size:.3g} Mpc/h, "
        f"{grid.num_cells**3} numbers of the field and {posterior.bias.parameters.size} parameters "
        f"in each of {settings.num_chains} chains"
    )
    existing = Path(output) / CHAIN_FILE
    if existing.exists():
        with ChainStore.open(existing) as store:
            yield f"{existing} is there, with {store.num_committed} sweeps; the run would go on"
    yield plan_storage(posterior, settings, output, constants)
    seconds = _seconds_per_gradient(posterior)
    gradients = _gradients_per_sweep(settings)
    rounds = math.ceil(settings.num_chains / num_processes)
    sweeps = seconds * gradients * rounds * settings.num_sweeps
    fits = ""
    if isinstance(settings, JointSettings):
        long = _duration(seconds * _WARMUP_GRADIENTS * rounds)
        fits = f", and {long} more or less for the fits of the parameters in the warm-up"
    yield (
        f"memory: about {(_peak_bytes() + _COMPILED_BYTES) / 2**30:.2g} GiB for each of "
        f"{num_processes + (num_processes > 1)} processes"
    )
    cores = os.cpu_count() or 1
    yield (
        f"time: {1e3 * seconds:.3g} ms for a gradient, {gradients} gradients for a sweep of a "
        f"chain, {settings.num_sweeps} sweeps of {settings.num_chains} chains in {num_processes} "
        f"process{'es' if num_processes > 1 else ''} on {cores} core{'s' if cores > 1 else ''}: "
        f"about {_duration(sweeps)}{fits}"
    )
    yield "dry run: nothing was written; without --dry_run it starts"


def _haloes(catalogue: Catalogue, posterior: FieldPosterior) -> Iterator[str]:
    likelihood = posterior.likelihood
    below = int((catalogue.mass < likelihood.mass_threshold).sum())
    yield (
        f"haloes: {likelihood.num_haloes} of {len(catalogue)} used; {below} below the mass "
        f"threshold of {likelihood.mass_threshold:.3g} Msun/h, {likelihood.num_dropped} near the "
        f"faces ({likelihood.padding} padding)"
    )
    mean = likelihood.num_haloes / np.prod(likelihood.shape)
    yield f"haloes per cell: {mean:.3g} in the mean"


def _gradients_per_sweep(settings: JointSettings | Settings) -> int:
    """Of the field; those of the parameters alone are counted as if they cost as much."""
    from npe_tf.inference import JointSettings

    if isinstance(settings, JointSettings):
        return settings.gradients_per_sweep
    return settings.field_leapfrog_steps + settings.bias_steps * settings.bias_leapfrog_steps


def _seconds_per_gradient(posterior: FieldPosterior) -> float:
    """Median over a few gradients of the log posterior with respect to field and parameters."""
    import tensorflow as tf

    @tf.function  # type: ignore[untyped-decorator,unused-ignore]
    def gradient(white_noise: Any, theta: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch((white_noise, theta))
            log_prob = posterior.log_prob(white_noise, theta)
        return tape.gradient(log_prob, (white_noise, theta))

    dtype = tf.as_dtype(posterior.bias.dtype)
    white_noise = tf.random.stateless_normal(posterior.grid.shape, seed=[0, 1], dtype=dtype)
    theta = tf.identity(posterior.bias.theta)
    gradient(white_noise, theta)
    times = []
    for _ in range(_GRADIENTS):
        started = time.perf_counter()
        gradient(white_noise, theta)[0].numpy()
        times.append(time.perf_counter() - started)
    return float(np.median(times))


def _peak_bytes() -> int:
    """Most memory that this process has had."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
