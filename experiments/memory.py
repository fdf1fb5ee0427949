"""Memory that a run will take, before anything is built, and memory that there is."""

from __future__ import annotations

import resource
from pathlib import Path

import numpy as np

__all__ = ["available_bytes", "predicted_bytes"]

# what TensorFlow and the compiled functions of a sampler take beside the fields, measured at 8^3
_FIXED_BYTES = 1.4 * 2**30
# arrays of the mesh that a gradient has at once, measured between 32^3 and 64^3
_FIELDS = 60
# those of the particles: positions, weights and cells of 27 neighbours
_PER_PARTICLE = 60


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
    return _FIXED_BYTES + size * (_FIELDS + _PER_PARTICLE * (supersampling**3 - 1))


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
