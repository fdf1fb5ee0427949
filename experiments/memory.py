"""Memory that a run will take, before anything is built, and memory that there is."""

from __future__ import annotations

import math
import os
import resource
from pathlib import Path

import numpy as np

__all__ = ["available_bytes", "predicted_bytes", "require_memory", "shortage"]

# What --dry_run measures with the shipped box: 1.6 GiB at 8^3 and 32^3, 1.7 GiB at 64^3. Most of it
# is TensorFlow and the compiled functions of a sampler; the rest is about so many arrays of the
# mesh, half of them of the particles.
_FIXED_BYTES = 1.6 * 2**30
_FIELDS, _PER_PARTICLE = 60, 60
# of a gradient and the moments, counted, not measured: white noise, momentum and their gradient,
# four moments, density, displacement and place of every particle, and what comes back along them
_LEAST_FIELDS = 20


def predicted_bytes(num_cells: int, supersampling: int = 1, dtype: str = "float32") -> float:
    """Memory of one process of a run.

    Args:
        num_cells: cells along each side of the mesh.
        supersampling: particles per cell along each side.
        dtype: precision of the fields.

    Returns:
        An estimate, good to a factor of about two.
    """
    size = np.dtype(dtype).itemsize * float(num_cells) ** 3
    return _FIXED_BYTES + size * (_FIELDS + _PER_PARTICLE * supersampling**3)


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


def shortage(
    num_cells: int,
    supersampling: int,
    dtype: str,
    num_processes: int,
    available: float | None = None,
) -> str | None:
    """Say that a run will not fit into memory, if so.

    Args:
        num_cells: as in `predicted_bytes`.
        supersampling: as in `predicted_bytes`.
        dtype: as in `predicted_bytes`.
        num_processes: among which the chains are dealt.
        available: memory that there is [bytes]; by default what `available_bytes` finds.

    Returns:
        A line with what would fit, or `None`.
    """
    limit = available_bytes() if available is None else available
    # the process that writes the file has a posterior of its own
    processes = num_processes + (num_processes > 1)
    each = predicted_bytes(num_cells, supersampling, dtype)
    if processes * each <= limit:
        return None
    advice = "a smaller --grid or --supersampling"
    if num_processes > 1 and each <= limit:
        advice = f"--num_processes={max(1, math.floor(limit / each) - 1)}"
    return (
        f"memory: about {processes * each / 2**30:.3g} GiB ({processes} processes of "
        f"{each / 2**30:.3g} GiB) of {limit / 2**30:.3g} GiB available: more than there is; it "
        f"would be killed. {advice} would fit"
        if each <= limit
        else f"memory: about {each / 2**30:.3g} GiB for one process, of {limit / 2**30:.3g} GiB "
        f"available: more than there is; it would be killed. Choose {advice}"
    )


def available_bytes(root: Path = Path("/")) -> float:
    """Memory that this process and its children may still take.

    Args:
        root: where ``proc`` and ``sys`` are.

    Returns:
        The least of what the machine has left, what the control group allows (as of a container or
        a batch job) and what the process' own limit allows; infinity where nothing is known.
    """
    found = [float("inf")]
    text = _text(root / "proc/meminfo")
    found += [
        1024.0 * float(line.split()[1])
        for line in text.splitlines()
        if line.startswith("MemAvailable:")
    ]
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        allowed, taken = (_text(root / "sys/fs/cgroup" / name).strip() for name in (limit, used))
        if allowed.isdecimal() and taken.isdecimal():
            found.append(float(allowed) - float(taken))
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft != resource.RLIM_INFINITY:
        pages = _text(root / "proc/self/statm").split()
        found.append(float(soft) - (int(pages[0]) * resource.getpagesize() if pages else 0))
    return max(0.0, min(found))


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, ValueError):
        return ""
