"""When a run was started, by which command, with which packages.

The chain file says what a run is; ``history.jsonl`` beside it says how it came to be: one line of
JSON for each start, the first and every later one that went on. A line that cannot be read, such as
the torn last one of a process that was killed, is passed over.
"""

from __future__ import annotations

import dataclasses
import datetime
import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path

__all__ = ["HISTORY_FILE", "Start", "package_versions", "read_starts", "record_start"]

HISTORY_FILE = "history.jsonl"

_PACKAGES = (
    "npe_tf", "tensorflow", "tensorflow-probability", "keras", "tf_keras", "numpy", "h5py",
    "absl-py", "matplotlib",
)  # fmt: skip
_MOST_BYTES = 1 << 20  # of a file that anybody may have written
_LONGEST = 10_000  # characters of a command


@dataclasses.dataclass(frozen=True)
class Start:
    """One start of a run.

    Attributes:
        time: in UTC, as ISO 8601.
        command: as it was typed; empty for a run that was started from Python.
        sweeps: that were there already.
        versions: of the packages, by name.
    """

    time: str
    command: str
    sweeps: int
    versions: Mapping[str, str]


def package_versions() -> dict[str, str]:
    """Versions of Python and of the packages that are installed, by name."""
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def record_start(folder: str | os.PathLike[str], sweeps: int, command: str | None = None) -> None:
    """Note that a run begins or goes on.

    Args:
        folder: of the run.
        sweeps: that are there already.
        command: as it was typed, if it was.

    Raises:
        OSError: if the folder cannot be written to.
    """
    now = datetime.datetime.now(datetime.timezone.utc)
    start = Start(now.isoformat(timespec="seconds"), command or "", sweeps, package_versions())
    line = json.dumps(dataclasses.asdict(start)).encode() + b"\n"
    with open(Path(folder) / HISTORY_FILE, "ab+") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":  # the line before was torn
                line = b"\n" + line
        file.write(line)


def read_starts(folder: str | os.PathLike[str]) -> list[Start]:
    """All starts of a run, the first one first; none if nothing was noted.

    Args:
        folder: of the run.
    """
    path = Path(folder) / HISTORY_FILE
    if not path.is_file():
        return []
    with open(path, "rb") as file:
        lines = file.read(_MOST_BYTES).split(b"\n")
    starts = (_start(line) for line in lines)
    return [start for start in starts if start is not None]


def _start(line: bytes) -> Start | None:
    """What a line says; nothing if it is not one of ours."""
    try:
        said = json.loads(line)
        versions = {str(name)[:100]: str(x)[:100] for name, x in said["versions"].items()}
        command = str(said["command"])[:_LONGEST]
        return Start(str(said["time"])[:40], command, int(said["sweeps"]), versions)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return None
