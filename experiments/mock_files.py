"""Files of mock catalogues: which are there already, which are to be made, and how long it takes.

A mock is told by its recipe, all that it depends on, which its file states. One that is there is
kept if its recipe is the same, and is in the way if it is not.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py

from experiments.options import ProgressLine
from experiments.plan import duration
from npe_tf.catalogue import Catalogue

__all__ = ["RECIPE", "Progress", "make_mocks", "missing", "mock_paths"]

RECIPE = "recipe"
"""Attribute of a file with its recipe, as JSON."""


def mock_paths(output: str, num_mocks: int | None) -> list[Path]:
    """Files of mocks.

    Args:
        output: the file of a single mock, or the folder of several.
        num_mocks: how many; `None` for a single file.
    """
    if num_mocks is None:
        return [Path(output)]
    return [Path(output) / f"mock_{number:04d}.h5" for number in range(1, num_mocks + 1)]


def missing(
    paths: list[Path], recipe: Callable[[int], Mapping[str, Any]], overwrite: bool
) -> list[int]:
    """Numbers of the mocks that are to be made, from 1.

    Args:
        paths: of all mocks.
        recipe: of a mock, by its number.
        overwrite: whether all are to be made, whatever is there.

    Raises:
        FileExistsError: if a file is in the way.
    """
    wanted = []
    for number, path in enumerate(paths, 1):
        if overwrite and not path.is_dir():
            wanted.append(number)
        elif path.exists():
            _require_same(path, recipe(number))
        else:
            wanted.append(number)
    return wanted


def _require_same(path: Path, recipe: Mapping[str, Any]) -> None:
    def refuse(why: str) -> FileExistsError:
        return FileExistsError(
            f"Refusing to overwrite {str(path)!r}, {why}. Choose another --output, or --overwrite"
        )

    if path.is_dir():
        raise FileExistsError(
            f"Refusing to write the file {str(path)!r}, which is a folder. For mocks in a folder "
            "say how many with --num_mocks"
        )
    try:
        Catalogue.read_hdf5(path)
        with h5py.File(path, "r") as file:
            stored = json.loads(file.attrs.get(RECIPE, "null"))
    except (OSError, ValueError) as error:
        raise refuse("which is no mock or is damaged") from error
    if not isinstance(stored, dict):
        raise refuse("which npe-simulate has not written")
    wanted = json.loads(json.dumps(recipe))
    different = [
        f"{name}: expected {wanted.get(name)!r}, received {stored.get(name)!r}"
        for name in sorted({*wanted, *stored})
        if wanted.get(name) != stored.get(name)
    ]
    if different:
        raise refuse(f"a mock made otherwise ({'; '.join(different)})")


class Progress:
    """Tells how far the work is, and how long it will still take."""

    def __init__(self, line: ProgressLine, total: int) -> None:
        """Begin with no mock done."""
        self._line, self._total = line, total
        self._first: tuple[float, float] | None = None
        self.done = 0

    def __call__(self, step: int = 0, num_steps: int = 1) -> None:
        """Say that so many steps of the mock at hand are done, or that a whole one is."""
        share = (self.done + step / num_steps) / self._total
        text = f"{self.done} of {self._total} mocks"
        if step:
            text = f"mock {self.done + 1} of {self._total}, step {step} of {num_steps}"
        now = time.monotonic()
        # functions are compiled before the first report, which says nothing of the others
        first_time, first_share = self._first = self._first or (now, share)
        if first_share < share < 1.0:
            left = (now - first_time) * (1.0 - share) / (share - first_share)
            text += f", {duration(left)} left"
        self._line(text, last=share == 1.0)


def make_mocks(
    paths: list[Path],
    numbers: list[int],
    recipe: Callable[[int], Mapping[str, Any]],
    make: Callable[[int, Callable[[int, int], None]], Any],
    line: ProgressLine,
) -> None:
    """Make mocks one after another and write each as it is done.

    Args:
        paths: of all mocks.
        numbers: of those to make, from 1.
        recipe: of a mock, by its number.
        make: from a number and a function that is told of steps to a `npe_tf.mocks.Mock`.
        line: where progress goes.
    """
    # a folder that cannot be made should show before the work
    for path in {path.parent for path in paths}:
        path.mkdir(parents=True, exist_ok=True)
    if len(numbers) < len(paths):
        line.say(f"{len(paths) - len(numbers)} of {len(paths)} mocks are there and kept")
    progress = Progress(line, max(1, len(numbers)))
    try:
        for number in numbers:
            mock = make(number, progress)
            mock.write(paths[number - 1], {RECIPE: json.dumps(recipe(number), sort_keys=True)})
            progress.done += 1
            progress()
            if len(paths) == 1:
                line.say(f"{mock.catalogue} in {paths[0]}")
    except KeyboardInterrupt:
        line.say(
            f"{progress.done} of {len(numbers)} mocks were written; the same command makes the rest"
        )
        raise
    if len(paths) > 1 and numbers:
        line.say(f"{len(paths)} mocks in {paths[0].parent}")
